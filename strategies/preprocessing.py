"""From a read image to the network's input, and a bounded cache of the first half of that way for training.

The way has two halves: `pixels` (scale, resize, quantise to 8 bits) and `normalise` (mean and deviation). Serving and
training take both in the same order, so a cached image is bit for bit the image that is served.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from strategies.protocols import Examples, Preprocessing, Progress
from strategies.slices import evenly, stacked

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
MOST_SLICES = 256  # of a case, all of which are computed at once


def apply(preprocessing: Preprocessing, image: NDArray[np.float32]) -> torch.Tensor:
    """An image, as `pixels` takes it -> float32 [3, slices size, size]. Raises ValueError as that does."""
    return normalise(preprocessing, pixels(preprocessing, image)[None])[0]


def pixels(preprocessing: Preprocessing, image: NDArray[np.float32]) -> torch.Tensor:
    """[h, w] or [h, w, 3] -> uint8 [3, size, size]: scaled to 0..1, resized with antialiasing, 256 levels.

    Where a case is several slices, a volume [d, h, w] or [d, h, w, 3] too, and [3, slices size, size] of it: the middle
    slices of so many equal parts, on one scale. Raises ValueError on NaN pixels, no pixels or another shape.
    """
    array, several = np.asarray(image, dtype=np.float32), preprocessing.slices > 1
    if array.ndim == 2 or (several and array.ndim == 3 and array.shape[2] not in (1, 3)):
        array = array[..., None]
    if array.ndim == 3:
        array = array[None]
    if array.ndim != 4 or array.shape[3] not in (1, 3) or (len(array) != 1 and not several):
        raise ValueError(f"An image has the shape {np.shape(image)}; [height, width] or [height, width, 3] is needed.")
    if array.size == 0:
        raise ValueError("An image has no pixels.")
    if not np.isfinite(array).all():
        raise ValueError("An image holds pixels that are NaN or infinite.")
    n = preprocessing.slices
    scaled = _SCALES[preprocessing.scale](array, preprocessing)
    unit = evenly(torch.from_numpy(np.ascontiguousarray(scaled.transpose(0, 3, 1, 2))), n)
    size = (preprocessing.size, preprocessing.size)
    resized = functional.interpolate(unit, size=size, mode="bilinear", antialias=True, align_corners=False)
    levels = (resized * 255).round_().clamp_(0, 255).to(torch.uint8)
    return stacked(levels, n)[0].expand(3, -1, -1)


def resized(preprocessing: Preprocessing, mask: NDArray[np.integer]) -> torch.Tensor:
    """Classes [h, w], or of a volume [d, h, w] -> uint8 [slices size, size], each pixel's that of the nearest one."""
    size = (preprocessing.size, preprocessing.size)
    classes = torch.from_numpy(np.ascontiguousarray(mask, dtype=np.uint8))
    slices = evenly(classes.reshape(-1, 1, *classes.shape[-2:]), preprocessing.slices)
    return functional.interpolate(slices, size=size, mode="nearest-exact").flatten(0, 2)


def normalise(preprocessing: Preprocessing, batch: torch.Tensor) -> torch.Tensor:
    """uint8 or float (0..255) [b, 3, h, w] -> float32 [b, 3, h, w] with the preprocessing's mean and deviation."""
    mean = torch.tensor(preprocessing.mean).view(1, 3, 1, 1)
    std = torch.tensor(preprocessing.std).view(1, 3, 1, 1)
    return (batch.float() / 255 - mean) / std


def _uint8(array: NDArray[np.float32], _: Preprocessing) -> NDArray[np.float32]:
    return np.clip(array / 255, 0, 1)


def _minmax(array: NDArray[np.float32], preprocessing: Preprocessing) -> NDArray[np.float32]:
    low, high = np.percentile(array, preprocessing.clip)
    return np.clip((array - low) / max(high - low, np.finfo(np.float32).tiny), 0, 1).astype(np.float32)


_SCALES: dict[str, Callable[[NDArray[np.float32], Preprocessing], NDArray[np.float32]]] = {
    "uint8": _uint8,
    "minmax": _minmax,
}


def to_record(preprocessing: Preprocessing) -> dict[str, Any]:
    """A JSON object of the preprocessing; `from_record` reads it back."""
    return asdict(preprocessing)


def from_record(record: dict[str, Any]) -> Preprocessing:
    """Raises ValueError where a field is missing, unknown or of no use."""
    fields: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in record.items()}
    try:
        made = Preprocessing(**fields)
    except TypeError as error:
        raise ValueError(f"The preprocessing record is not one of ours: {error}.") from error
    if not (
        isinstance(made.size, int) and made.size > 0 and len(made.mean) == len(made.std) == 3 and min(made.std) > 0
    ):
        raise ValueError("The preprocessing needs a size above 0, and a mean and a deviation above 0 per channel.")
    if not isinstance(made.slices, int) or not 1 <= made.slices <= MOST_SLICES:
        raise ValueError(f"The preprocessing's slices are {made.slices!r}; 1 to {MOST_SLICES} can be.")
    if made.scale not in _SCALES:
        raise ValueError(f"The preprocessing's scale is {made.scale!r}; known are {', '.join(_SCALES)}.")
    return made


class Pixels:
    """The examples' images after `pixels`, kept while they fit in `limit` bytes, and read each time beyond that."""

    def __init__(
        self,
        examples: Examples,
        preprocessing: Preprocessing,
        *,
        limit: int = 2**30,
        progress: Progress | None = None,
        what: str = "images read",
    ) -> None:
        self.examples = examples
        self.preprocessing = preprocessing
        height, width = preprocessing.slices * preprocessing.size, preprocessing.size
        room = min(len(examples), limit // (3 * height * width))
        self._cache = torch.empty((room, 3, height, width), dtype=torch.uint8)
        for i in range(room):
            self._cache[i] = pixels(preprocessing, examples.image(i))
            if progress is not None:
                progress(what, i + 1, room)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, indices: Sequence[int] | torch.Tensor) -> torch.Tensor:
        """uint8 [len(indices), 3, slices size, size]."""
        rows = torch.as_tensor(indices)
        if not len(rows) or int(rows.max()) < len(self._cache):
            return self._cache[rows.long()]
        return torch.stack([self._one(i) for i in rows.tolist()])

    def _one(self, i: int) -> torch.Tensor:
        return self._cache[i] if i < len(self._cache) else pixels(self.preprocessing, self.examples.image(i))
