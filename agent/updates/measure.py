"""What a version is worth on a labelled set of cases, in the contract's words."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from agent.observe import answers

if TYPE_CHECKING:
    from monitors.protocols import Scores
    from strategies.predictor import Predictor
    from strategies.protocols import Examples

BATCH = 32


def scores_of(
    predictor: Predictor, examples: Examples, progress: Callable[[str, int, int], None] = lambda *_: None
) -> Scores:
    """Predicts every case."""
    import numpy as np

    from monitors import Scores

    said = []
    for start in range(0, len(examples), BATCH):
        chunk = range(start, min(start + BATCH, len(examples)))
        said.append(answers(predictor, [predictor.prepare(examples.image(i)) for i in chunk])[0])
        progress("measuring", chunk[-1] + 1, len(examples))
    return Scores(probability=np.concatenate(said), target=examples.label, unit=examples.patient)


def measures_of(scores: Scores) -> dict[str, float | None]:
    """accuracy, balanced_accuracy, auroc, ece, brier, nll; None where a measure is not defined."""
    import numpy as np

    from monitors import accuracy, auroc, balanced_accuracy, brier, ece, nll

    measures: dict[str, float | None] = {}
    for measure in (accuracy, balanced_accuracy, auroc, ece, brier, nll):
        value = float(measure(scores)[0])
        measures[measure.__name__] = round(value, 6) if np.isfinite(value) else None
    return measures


def measures_by(scores: Scores, groups: Any) -> dict[str, dict[str, Any]]:
    """The measures within each group, with the number of cases; groups [n], "" for unknown, which is left out."""
    import numpy as np

    from monitors import Scores

    answer = {}
    for name in sorted(set(groups) - {""}):
        rows = np.asarray(groups) == name
        part = Scores(probability=scores.probability[rows], target=scores.target[rows], unit=scores.unit[rows])
        answer[str(name)] = {"n": int(rows.sum()), **measures_of(part)}
    return answer
