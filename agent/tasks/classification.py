"""Classification: one class per image; the scores are all of the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.errors import HomeostatError
from agent.tasks.task import Answered, Kept, Shape

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from agent.cases.datafolder import Row
    from agent.tasks.task import Measured
    from monitors import Scores
    from monitors.protocols import Record
    from strategies.predictor import Predictor
    from strategies.protocols import Examples

BATCH = 32


class Classification:
    """A row holds the probabilities [k] themselves."""

    name = "classification"
    kind = "class"
    form = "scores"
    suffix = ""
    quality = "balanced accuracy"
    column = "balanced_accuracy"
    exclusive = True
    structures = False
    measures: tuple[str, ...] = ("accuracy", "balanced_accuracy", "auroc", "ece", "brier", "nll")

    def targets(self, values: Sequence[str | None], classes: Sequence[str]) -> NDArray[np.int64]:
        import numpy as np

        places = {name: place for place, name in enumerate(classes)}
        return np.array([places.get(value or "", -1) for value in values], np.int64)

    def said(self, row: Row) -> str | None:
        return row.label

    def classes(self, rows: Sequence[Row], slices: int = 1) -> list[str]:
        found = sorted({row.label for row in rows if row.label})
        if len(found) < 2:
            raise HomeostatError(f"there is one class only ({', '.join(found)}): a classifier needs at least two")
        return found

    def group(self, value: str | None) -> str:
        return value or ""

    def read(
        self, predictor: Predictor, probabilities: NDArray[np.float32], shapes: Sequence[Shape]
    ) -> tuple[NDArray[np.float32], Sequence[Kept | None]]:
        return probabilities, [None] * len(probabilities)

    def beside(self, examples: Any, rows: Sequence[int], shapes: Sequence[Shape], size: int) -> Any:
        import torch

        return torch.from_numpy(examples.label[list(rows)])

    def record(self, rows: NDArray[np.floating], target: NDArray[np.integer], unit: NDArray[np.str_]) -> Record:
        from monitors import Scores

        return Scores(probability=rows, target=target, unit=unit)

    def outcome(self, row: Mapping[str, Any], classes: Sequence[str]) -> tuple[float | None, float]:
        import numpy as np

        scores = np.frombuffer(row["scores"], "<f4")
        place = int(scores.argmax())
        return float(row["value"] == classes[place]), float(scores[place])

    def worth(self, content: bytes, label: Path) -> float:
        raise ValueError("a class is no file, and nothing is kept of its answer beside the scores")

    def measured(self, predictor: Predictor, examples: Examples, progress: Any) -> Measured:
        return MeasuredScores(scores_of(predictor, examples, progress))

    def told(self, predictor: Predictor, answered: Answered, place: int) -> dict[str, Any]:
        scores = answered.scores
        best = int(predictor.decide(scores)[place])
        return {
            "prediction": predictor.classes[best],
            "probability": round(float(scores[place, best]), 6),
            "probabilities": {c: round(float(p), 6) for c, p in zip(predictor.classes, scores[place], strict=True)},
        }


@dataclass(frozen=True)
class MeasuredScores:
    """Measures of scores; None where one is not defined."""

    record: Scores

    def __len__(self) -> int:
        return len(self.record)

    def measures(self, which: NDArray[np.bool_] | None = None) -> dict[str, float | None]:
        import numpy as np

        import monitors

        of = self.record
        if which is not None:
            of = of.take(which)
        found: dict[str, float | None] = {}
        for name in Classification.measures:
            value = float(getattr(monitors, name)(of)[0])
            found[name] = round(value, 6) if np.isfinite(value) else None
        return found


def scores_of(predictor: Predictor, examples: Examples, progress: Any = lambda *_: None) -> Scores:
    """Predicts every case."""
    from monitors import Scores

    said = answers_of(predictor, examples, progress)
    return Scores(probability=said, target=examples.label, unit=examples.patient)


def answers_of(predictor: Predictor, examples: Examples, progress: Any) -> NDArray[np.float32]:
    """[n, k] what a version says of every case."""
    import numpy as np
    import torch

    from strategies.slices import fewer

    said, batch = [], fewer(BATCH, predictor.preprocessing.slices)
    for start in range(0, len(examples), batch):
        chunk = range(start, min(start + batch, len(examples)))
        said.append(predictor.answer(torch.stack([predictor.prepare(examples.image(i)) for i in chunk])))
        progress("measuring", chunk[-1] + 1, len(examples))
    return np.concatenate(said)
