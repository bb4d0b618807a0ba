"""A case of several slices, as a network sees it: one tall picture, [b, c, n h, w], its slices one below the other.

So a case stays one row wherever cases are counted, drawn, remembered and judged, and a volume weighs as much as an
image. What reads pictures reads each slice by itself (`Encoder`), and what comes of them is `together`: the mean of
pooled features, so that a head sees what all slices say and is taught the label of the case alone, which those of its
slices that don't show the finding would contradict; and tall maps, so that pixels are counted over the whole case.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn

Views = Callable[[torch.Tensor, torch.Generator], torch.Tensor]
FEWEST = 4  # cases of a training's batch, however many slices they are: new and remembered ones stand side by side


def slices_in(pictures: torch.Tensor) -> int:
    """n of [b, c, n s, s]: a slice is as high as it is wide."""
    return max(1, pictures.shape[-2] // pictures.shape[-1])


def evenly(volume: torch.Tensor, n: int) -> torch.Tensor:
    """[d, ...] -> [n, ...]: the middle ones of n equal parts; of fewer than n some more than once."""
    return volume[[(2 * part + 1) * len(volume) // (2 * n) for part in range(n)]]


def apart(tall: torch.Tensor, n: int) -> torch.Tensor:
    """[b, c, n h, w] -> [b n, c, h, w]."""
    return tall if n == 1 else tall.unflatten(2, (n, -1)).transpose(1, 2).flatten(0, 1)


def stacked(maps: torch.Tensor, n: int) -> torch.Tensor:
    """[b n, c, h, w] -> [b, c, n h, w]."""
    return maps if n == 1 else maps.unflatten(0, (-1, n)).transpose(1, 2).flatten(2, 3)


class Volume(nn.Module):
    """A network of volumes, [b, c, n, h, w] -> [b, d, n, h, w], on cases as they are kept: tall in, tall out."""

    def __init__(self, network: Callable[[torch.Tensor], torch.Tensor]) -> None:
        super().__init__()
        self.network = network

    def forward(self, tall: torch.Tensor) -> torch.Tensor:
        return self.network(tall.unflatten(2, (slices_in(tall), -1)).contiguous()).flatten(2, 3)


def together(made: torch.Tensor, n: int) -> torch.Tensor:
    """What an encoder made of n slices of each case: pooled features [b n, d] -> their mean [b, d], maps `stacked`."""
    if n == 1:
        return made
    return stacked(made, n) if made.ndim == 4 else made.unflatten(0, (-1, n)).mean(dim=1)


def fewer(cases: int, n: int, least: int = 1) -> int:
    """How many cases of n slices each are computed at once, where `cases` images are."""
    return max(least, cases // n)


def alike(views: Views) -> Views:
    """The same view of every slice of a case: a volume is turned, and lit, as a whole."""

    def of_tall(tall: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
        n = slices_in(tall)
        if n == 1:
            return views(tall, generator)
        seen, drawn = [], generator.get_state()
        for slice_ in tall.chunk(n, dim=2):
            generator.set_state(drawn)
            seen.append(views(slice_, generator))
        return torch.cat(seen, dim=2)

    return of_tall


class Prefix(nn.Sequential):
    """The first blocks of an encoder, on each slice: [b, 3, n s, s] -> [b, c, n h, w] or [b, n t, d]."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        n = slices_in(pictures)
        made = super().forward(apart(pictures, n))
        return stacked(made, n) if made.ndim == 4 else made.unflatten(0, (-1, n)).flatten(1, 2)


class Whole(nn.Sequential):
    """All blocks of an encoder, and what comes of the slices: see `together`."""

    def forward(self, pictures: torch.Tensor) -> torch.Tensor:
        n = slices_in(pictures)
        return together(super().forward(apart(pictures, n)), n)


class Suffix(nn.Sequential):
    """The blocks behind a `Prefix` of n slices, and what comes of them."""

    def __init__(self, n: int, *blocks: nn.Module) -> None:
        super().__init__(*blocks)
        self.n = n

    def forward(self, made: torch.Tensor) -> torch.Tensor:
        n = self.n
        each = apart(made, n) if made.ndim == 4 else made.unflatten(1, (n, -1)).flatten(0, 1)
        return together(super().forward(each), n)
