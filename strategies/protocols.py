"""The records and plug points of `strategies`: what a model family is, what is learnt from, what a recipe is made of.

Tensors and modules in, a candidate folder out: nothing here knows of the store, the clock or the plan.
Legend: b batch, c channels, h and w pixels, d features, k classes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from torch import nn

Progress = Callable[[str, int, int], None]  # (what, done, of)


class Examples(Protocol):
    """Cases to learn from or to predict, read lazily. `agent` implements it over its files.

    image(i) gives float32 [h, w] or [h, w, 3] as the reader made it (8-bit files 0..255); label is -1 where unknown;
    domain and patient are plain strings, patient already a pseudonym.
    """

    label: NDArray[np.integer]
    patient: NDArray[np.str_]
    domain: NDArray[np.str_]

    def __len__(self) -> int: ...

    def image(self, i: int) -> NDArray[np.float32]: ...


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """From a read image to the network's input; part of every version and of its digest.

    Intensities are scaled to 0..1 (by `scale`: "uint8" divides by 255, "minmax" by the image's own range after a clip to
    its `clip` percentiles), resized to `size` x `size` with antialiased bilinear interpolation, rounded to 256 levels,
    repeated to three channels where there is one, then (x - mean) / std per channel.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    scale: str = "uint8"
    clip: tuple[float, float] = (0.5, 99.5)

    def __call__(self, image: NDArray[np.float32]) -> torch.Tensor:
        """[h, w] or [h, w, 3] -> float32 [3, size, size]. Raises ValueError on NaN pixels or no pixels."""
        from strategies.preprocessing import apply

        return apply(self, image)


@runtime_checkable
class Family(Protocol):
    """One kind of architecture and the form its ecosystem saves it in.

    `load` reads a local folder (or a hub id, where the machine may), never runs pickled code, and returns the backbone:
    an nn.Module whose `forward` maps [b, 3, h, w] to pooled features [b, d].
    """

    name: str

    def claims(self, spec: str) -> bool:
        """Whether `spec` (a folder, a weights file or a name) is of this family."""
        ...

    def load(self, spec: str, *, pretrained: bool = True) -> Backbone: ...

    def head(self, spec: str) -> nn.Module:
        """The classification head that came with `spec`: [b, d] -> logits [b, k]. Raises ValueError where there is none."""
        ...


class Backbone(Protocol):
    """A loaded encoder, framework details hidden."""

    module: nn.Module
    width: int  # d
    preprocessing: Preprocessing

    def split(self, cut: int) -> tuple[nn.Module, nn.Module]:
        """(prefix, suffix) with suffix(prefix(x)) == module(x); the prefix holds the first `cut` blocks."""
        ...

    def adaptable(self) -> list[str]:
        """Names of the linear and pointwise layers that low-rank adapters may touch."""
        ...

    def save(self, folder: Path) -> None:
        """Writes weights (safetensors), architecture and preprocessing in the ecosystem's own form."""
        ...


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One choice per mechanism of adaptation; None where the mechanism is not used.

    parameter: which weights move; representation: how features or scores are aligned without weights; objective: the
    loss; data: what is rehearsed and how; architecture: what is added beside the network.
    """

    parameter: Any = None
    representation: Any = None
    objective: Any = None
    data: Any = None
    architecture: Any = None
    epochs: int = 0


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """A named list of stages, run in turn on one model. `risk` orders recipes: cheapest and most reversible first."""

    name: str
    stages: Sequence[Stage]
    risk: int


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """What a recipe made: a folder of parts in portable formats, and how it was made.

    parts maps a kind ("adapter", "head", "weights", "recalibrator", "thresholds", "preprocessing", "golden") to a path
    below `folder`.
    """

    folder: Path
    recipe: str
    parts: Mapping[str, str]
    made: Mapping[str, Any] = field(default_factory=dict)  # seed, epochs, seconds, trainable parameters, losses
