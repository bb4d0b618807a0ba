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

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)


def apply(preprocessing: Preprocessing, image: NDArray[np.float32]) -> torch.Tensor:
    """[h, w] or [h, w, 3] -> float32 [3, size, size]. Raises ValueError on NaN pixels, no pixels or another shape."""
    return normalise(preprocessing, pixels(preprocessing, image)[None])[0]


def pixels(preprocessing: Preprocessing, image: NDArray[np.float32]) -> torch.Tensor:
    """[h, w] or [h, w, 3] -> uint8 [3, size, size]: scaled to 0..1, resized with antialiasing, 256 levels."""
    array = np.asarray(image, dtype=np.float32)
    if array.ndim == 2:
        array = array[..., None]
    if array.ndim != 3 or array.shape[2] not in (1, 3):
        raise ValueError(f"An image has the shape {np.shape(image)}; [height, width] or [height, width, 3] is needed.")
    if array.size == 0:
        raise ValueError("An image has no pixels.")
    if not np.isfinite(array).all():
        raise ValueError("An image holds pixels that are NaN or infinite.")
    unit = torch.from_numpy(np.ascontiguousarray(_SCALES[preprocessing.scale](array, preprocessing).transpose(2, 0, 1)))
    size = (preprocessing.size, preprocessing.size)
    resized = functional.interpolate(unit[None], size=size, mode="bilinear", antialias=True, align_corners=False)[0]
    return (resized * 255).round_().clamp_(0, 255).to(torch.uint8).expand(3, -1, -1)


def resized(preprocessing: Preprocessing, mask: NDArray[np.integer]) -> torch.Tensor:
    """Classes [h, w] -> uint8 [size, size], each pixel's that of the nearest one of the mask."""
    size = (preprocessing.size, preprocessing.size)
    classes = torch.from_numpy(np.ascontiguousarray(mask, dtype=np.uint8))
    return functional.interpolate(classes[None, None], size=size, mode="nearest-exact")[0, 0]


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
        room = min(len(examples), limit // (3 * preprocessing.size**2))
        self._cache = torch.empty((room, 3, preprocessing.size, preprocessing.size), dtype=torch.uint8)
        for i in range(room):
            self._cache[i] = pixels(preprocessing, examples.image(i))
            if progress is not None:
                progress(what, i + 1, room)

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, indices: Sequence[int] | torch.Tensor) -> torch.Tensor:
        """uint8 [len(indices), 3, size, size]."""
        rows = torch.as_tensor(indices)
        if not len(rows) or int(rows.max()) < len(self._cache):
            return self._cache[rows.long()]
        return torch.stack([self._one(i) for i in rows.tolist()])

    def _one(self, i: int) -> torch.Tensor:
        return self._cache[i] if i < len(self._cache) else pixels(self.preprocessing, self.examples.image(i))
