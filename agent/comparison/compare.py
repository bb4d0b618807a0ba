"""Has one data folder drifted from another, what kind of change is it, and which images are the most unusual."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.cases.datafolder import Row, read_folder
from agent.cases.images import Unreadable, read_image
from agent.errors import HomeostatError
from agent.progress import Progress

if TYPE_CHECKING:
    from monitors import Attribution, Batch

FEWEST = 20  # patients on either side
ALPHA = 0.01  # of the answer yes where nothing has changed
LEARNT = 0.25  # share of the reference's patients that transforms are learnt on
MOST = 2000  # cases of a side that are read; of more, this many are drawn
SHOWN = 8  # images on the page
LEAST_SPREAD = 0.02  # of a feature: one that hardly varies in the reference isn't told in thousands of deviations
AT_A_TIME = 32


@dataclass(frozen=True, kw_only=True)
class Side:
    """The readable cases of a folder and what is known of them: seen [n, d], said [n, c] (c is 1 without a model or
    labels), classes [n] (-1 without a label)."""

    rows: Sequence[Row]
    seen: Any
    said: Any
    classes: Any
    unreadable: int


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """drift is None where none was found and one side has too few patients to say that there is none.

    p: of there being no difference at all; moved: {feature: change in standard deviations}, largest first; unusual:
    (case of new, its nearest case of the reference).
    """

    drift: bool | None
    answer: Attribution
    p: float
    patients: tuple[int, int]
    cases: tuple[int, int]
    unreadable: int
    by: str
    moved: dict[str, float]
    unusual: Sequence[tuple[Row, Row]]


def compare(
    new: Path,
    against: Path,
    *,
    model: Path | None,
    where: Sequence[str],
    against_where: Sequence[str],
    seed: int,
    progress: Progress,
) -> Comparison:
    """Raises HomeostatError where a folder has no readable case, or the model can't be loaded."""
    import numpy as np

    from monitors import Reference, attribute

    look = _by_model(model) if model else _by_quality()
    sides = []
    for name, folder, conditions in (("new cases", new, where), ("reference", against, against_where)):
        rows = read_folder(folder, conditions).rows
        if not rows:
            raise HomeostatError(f"{folder} has no case{' that fulfils --where' if conditions else ''}")
        sides.append(_side(name, rows, look, seed, progress))
    _told_by_labels(sides, bool(model))
    fresh, known = (_batch(side) for side in sides)
    patients = (len({*fresh.unit.tolist()}), len({*known.unit.tolist()}))
    units = np.unique(known.unit)
    learnt = np.random.default_rng(seed).permutation(units)[: max(2, int(LEARNT * len(units)))]
    taught = np.isin(known.unit, learnt)
    if (~taught).sum() < 2 or taught.sum() < 2:
        raise HomeostatError(f"{against} has {len(known)} readable cases: four patients are the fewest to compare with")
    reference = Reference(transform=_part(known, taught), calibrate=_part(known, ~taught))
    classes = sides[1].classes[~taught]
    answer = attribute(reference, fresh, classes, by_sensor=bool(model), of_classes=look.of_classes)
    p = min(1.0, 2 * min(answer.p_before, answer.p_answers))
    found = p < ALPHA or answer.shift == "far-out"
    return Comparison(
        drift=None if min(patients) < FEWEST and not found else found,
        answer=answer,
        p=p,
        patients=patients,
        cases=(len(fresh), len(known)),
        unreadable=sum(side.unreadable for side in sides),
        by=f"the model {model.name}" if model else "image quality",
        moved={} if model else _moved(sides[0].seen, sides[1].seen),
        unusual=_unusual(sides[0], sides[1]),
    )


@dataclass(frozen=True)
class Look:
    """How images are seen: each is reduced as it is read (whole ones would not fit into memory side by side), and some
    are looked at together, which gives (seen [n, d], said [n, c])."""

    reduced: Callable[[Any], Any]
    together: Callable[[Sequence[Any]], tuple[Any, Any]]
    slices: int = 1  # of a volume, that are read
    of_classes: bool = True  # whether what is answered are probabilities of classes that exclude each other


def _by_quality() -> Look:
    import numpy as np

    from monitors import quality

    return Look(quality, lambda found: (np.stack(found), np.ones((len(found), 1))))


def _by_model(base: Path) -> Look:
    from agent.tasks import answer, task_named
    from strategies.predictor import Predictor

    try:
        predictor = Predictor.load(base)
    except (ValueError, OSError, KeyError) as error:
        raise HomeostatError(f"{base} can't be loaded as a base model: give a folder that 'fit' wrote") from error

    def together(tensors: Sequence[Any]) -> tuple[Any, Any]:
        said = answer(task_named(predictor.task), predictor, tensors, [tensor.shape[1:] for tensor in tensors])
        return said.embedding, said.scores

    slices, of_classes = predictor.preprocessing.slices, task_named(predictor.task).kind == "class"
    return Look(predictor.prepare, together, slices, of_classes)


def _side(name: str, rows: Sequence[Row], look: Look, seed: int, progress: Progress) -> Side:
    import numpy as np

    if len(rows) > MOST:
        drawn = np.random.default_rng(seed).permutation(len(rows))[:MOST]
        rows = [rows[i] for i in np.sort(drawn)]
    kept, waiting = list[Row](), list[Any]()
    for number, row in enumerate(rows):
        progress(f"reads {name}", number, len(rows))
        try:
            waiting.append(look.reduced(read_image(row.file, slices=look.slices)))
            kept.append(row)
        except (Unreadable, ValueError):
            continue
    progress(f"reads {name}", len(rows), len(rows))
    if not kept:
        raise HomeostatError(f"none of the {len(rows)} {name} can be read as an image")
    found = [look.together(waiting[start : start + AT_A_TIME]) for start in range(0, len(waiting), AT_A_TIME)]
    seen, said = (np.concatenate(part) for part in zip(*found, strict=True))
    nobody = np.full(len(kept), -1, np.int64)
    return Side(rows=kept, seen=seen, said=said, classes=nobody, unreadable=len(rows) - len(kept))


def _told_by_labels(sides: list[Side], by_model: bool) -> None:
    """Where every case has a label and there is no model, labels stand for its answers: they tell the mix."""
    import numpy as np

    if by_model or not all(row.label for side in sides for row in side.rows):
        return
    names = sorted({row.label or "" for side in sides for row in side.rows})
    for place, side in enumerate(sides):
        classes = np.array([names.index(row.label or "") for row in side.rows])
        sides[place] = Side(
            rows=side.rows,
            seen=side.seen,
            said=np.eye(len(names))[classes],
            classes=classes,
            unreadable=side.unreadable,
        )


def _batch(side: Side) -> Batch:
    import numpy as np

    from monitors import Batch

    n = len(side.rows)
    ages = [row.facts.get("age") for row in side.rows]
    return Batch(
        index=np.arange(1, n + 1),
        unit=np.array([row.patient_id for row in side.rows]),
        stratum=np.full(n, "all"),
        time=np.full(n, np.nan),
        outputs=side.said,
        embedding=side.seen,
        version="",
        sensor="",
        facts={
            "age": np.array([_number(age) for age in ages]),
            "sex": np.array([row.facts.get("sex") or "" for row in side.rows]),
            "scanner": np.array([row.scanner or "" for row in side.rows]),
        },
    )


def _part(batch: Batch, which: Any) -> Batch:
    import numpy as np

    from monitors.attribution import taken

    return taken(batch, np.flatnonzero(which))


def _number(text: str | None) -> float:
    try:
        return float(text) if text else float("nan")
    except ValueError:
        return float("nan")


def _moved(new: Any, known: Any) -> dict[str, float]:
    """{feature: change of the mean in the reference's standard deviations}, the largest first."""
    import numpy as np

    from monitors import QUALITY

    change = (new.mean(axis=0) - known.mean(axis=0)) / (known.std(axis=0) + LEAST_SPREAD)
    order = np.argsort(-np.abs(change))
    return {QUALITY[i]: round(float(change[i]), 2) for i in order if not QUALITY[i].startswith("place_")}


def _unusual(new: Side, known: Side) -> list[tuple[Row, Row]]:
    """The new cases that are farthest from their nearest reference case, one per patient, with that case."""
    import numpy as np

    from monitors.whitening import squared_distances

    centre, scale = known.seen.mean(axis=0), known.seen.std(axis=0) + LEAST_SPREAD
    distances = squared_distances((new.seen - centre) / scale, (known.seen - centre) / scale)
    nearest = distances.argmin(axis=1)
    found: dict[str, tuple[Row, Row]] = {}
    for case in np.argsort(-distances.min(axis=1)):
        row = new.rows[int(case)]
        found.setdefault(row.patient_id, (row, known.rows[int(nearest[case])]))
        if len(found) == SHOWN:
            break
    return [*found.values()]
