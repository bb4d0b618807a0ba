"""What a training reads: views of images, or what a frozen prefix of the network makes of them, computed once."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import torch
from torch import nn

from strategies import boxes
from strategies.kept import coding_for, digest_of, rows_on_disk
from strategies.preprocessing import Pixels, normalise, to_record
from strategies.protocols import Progress
from strategies.slices import Views, alike, fewer  # of views: uint8 [b, 3, s, s] -> float32, 0..255

Rows = Sequence[int] | torch.Tensor
DENSE_BATCH = 16  # of cases whose features are maps


class Inputs(Protocol):
    """Cases as the trained module takes them; rows are indices of cases."""

    def __len__(self) -> int: ...

    @property
    def slices(self) -> int:
        """How many a case is."""
        ...

    def drawn(self, rows: Rows, generator: torch.Generator) -> torch.Tensor:
        """A random view of each case, float32 [b, ...]."""
        ...

    def plain(self, rows: Rows) -> torch.Tensor:
        """Each case as it is served, float32 [b, ...]."""
        ...


@runtime_checkable
class Targeted(Inputs, Protocol):
    """Inputs whose cases have masks or boxes, which move with the view that is drawn."""

    def drawn_with_target(self, rows: Rows, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        """What `drawn` gives, and the truth of just these views: masks, uint8 [b, s, s], or boxes, [b, m, 5]."""
        ...


class Images:
    """Normalised images [b, 3, s, s] under random `views`."""

    def __init__(self, pixels: Pixels, views: Views) -> None:
        self.pixels, self.views = pixels, alike(views)

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def slices(self) -> int:
        return self.pixels.preprocessing.slices

    def drawn(self, rows: Rows, generator: torch.Generator) -> torch.Tensor:
        return normalise(self.pixels.preprocessing, self.views(self.pixels[rows], generator))

    def plain(self, rows: Rows) -> torch.Tensor:
        return normalise(self.pixels.preprocessing, self.pixels[rows])


class MaskedImages(Images):
    """Images beside their `masks`, uint8 [n, s, s]: a view is of four channels, and the fourth is the mask."""

    def __init__(self, pixels: Pixels, views: Views, masks: torch.Tensor) -> None:
        super().__init__(pixels, views)
        self.masks = masks

    def drawn(self, rows: Rows, generator: torch.Generator) -> torch.Tensor:
        return self.drawn_with_target(rows, generator)[0]

    def drawn_with_target(self, rows: Rows, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        masks = self.masks[torch.as_tensor(rows).long()]
        moved = self.views(torch.cat([self.pixels[rows], masks[:, None]], dim=1), generator)
        return normalise(self.pixels.preprocessing, moved[:, :3]), moved[:, 3].to(torch.uint8)


class BoxedImages(Images):
    """Images beside their true `boxes`, [n, m, 5]. Two more channels tell where a view has the image's corners, so it
    may be any that `MaskedImages` takes."""

    def __init__(self, pixels: Pixels, views: Views, true: torch.Tensor) -> None:
        super().__init__(pixels, views)
        self.boxes = true

    def drawn(self, rows: Rows, generator: torch.Generator) -> torch.Tensor:
        return self.drawn_with_target(rows, generator)[0]

    def drawn_with_target(self, rows: Rows, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        images = self.pixels[rows]
        last = images.shape[-1] - 1
        right = (torch.arange(last + 1) == last).to(torch.uint8).expand(len(images), 1, last + 1, -1)
        moved = self.views(torch.cat([images, right, right.transpose(2, 3)], dim=1), generator)
        x, y = (moved[:, channel, ::last, ::last].float() for channel in (3, 4))
        true = boxes.turned(self.boxes[torch.as_tensor(rows).long()], x, y)
        return normalise(self.pixels.preprocessing, moved[:, :3]), true


class Latents:
    """What `prefix` makes of each image and of its mirror image: every other view drawn is mirrored.

    Two views can be kept whole, so a training on them is the training on images, at the cost of the suffix alone. They
    lie in a file of `folder` (see `strategies/kept.py`), named by the digest of the prefix, the preprocessing and the
    images, as finely as PER_CASE bytes allow; what would not fit in `limit` bytes is computed each time. The file holds
    what patients' images can be guessed from: who gives the folder deletes it. `prefix` must not change meanwhile.
    """

    def __init__(
        self,
        prefix: nn.Module,
        pixels: Pixels,
        *,
        folder: Path,
        mirrored: bool,
        limit: int = 2**31,
        batch: int = 64,
        progress: Progress | None = None,
    ) -> None:
        self.prefix, self.pixels, self.views = prefix.eval(), pixels, 1 + mirrored
        self.room, self.case_bytes = 0, 0
        if not len(pixels):
            return
        first = self._run([0], torch.tensor([False]))
        self.shape = first.shape[1:]
        self.coding, batch = coding_for(self.shape, self.views), fewer(batch, self.slices)
        width = self.coding.width(self.shape)
        self.case_bytes = self.views * width
        self.room = min(len(pixels), limit // self.case_bytes)
        if self.room:
            shape = (self.room * self.views, width)
            self._kept = rows_on_disk(folder, self._key(batch), shape, self._computed(batch, progress), limit)

    def __len__(self) -> int:
        return len(self.pixels)

    @property
    def slices(self) -> int:
        return self.pixels.preprocessing.slices

    def drawn(self, rows: Rows, generator: torch.Generator) -> torch.Tensor:
        if self.views == 1:
            return self.plain(rows)
        return self._fetch(torch.as_tensor(rows), self._mirrored(rows, generator))

    def plain(self, rows: Rows) -> torch.Tensor:
        return self._fetch(torch.as_tensor(rows), torch.zeros(len(rows), dtype=torch.bool))

    def _mirrored(self, rows: Rows, generator: torch.Generator) -> torch.Tensor:
        return torch.rand(len(rows), generator=generator) < 0.5

    def _fetch(self, rows: torch.Tensor, mirrored: torch.Tensor) -> torch.Tensor:
        inside = rows < self.room
        if not bool(inside.any()):
            return self._run(rows, mirrored)
        places = rows * self.views + mirrored
        if bool(inside.all()):
            return self._decoded(places)
        found = torch.empty((len(rows), *self.shape))
        found[inside] = self._decoded(places[inside])
        found[~inside] = self._run(rows[~inside], mirrored[~inside])
        return found

    def _decoded(self, places: torch.Tensor) -> torch.Tensor:
        return self.coding.decode(self._kept[places], self.shape)

    def _computed(self, batch: int, progress: Progress | None) -> Iterator[torch.Tensor]:
        """Coded rows, the views of a case one after the other."""
        for start in range(0, self.room, batch):
            rows = range(start, min(start + batch, self.room))
            views = [self._run(rows, torch.full((len(rows),), bool(view))) for view in range(self.views)]
            yield self.coding.encode(torch.stack(views, dim=1).flatten(0, 1))
            if progress is not None:
                progress("frozen part computed", rows[-1] + 1, self.room)

    def _key(self, batch: int) -> str:
        said = json.dumps([digest_of(self.prefix), to_record(self.pixels.preprocessing), self.views, self.coding.name])
        digest = hashlib.sha256(said.encode())
        for start in range(0, self.room, batch):
            digest.update(self.pixels[range(start, min(start + batch, self.room))].contiguous().numpy().data)
        return digest.hexdigest()

    @torch.no_grad()
    def _run(self, rows: Rows, mirrored: torch.Tensor) -> torch.Tensor:
        images = self.pixels[rows]
        seen = torch.where(mirrored.view(-1, 1, 1, 1), images.flip(3), images)
        batch = normalise(self.pixels.preprocessing, seen)
        return self.prefix(batch.contiguous(memory_format=torch.channels_last)).contiguous()


class TargetedLatents(Latents):
    """Latents of both views beside the truth of their images, one row each; `mirror` gives that of mirror images."""

    def __init__(
        self,
        prefix: nn.Module,
        pixels: Pixels,
        target: torch.Tensor,
        mirror: Callable[[torch.Tensor], torch.Tensor],
        *,
        folder: Path,
        progress: Progress | None = None,
    ) -> None:
        super().__init__(prefix, pixels, folder=folder, mirrored=True, batch=DENSE_BATCH, progress=progress)
        self.target, self.mirror = target, mirror

    def drawn_with_target(self, rows: Rows, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
        which, mirrored = torch.as_tensor(rows).long(), self._mirrored(rows, generator)
        target = self.target[which]
        return self._fetch(which, mirrored), torch.where(mirrored.view(-1, 1, 1), self.mirror(target), target)


def mirrored_masks(masks: torch.Tensor) -> torch.Tensor:
    """uint8 [b, s, s] -> the same, of the mirror images."""
    return masks.flip(2)
