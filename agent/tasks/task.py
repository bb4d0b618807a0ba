"""What a task is to the agent: how its labels are kept, and what an answer is worth beside one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from agent.cases.datafolder import Row
    from monitors.protocols import Record
    from strategies.predictor import Predictor
    from strategies.protocols import Examples


Shape = tuple[int, ...]  # of an image, or of each slice of a volume: height, width


class Kept(NamedTuple):
    """What is kept of an answer that its scores don't tell: the answer itself, how sure it is of itself, 0..1, and the
    form of such answers."""

    content: bytes
    sure: float
    form: str


class Answered(NamedTuple):
    """Of b cases: scores [b, c], what monitors see of each answer, a probability or a share each; embedding [b, d] of
    the pinned sensor; and what is kept of each answer beside, None where the scores are all of it."""

    scores: NDArray[np.floating]
    embedding: NDArray[np.floating]
    kept: Sequence[Kept | None]


class Task(Protocol):
    """One per task. Rows are what is measured of an answer beside its truth, [n, m]; what they hold is the task's."""

    name: str
    kind: str  # of its labels in the store
    form: str  # of its answers in the store
    suffix: str  # of the file that a kept answer makes; "" where nothing is kept beside the scores
    quality: str  # what its answers are judged by first, as people are told it
    column: str  # the same as a key
    exclusive: bool  # whether the scores of an answer sum to 1
    structures: bool  # whether an answer has several parts, none of which may lose while the mean looks well
    measures: tuple[str, ...]  # that `evaluate` answers with, in the order of its table

    def targets(self, values: Sequence[str | None], classes: Sequence[str]) -> NDArray[np.int64]:
        """[n] of labels as the store has them: the class, a set of findings (strategies/findings.py), or 0 where the
        truth is a file; -1 without one."""
        ...

    def said(self, row: Row) -> str | None:
        """The label of a data folder's line; None where it has none."""
        ...

    def classes(self, rows: Sequence[Row], slices: int = 1) -> list[str]:
        """Of a folder to fit a base on, which reads so many slices of a volume. Raises HomeostatError where there are
        too few, or a label can't be read."""
        ...

    def group(self, value: str | None) -> str:
        """What a rehearsal sample is balanced over, beside domains and patients."""
        ...

    def read(
        self, predictor: Predictor, probabilities: NDArray[np.float32], shapes: Sequence[Shape]
    ) -> tuple[NDArray[np.float32], Sequence[Kept | None]]:
        """(scores [b, c], what is kept beside them) of what a version said, [b, k, ...], of images of these shapes."""
        ...

    def beside(self, examples: Any, rows: Sequence[int], shapes: Sequence[Shape], size: int) -> Any:
        """The targets of some cases, whose images are of these shapes, for a model of this size."""
        ...

    def record(self, rows: NDArray[np.floating], target: NDArray[np.integer], unit: NDArray[np.str_]) -> Record:
        """The record that the gates judge."""
        ...

    def outcome(self, row: Mapping[str, Any], classes: Sequence[str]) -> tuple[float | None, float]:
        """(what an answer was worth beside its label, 0..1, None where that isn't known yet; how sure it was of
        itself), of a row of the store with scores, value, worth and sure."""
        ...

    def worth(self, content: bytes, label: Path) -> float:
        """What a kept answer is worth beside the label's file, 0..1. Raises Unreadable, ValueError."""
        ...

    def measured(self, predictor: Predictor, examples: Examples, progress: Any) -> Measured:
        """What a version is worth on labelled cases, in the contract's words."""
        ...

    def told(self, predictor: Predictor, answered: Answered, place: int) -> dict[str, Any]:
        """What `predict` tells of one answer, beside its version and trust."""
        ...


def answer(task: Task, predictor: Predictor, tensors: Sequence[Any], shapes: Sequence[Shape]) -> Answered:
    """What a version says of prepared images, which were of these shapes."""
    import torch

    said = predictor.observe(torch.stack(list(tensors)))
    scores, kept = task.read(predictor, said.probabilities, shapes)
    return Answered(scores, said.embedding, kept)


def rows_of(task: Task, probabilities: NDArray[np.float32], targets: Any) -> NDArray[np.float32]:
    """[b, m] of what a version said beside the targets, as the task's records are made of."""
    import torch

    from strategies.tasks import task_of

    return task_of(task.name).rows(torch.from_numpy(probabilities), targets)


class Measured(Protocol):
    """The outcome of `evaluate`: figures of all cases, or of some; record: what they are figures of."""

    @property
    def record(self) -> Record: ...

    def __len__(self) -> int: ...

    def measures(self, which: NDArray[np.bool_] | None = None) -> dict[str, float | None]: ...


@runtime_checkable
class Detailed(Protocol):
    """An outcome of `evaluate` with more to tell than one figure per measure."""

    def details(self) -> dict[str, Any]: ...
