"""The records and plug points of `strategies`: what a model family is, what is learnt from, what a recipe is made of.

Tensors and modules in, a candidate folder out: nothing here knows of the store, the clock or the plan.
Legend: b batch, c channels, h and w pixels, d features, k classes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch
    from torch import nn

    from strategies.inputs import Inputs, Views
    from strategies.model import Classifier

Progress = Callable[[str, int, int], None]  # (what, done, of)

EVERY_TASK = ("classification", "multilabel", "segmentation", "detection")  # what a mechanism serves that serves all


class Examples(Protocol):
    """Cases to learn from or to predict, read lazily. `agent` implements it over its files.

    image(i) gives float32 [h, w] or [h, w, 3] as the reader made it (8-bit files 0..255), where a case is n slices
    [n, h, w] or [n, h, w, 3]; label is -1 where unknown, and of findings that don't exclude each other a set of them
    (`strategies/findings.py`); domain and patient are plain strings, patient already a pseudonym.
    """

    @property
    def label(self) -> NDArray[np.integer]: ...

    @property
    def patient(self) -> NDArray[np.str_]: ...

    @property
    def domain(self) -> NDArray[np.str_]: ...

    def __len__(self) -> int: ...

    def image(self, i: int) -> NDArray[np.float32]: ...


class Masked(Examples, Protocol):
    """Examples of a segmentation: mask(i) gives the class of each pixel, uint8 [h, w] of the image's own size, of n
    slices [n, h, w], 0 the background. Their label is 0 where there is a mask and -1 where there is none."""

    def mask(self, i: int) -> NDArray[np.uint8]: ...


class Boxed(Examples, Protocol):
    """Examples of a detection: boxes(i) gives class and corners x0, y0, x1, y1 of each true box in pixels of the image,
    float32 [t, 5]; none where there is nothing to find. Their label is 0 where that is known and -1 where it isn't."""

    def boxes(self, i: int) -> NDArray[np.float32]: ...


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    """From a read image to the network's input; part of every version and of its digest.

    Intensities are scaled to 0..1 (by `scale`: "uint8" divides by 255, "minmax" by the image's own range after a clip
    to its `clip` percentiles), resized to `size` x `size` with antialiased bilinear interpolation, rounded to 256
    levels, repeated to three channels where there is one, then (x - mean) / std per channel. A case is so many
    `slices`, one below the other: of a volume evenly spaced ones.
    """

    size: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    scale: str = "uint8"
    clip: tuple[float, float] = (0.5, 99.5)
    slices: int = 1

    def __call__(self, image: NDArray[np.float32]) -> torch.Tensor:
        """[h, w] or [h, w, 3] -> float32 [3, slices size, size]. Raises ValueError on NaN pixels or no pixels."""
        from strategies.preprocessing import apply

        return apply(self, image)


@runtime_checkable
class Family(Protocol):
    """One kind of architecture and the form its ecosystem saves it in.

    `load` reads a local folder (or a hub id, where the machine may), never runs pickled code, and returns the backbone:
    an nn.Module whose `forward` maps [b, 3, h, w] to pooled features [b, d], or to dense ones [b, d, h, w].
    """

    name: str

    def claims(self, spec: str) -> bool:
        """Whether `spec` (a folder, a weights file or a name) is of this family."""
        ...

    def load(self, spec: str, *, pretrained: bool = True) -> Backbone: ...

    def head(self, spec: str) -> nn.Module:
        """The head that came with `spec`: features -> logits [b, k, ...]. Raises ValueError where there is none."""
        ...


@runtime_checkable
class Describing(Protocol):
    """A family whose folders say themselves what they answer, and so can be deployed as they are."""

    def describes(self, spec: str) -> tuple[str, tuple[str, ...]]:
        """(task, classes in the order of the outputs). Raises ValueError where `spec` does not say."""
        ...


class Backbone(Protocol):
    """A loaded encoder, framework details hidden."""

    @property
    def module(self) -> nn.Module: ...

    @property
    def width(self) -> int:
        """d, the number of features, of an image or, dense, of each place of it."""
        ...

    @property
    def stride(self) -> int | None:
        """Pixels of the image, on a side, that each place of dense features stands for; None where they are pooled."""
        ...

    @property
    def decoder(self) -> int:
        """How many of the last blocks are a decoder behind an encoder; 0 where the two are not apart."""
        ...

    @property
    def sealed(self) -> bool:
        """Whether it is a black box, of which no weight can move: it is watched and recalibrated, and not adapted."""
        ...

    @property
    def detector(self) -> Callable[[int], nn.Module] | None:
        """Of a network that was built to find things: a fresh head of its kind for so many classes. Else None."""
        ...

    @property
    def sensor(self) -> nn.Module:
        """What monitors see by: [b, 3, h, w] -> pooled features of the image; `module` itself where they are pooled."""
        ...

    @property
    def preprocessing(self) -> Preprocessing: ...

    def fed(self, preprocessing: Preprocessing) -> Backbone:
        """The same encoder behind another preprocessing."""
        ...

    def split(self, cut: int) -> tuple[nn.Sequential, nn.Sequential]:
        """(prefix, suffix) with suffix(prefix(x)) == module(x); the prefix holds the first `cut` blocks."""
        ...

    @property
    def depth(self) -> int:
        """The number of blocks that `split` counts."""
        ...

    def adaptable(self, cut: int = 0) -> list[str]:
        """Names of the layers after `cut` blocks that low-rank adapters may touch: linear and pointwise ones, and, in a
        network that was built for dense features, every convolution of one group."""
        ...

    def after(self, cut: int) -> list[tuple[str, nn.Module]]:
        """The network's own modules after `cut` blocks, with their names within `module`."""
        ...

    def save(self, folder: Path) -> None:
        """Writes weights (safetensors), architecture and preprocessing in the ecosystem's own form."""
        ...


@runtime_checkable
class ParameterMechanism(Protocol):
    """Which weights move, and the files that keep them.

    `continues` says what it starts from: the live version, or the base. `whole`: its files hold encoder and head
    entire; otherwise the files of the live version that it continues are carried along.
    `frozen` is the share of the encoder's blocks, from the image on, that it never moves: they are computed once.
    """

    name: str
    continues: bool
    whole: bool
    frozen: float
    learning_rate: float

    def attach(self, model: Classifier) -> list[nn.Parameter]:
        """Readies the classifier in place; returns the weights that move. Before training it answers as ever."""
        ...

    def training(self, model: nn.Module) -> None:
        """Puts the modules into the state they are trained in (which batch norms keep their statistics)."""
        ...

    def write(self, model: Classifier, folder: Path) -> dict[str, str]:
        """Writes what moved into `folder`; answers with the parts, kind to file name."""
        ...


@runtime_checkable
class Tasked(Protocol):
    """A mechanism that says which tasks it serves, by name. One that says nothing serves classification alone."""

    tasks: tuple[str, ...]


class Sample(NamedTuple):
    """Pixels, or boxes, that stand for their cases: logits [m, k], class [m], row of the case [m], and weights [m] that
    sum to 1 for each case. Of a box the logits are its own class's and, last, 0 for none; its class is k - 1 where it
    found nothing."""

    logits: NDArray[np.float32]
    label: NDArray[np.integer]
    row: NDArray[np.integer]
    weight: NDArray[np.floating]


@dataclass(frozen=True, kw_only=True)
class Lesson:
    """The cases of one training, by row: `new` new ones, then `remembered` ones, then new ones without a label.

    label [n], -1 where unknown; domain [n]; patient [n]. `logits()` [n, k] and `features()` [n, d] are what the model
    says of each as the training begins, computed when first asked for. Of masks and boxes `features()` are pooled, and
    in place of `logits()`, which raises ValueError, there is a sample of the labelled cases' pixels or boxes.
    """

    label: NDArray[np.integer]
    domain: NDArray[np.str_]
    patient: NDArray[np.str_]
    new: int
    remembered: int
    logits: Callable[[], NDArray[np.float32]]
    features: Callable[[], NDArray[np.float32]]
    task: str = "classification"
    pixels: Callable[[], Sample] | None = None

    def __len__(self) -> int:
        return len(self.label)


@dataclass(frozen=True, kw_only=True)
class Learner:
    """What is trained: `encoder` (or what of it is not frozen), [b, ...] -> features [b, d] or, dense, [b, d, h, w];
    `head`, -> logits [b, k] or [b, k, h, w]; the weights that move; and the inputs of the lesson's rows."""

    encoder: nn.Module
    head: nn.Module
    moving: Sequence[nn.Parameter]
    inputs: Inputs


@runtime_checkable
class RepresentationMechanism(Protocol):
    """Aligns features or scores without moving a weight, on cases that no weight was fitted on.

    `labelled`: whether it needs labels.
    """

    name: str
    labelled: bool

    def fit(self, held: Lesson, served: Learner, folder: Path) -> dict[str, str]:
        """Writes parts into `folder`. `held` has the held cases of the domains that are learnt as its new ones, those
        of the others as remembered; `served` is the version so far as it is served. Raises ValueError where it can't
        serve such a network, or has no case to go by."""
        ...


@runtime_checkable
class ArchitectureMechanism(Protocol):
    """What stands beside the network: several sets of parts in one version, and which of them answers for an image."""

    name: str

    def assemble(self, lesson: Lesson, parts: Mapping[str, str], live: Sequence[Path], folder: Path) -> dict[str, str]:
        """Makes `parts`, what the stages before wrote into `folder`, one set beside the `live` version's files.

        `lesson` has every case, features are the pinned base encoder's. Answers with the parts that are there now.
        """
        ...


@runtime_checkable
class Placed(Protocol):
    """A parameter mechanism that looks at the cases before the first step, and places what it attached by them."""

    def place(self, lesson: Lesson, learner: Learner) -> None:
        """Changes no answer. Raises ValueError where the lesson does not hold what it looks for."""
        ...


@runtime_checkable
class Cutting(Protocol):
    """A parameter mechanism that counts the blocks it never moves by the network's own parts, and not by a share."""

    def cut(self, origin: Backbone) -> int: ...


@runtime_checkable
class Penalised(Protocol):
    """A parameter mechanism that adds a term of its own weights to the loss, whatever the objective is."""

    def penalty(self, model: Classifier) -> torch.Tensor:
        """-> scalar, at every step."""
        ...


@runtime_checkable
class Stepwise(Protocol):
    """A parameter mechanism that is told of every step, while the weights' gradients of that step are there."""

    def stepped(self, model: Classifier, done: int, total: int) -> None:
        """`done` of `total` steps, from 1 on. May change the weights that move."""
        ...


@dataclass(frozen=True, kw_only=True)
class Step:
    """One batch of a training: rows [b] of the lesson; features [b, d] and logits [b, k] of a random view of each, or
    dense ones, [b, d, h, w] and [b, k, h, w].

    `again()` gives the features of another random view of the same cases. `target` is the truth of the same view, where
    it moves along: masks, uint8 [b, h, w], or boxes, [b, m, 5] as `strategies/boxes.py` has them.
    """

    rows: torch.Tensor
    features: torch.Tensor
    logits: torch.Tensor
    again: Callable[[], torch.Tensor]
    target: torch.Tensor | None = None


Loss = Callable[[Step], "torch.Tensor"]  # -> scalar


@runtime_checkable
class ObjectiveMechanism(Protocol):
    """The loss that is minimised, and how much each case weighs in it.

    `labelled`: whether it needs labels; one that does not is also given the new cases without one.
    """

    name: str
    labelled: bool

    def prepare(self, lesson: Lesson, learner: Learner) -> Loss:
        """The loss of a batch. Raises ValueError on a new or remembered case without a label, where it needs one."""
        ...


@runtime_checkable
class Viewing(Protocol):
    """An objective that learns from other random views than the usual ones."""

    def views(self, usual: Views) -> Views: ...


@runtime_checkable
class Recorded(Protocol):
    """A loss, or batches, with something to say for the candidate's record once a training is over."""

    def record(self) -> dict[str, Any]: ...


@runtime_checkable
class DataMechanism(Protocol):
    """Which rows of a lesson make up a batch; whether it `remembers`, rehearses old cases beside the new ones."""

    name: str
    remembers: bool

    def batches(self, lesson: Lesson, batch: int, seed: int) -> Batches: ...


class Batches(Protocol):
    """Each iteration is one epoch of at most `len` batches; a batch is a list of rows."""

    def __len__(self) -> int: ...

    def __iter__(self) -> Iterator[Sequence[int]]: ...


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One choice per mechanism of adaptation; None where the mechanism is not used.

    parameter: which weights move; representation: how features or scores are aligned without weights; objective: the
    loss; data: what is rehearsed and how; architecture: what is added beside the network. A stage that moves weights
    names its objective, its data and its epochs.
    """

    parameter: ParameterMechanism | None = None
    representation: RepresentationMechanism | None = None
    objective: ObjectiveMechanism | None = None
    data: DataMechanism | None = None
    architecture: ArchitectureMechanism | None = None
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


class Attribution(Protocol):
    """A way of asking a network where in an image it sees a class. The constructor arguments are the configuration."""

    name: str

    def serves(self, blocks: Sequence[nn.Module], size: int) -> bool:
        """Whether it can ask this encoder, a chain of blocks for images of size x size pixels."""
        ...

    def __call__(
        self, blocks: Sequence[nn.Module], head: nn.Module, images: torch.Tensor, decided: torch.Tensor
    ) -> torch.Tensor:
        """Prepared images [b, 3, s, s] and a class for each, int64 [b] -> maps [b, g, g], larger where more speaks for
        the class; the same call gives the same maps."""
        ...
