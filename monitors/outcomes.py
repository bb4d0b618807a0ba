"""What labels say of the answers, weeks after them: three charts over cases whose labels have come.

Which cases get a label is seldom left to chance: those that look doubtful get one sooner. So each chart reads what is
left of an outcome once the answer's own sureness is taken off: cases that were picked by it have the same mean.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from monitors.attribution import taken
from monitors.chart import FEW, Chart, finite, first_of_each
from monitors.protocols import Batch, Float, OtherVersion, Reference, Signal

PATIENTS_PER_COLUMN = 8
CLIP = 1e-4  # log-odds are taken of probabilities no nearer to 0 and 1
LEAST = 0.05  # variance
BAND = 20  # years
See = Callable[[Batch], Float]


class _OfLabels(ABC):
    """One chart over columns that are learnt on the labelled cases of `reference.calibrate`.

    A tick's batch holds the cases whose labels have come since the last one: `since` is the number of a case and
    belongs to the time of the image, not of the label. A tick without labels is no look.
    """

    name = ""
    surprises: tuple[float, ...] = (0.5,)  # where, in the order of their sureness, wrong answers are added

    def __init__(self, run_length: float = 365.0) -> None:
        self.run_length = run_length

    def fit(self, reference: Reference) -> None:
        """Raises ValueError where no case of `reference.calibrate` has a label, and on NaN."""
        known = labelled(reference.calibrate)
        if not len(known):
            raise ValueError("no case of the reference's calibration part has a label")
        self.version = known.version
        finite(known, known.outputs, "outputs")
        patients = len(first_of_each(known.unit))
        self.columns = self._learn(known, max(1, patients // PATIENTS_PER_COLUMN))
        self.chart = Chart(floor=0.25 / patients)
        known = _surprised(known, self._see(known), self.surprises)
        self.chart.fit(self._see(known), known.unit, known.stratum)

    def update(self, batch: Batch) -> Signal:
        batch = labelled(batch)
        if len(batch):
            if batch.version != self.version:
                raise OtherVersion(f"the reference was answered by {self.version} and the tick by {batch.version}")
            finite(batch, batch.outputs, "outputs")
            self.chart.update(self._see(batch), batch)
        worst = {} if self.chart.since is None else {"outcome": self._driver().partition("=")[0]}
        return self.chart.signal(self.name, self.run_length, len(batch), **worst)

    def state(self) -> dict[str, NDArray]:
        return self.chart.state()

    def restore(self, state: Mapping[str, NDArray]) -> None:
        self.chart.restore(state)

    @abstractmethod
    def _learn(self, known: Batch, most: int) -> dict[str, See]:
        """Columns by name, `most` of them at most: what a labelled batch shows in each, [n]."""

    def _see(self, batch: Batch) -> Float:
        return np.column_stack([see(batch) for see in self.columns.values()])

    def _driver(self) -> str:
        return list(self.columns)[int(np.argmax(np.abs(self.chart.moved())))]


class PerformanceStream(_OfLabels):
    """The error less what is usual for an answer of such sureness: is the model wrong where it was right before?"""

    name = "performance"

    def _learn(self, known: Batch, most: int) -> dict[str, See]:
        usual = _usual_error(known)
        return {"error": lambda batch: excess(batch, usual)}


class CalibrationStream(_OfLabels):
    """Class by class, how often it came less the probability that it was given, the commonest classes first; and the
    slope, the same of the top class times its log-odds (Cox 1958): are the probabilities still true?"""

    name = "calibration"
    surprises = (0.5, 0.9)

    def _learn(self, known: Batch, most: int) -> dict[str, See]:
        classes = known.outputs.shape[1]
        order = np.argsort(-np.bincount(known.target, minlength=classes), kind="stable")
        middle = float(_log_odds(known).mean())
        columns: dict[str, See] = {
            "slope": lambda batch: (1.0 - wrong(batch) - _top(batch)) * (_log_odds(batch) - middle)
        }
        for one in order[: max(1, classes - 1)]:
            columns[f"class {one}"] = lambda batch, one=int(one): (batch.target == one) - batch.outputs[:, one]  # type: ignore[misc]
        return dict(list(columns.items())[: max(most, 2)])


class SubgroupStream(_OfLabels):
    """The error less what is usual, within each group of patients (sex, band of age, scanner) that has FEW of them in
    the reference: is one group served worse while the mean looks well?"""

    name = "subgroups"
    surprises = (1 / 3, 2 / 3)

    def __init__(self, names: Sequence[str] = ("sex", "age"), run_length: float = 365.0) -> None:
        super().__init__(run_length)
        self.names = tuple(names)

    def _learn(self, known: Batch, most: int) -> dict[str, See]:
        usual, first = _usual_error(known), first_of_each(known.unit)
        columns: dict[str, See] = {}
        for fact in self.names:
            values, counts = np.unique(groups(known, fact)[first], return_counts=True)
            for value in values[(counts >= FEW) & (values != "")]:
                columns[f"{fact}={value}"] = lambda batch, fact=fact, value=value: np.where(  # type: ignore[misc]
                    groups(batch, fact) == value, excess(batch, usual), 0.0
                )
        return dict(list(columns.items())[:most]) or {"error": lambda batch: excess(batch, usual)}


def _surprised(known: Batch, columns: Float, at: Sequence[float]) -> Batch:
    """The known cases [n] and, of those that each column [n, k] reads, a wrong answer at each of these quantiles of
    sureness: the next class was right. A model that was hardly ever wrong on few patients will be, and the chart's
    simulation, which only draws from what it is given, has to know of it (one more failure, as Agresti and Coull 1998
    add)."""
    if known.outputs.shape[1] < 2:
        return known
    order, places = np.argsort(_top(known), kind="stable"), set[int]()
    for column in columns.T:
        read = order[column[order] != 0]
        places |= {int(read[int(q * (len(read) - 1))]) for q in at if len(read)}
    more = taken(known, np.array(sorted(places), dtype=int))
    names = np.array([f"{unit} surprised" for unit in more.unit], np.str_)
    more = replace(more, unit=names, target=np.argsort(more.outputs, axis=1)[:, -2])
    return _appended(known, more)


def _appended(one: Batch, other: Batch) -> Batch:
    """The cases of one batch, and then those of the other; both of one version, with the same facts."""
    whole: dict[str, Any] = {
        name: np.concatenate([getattr(one, name), getattr(other, name)])
        for name in ("index", "unit", "stratum", "time", "outputs", "embedding", "quality", "target")
    }
    facts = {name: np.concatenate([values, other.facts[name]]) for name, values in one.facts.items()}
    return Batch(**whole, facts=facts, version=one.version, sensor=one.sensor)


def labelled(batch: Batch) -> Batch:
    """Its cases that have a label."""
    return taken(batch, np.flatnonzero(batch.target >= 0)) if len(batch.target) else taken(batch, np.zeros(0, int))


def wrong(batch: Batch) -> Float:
    """[n] 1 where the most probable class is not the target."""
    return (batch.outputs.argmax(axis=1) != batch.target).astype(np.float64)


def excess(batch: Batch, usual: See) -> Float:
    """[n] the error less the usual one, by its standard deviation: that of a doubtful case is larger, and a labelling
    that looks for such cases is no drift. LEAST is added, so that one surprise is not everything."""
    q = usual(batch)
    return (wrong(batch) - q) / np.sqrt(q * (1 - q) + LEAST)


def groups(batch: Batch, fact: str) -> NDArray[np.str_]:
    """[n] the group of each case by a fact, "" where it is unknown; ages in bands of twenty years."""
    values = batch.facts.get(fact)
    if values is None:
        return np.full(len(batch), "", dtype=np.str_)
    if values.dtype.kind != "f":
        return values.astype(np.str_)
    start = np.where(np.isnan(values), 0, values // BAND * BAND).astype(int)
    return np.array(["" if np.isnan(v) else f"{s}-{s + BAND - 1}" for v, s in zip(values, start, strict=True)], np.str_)


def _top(batch: Batch) -> Float:
    return np.asarray(batch.outputs, dtype=np.float64).max(axis=1)


def _log_odds(batch: Batch) -> Float:
    top = np.clip(_top(batch), CLIP, 1 - CLIP)
    return np.log(top / (1 - top))


def _usual_error(known: Batch) -> Callable[[Batch], Float]:
    """The chance of an error by the log-odds of the top probability, learnt by logistic regression; one case wrong and
    one right are added at the mean, so that a reference without errors has a chance of them too (Platt 1999)."""
    from scipy.optimize import minimize
    from scipy.special import expit

    x, y = _log_odds(known), wrong(known)
    x, y = np.append(x, [x.mean()] * 2), np.append(y, [0.0, 1.0])

    def loss(line: Float) -> tuple[float, Float]:
        at = line[0] + line[1] * x
        apart = expit(at) - y
        value = float((np.logaddexp(0.0, at) - y * at).sum()) + 0.5 * float(line[1] ** 2)
        return value, np.array([apart.sum(), float(apart @ x) + line[1]])

    line = minimize(loss, np.zeros(2), jac=True, method="BFGS").x
    return lambda batch: expit(line[0] + line[1] * _log_odds(batch))
