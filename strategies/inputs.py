"""What a training reads: views of images, or what a frozen prefix of the network makes of them, computed once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import nn

from strategies.preprocessing import Pixels, normalise
from strategies.protocols import Progress

Views = Callable[[torch.Tensor, torch.Generator], torch.Tensor]  # uint8 [b, 3, s, s] -> float32, 0..255


class Inputs(Protocol):
    """Cases as the trained module takes them; rows are indices of cases."""

    def __len__(self) -> int: ...

    def drawn(self, rows: Sequence[int], generator: torch.Generator) -> torch.Tensor:
        """A random view of each case, float32 [b, ...]."""
        ...

    def plain(self, rows: Sequence[int]) -> torch.Tensor:
        """Each case as it is served, float32 [b, ...]."""
        ...


class Images:
    """Normalised images [b, 3, s, s] under random `views`."""

    def __init__(self, pixels: Pixels, views: Views) -> None:
        self.pixels, self.views = pixels, views

    def __len__(self) -> int:
        return len(self.pixels)

    def drawn(self, rows: Sequence[int], generator: torch.Generator) -> torch.Tensor:
        return normalise(self.pixels.preprocessing, self.views(self.pixels[rows], generator))

    def plain(self, rows: Sequence[int]) -> torch.Tensor:
        return normalise(self.pixels.preprocessing, self.pixels[rows])


class Latents:
    """What `prefix` makes of each image and of its mirror image: every other view drawn is mirrored.

    Two views can be kept whole, so a training on them is the training on images, at the cost of the suffix alone. Kept
    while they fit in `limit` bytes, computed each time beyond that; `prefix` must not change meanwhile.
    """

    def __init__(
        self,
        prefix: nn.Module,
        pixels: Pixels,
        *,
        mirrored: bool,
        limit: int = 2**31,
        batch: int = 64,
        progress: Progress | None = None,
    ) -> None:
        self.prefix, self.pixels = prefix.eval(), pixels
        self._kept: list[torch.Tensor] = []
        if not len(pixels):
            return
        room = min(len(pixels), limit // (self._run([0], 0).nbytes * (1 + mirrored)))
        for view in range(1 + mirrored):
            parts = []
            for start in range(0, room, batch):
                parts.append(self._run(range(start, min(start + batch, room)), view))
                if progress is not None:
                    progress("frozen part computed", view * room + start + len(parts[-1]), room * (1 + mirrored))
            self._kept.append(torch.cat(parts) if parts else torch.empty(0))

    def __len__(self) -> int:
        return len(self.pixels)

    def drawn(self, rows: Sequence[int], generator: torch.Generator) -> torch.Tensor:
        mirrored = (torch.rand(len(rows), generator=generator) < 0.5).tolist()
        return torch.stack([self._one(int(row), int(view)) for row, view in zip(rows, mirrored, strict=True)])

    def plain(self, rows: Sequence[int]) -> torch.Tensor:
        return torch.stack([self._one(int(row), 0) for row in rows])

    def _one(self, row: int, view: int) -> torch.Tensor:
        return self._kept[view][row] if row < len(self._kept[view]) else self._run([row], view)[0]

    @torch.no_grad()
    def _run(self, rows: Sequence[int], view: int) -> torch.Tensor:
        images = self.pixels[rows]
        batch = normalise(self.pixels.preprocessing, images.flip(3) if view else images)
        return self.prefix(batch.contiguous(memory_format=torch.channels_last)).contiguous()
