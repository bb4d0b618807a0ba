"""Multi-label classification: any number of findings per image, none among them; the scores are all of the answer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent.cases.findings import answered as as_label
from agent.cases.findings import findings_of
from agent.errors import HomeostatError
from agent.tasks.classification import Classification, answers_of
from agent.tasks.intervals import drawn, rounded, share, with_interval
from agent.tasks.task import Answered

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from agent.cases.datafolder import Row
    from monitors import Findings
    from strategies.predictor import Predictor
    from strategies.protocols import Examples

SAID = 0.5  # probability from which on a finding is part of the answer, but for the thresholds of a version


class Multilabel(Classification):
    """A row holds the probability of each finding [k]; a label is a set of them, one integer (strategies/findings.py).

    An answer is worth the F1 of its set: of a dozen findings most cases have none, and a share of right answers would
    praise a version that finds nothing.
    """

    name = "multilabel"
    kind = "findings"
    exclusive = False
    structures = True
    measures: tuple[str, ...] = ("accuracy", "balanced_accuracy", "f1", "auroc", "ece", "brier", "nll")

    def targets(self, values: Sequence[str | None], classes: Sequence[str]) -> NDArray[np.int64]:
        """-1 also where a finding is none of the classes, or a label contradicts itself."""
        import numpy as np

        from strategies.findings import label_of

        places = {name: place for place, name in enumerate(classes)}

        def target(value: str | None) -> int:
            try:
                return label_of(places[name] for name in findings_of(value)) if value else -1
            except (ValueError, KeyError):
                return -1

        return np.array([target(value) for value in values], np.int64)

    def classes(self, rows: Sequence[Row], slices: int = 1) -> list[str]:
        from strategies.findings import MOST

        found = set[str]()
        for row in rows:
            try:
                found |= {*findings_of(row.label or "")}
            except ValueError as error:
                raise HomeostatError(f"line {row.line} of cases.csv: {error}") from None
        if not found:
            raise HomeostatError("every case is labelled as one without a finding: there is nothing to learn to find")
        if len(found) > MOST:
            raise HomeostatError(f"there are {len(found)} different findings: a model has {MOST} at most")
        return sorted(found)

    def record(self, rows: NDArray[np.floating], target: NDArray[np.integer], unit: NDArray[np.str_]) -> Findings:
        import numpy as np

        from monitors import Findings
        from strategies.findings import members

        return Findings(
            probability=rows,
            target=members(target, rows.shape[1]),
            known=np.asarray(target) >= 0,
            unit=np.asarray(unit, np.str_),
        )

    def outcome(self, row: Mapping[str, Any], classes: Sequence[str]) -> tuple[float | None, float]:
        """The F1 of the set, and the one that is expected of findings that don't hang together."""
        import numpy as np

        from monitors import case_set_f1, expected_f1

        scores = np.frombuffer(row["scores"], "<f4")
        sure = expected_f1(scores, SAID)
        if row["value"] is None:
            return row["worth"], sure
        worth = float(
            case_set_f1(self.record(scores[None], self.targets([row["value"]], classes), np.array(["one"])))[0]
        )
        return (worth if np.isfinite(worth) else None), sure

    def measured(self, predictor: Predictor, examples: Examples, progress: Any) -> MeasuredFindings:
        said = answers_of(predictor, examples, progress)
        return MeasuredFindings(self.record(said, examples.label, examples.patient), tuple(predictor.classes))

    def told(self, predictor: Predictor, answered: Answered, place: int) -> dict[str, Any]:
        """The answer as a label is written."""
        from monitors import expected_f1

        scores = answered.scores[place]
        expected = round(expected_f1(scores, SAID), 6)
        return {
            "prediction": as_label(predictor.classes, predictor.decide(answered.scores)[place]),
            "probability": expected,
            "probabilities": {c: round(float(p), 6) for c, p in zip(predictor.classes, scores, strict=True)},
            "expected_f1": expected,
        }


@dataclass(frozen=True)
class MeasuredFindings:
    """accuracy: of cases of which every finding is right; balanced_accuracy, auroc, ece: means over findings; f1 of the
    sets, a mean over cases; brier, nll: over both. None where one is not defined."""

    record: Findings
    names: Sequence[str]

    def __len__(self) -> int:
        return len(self.record)

    def measures(self, which: NDArray[np.bool_] | None = None) -> dict[str, float | None]:
        import numpy as np

        of = self.record if which is None else self.record.take(which)
        found = {name: float(measure(of)[0]) for name, measure in _measures().items()}
        return {name: round(value, 6) if np.isfinite(value) else None for name, value in found.items()}

    def details(self) -> dict[str, Any]:
        import numpy as np

        every = drawn(np.ones(len(self)), self.record.unit)
        asked = ("balanced_accuracy", "f1", "auroc")
        intervals = {name: with_interval(_measures()[name](self.record, every))["interval"] for name in asked}
        return {"intervals": intervals, "by_finding": by_finding(self.record, every, self.names)}


def _measures() -> dict[str, Any]:
    from monitors import MEASURES_OF_FINDINGS

    return dict(zip(Multilabel.measures, MEASURES_OF_FINDINGS, strict=True))


def by_finding(record: Findings, every: NDArray[np.floating], names: Sequence[str]) -> dict[str, Any]:
    """{finding: cases that have it, AUROC, calibration error, sensitivity and specificity at the answer that is given};
    `every` as `drawn` has it."""
    import numpy as np

    from monitors import auroc_per_finding, ece_per_finding

    areas, weight, known = auroc_per_finding(record, every), every[0], record.known
    errors = ece_per_finding(record, every[:1])[0]
    said = np.asarray(record.probability) >= SAID
    return {
        name: {
            "n": int((true & known & (weight > 0)).sum()),
            "auroc": with_interval(area),
            "ece": rounded(error),
            "sensitivity": share(yes, true & known, weight, record.unit),
            "specificity": share(~yes, ~true & known, weight, record.unit),
        }
        for name, area, error, yes, true in zip(names, areas.T, errors, said.T, record.target.T, strict=True)
    }
