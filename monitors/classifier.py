"""Can a classifier tell the stream from the reference? A two-sample test that goes on for ever, by betting."""

from __future__ import annotations

from collections.abc import Mapping
from zlib import crc32

import numpy as np
from numpy.typing import NDArray

from monitors.chart import FEW, REMEMBERED, WEIGHT, finite, first_of_each
from monitors.embedding import COMPONENTS, PATIENTS_PER_COMPONENT, seen_by
from monitors.evidence import Evidence
from monitors.protocols import NOTHING, Batch, Float, Int, Reference, Signal
from monitors.state import check_version, joined, part
from monitors.whitening import Whitener

STRENGTHS = (0.25, 0.5, 1.0)
"""Of the bets: by how many standard deviations the new cases may score above the known ones."""

FINEST = 1e-9  # rank that is told from others: chance alone may break a tie at 0
RIDGE = 1e-3  # of the mean variance, added to each: what never varied among the known cases may all the same
SEED = 2023


class ClassifierBet:
    """Bets that a classifier of yesterday tells today's cases from the known ones: a sequential predictive two-sample
    test (Podkopaev and Ramdas 2023), as an e-detector.

    Patients belong to one of two folds, by their pseudonym. A fold has a bag, at first half of `reference.calibrate`,
    and teaches a linear discriminant (Fisher 1936): the exponentially weighted mean of its cases in the stream against
    that of its bag. This judges the cases of the other fold that come at the next tick: the rank of such a case among
    the other bag is its p-value, ties broken by lot, of which the normal score z makes the e-value exp(c z - c^2 / 2),
    for each c of STRENGTHS. Then the case joins the bag of its fold, and one of them all, drawn by lot, leaves.

    Theorem, under exchangeability of patients of one stratum: what a fold is judged by was learnt from the other, and
    what stays in a bag says nothing of which case came last, so that a fold's p-values are independent and uniform for
    ever, whatever was learnt, though a bag never grows. log_e is the higher of the two folds' e-detectors, each with
    half of the budget: while nothing changes the chance that it reaches log c within n ticks is at most n / c.

    Features are the components that the embedding's chart reads, and how far from the middle a case lies. Strata with
    fewer than FEW patients in a bag are compared with the largest. Experimental: it has no share of the budget; what
    it moves is in `homeostat bench drift`.

    `statistic` is the share of known cases that the discriminant puts below a new one, on average over the tick, 0.5 by
    chance; `threshold` belongs to `log_e`.
    """

    name = "classifier"

    def __init__(self, run_length: float = 365.0) -> None:
        self.run_length = run_length

    def fit(self, reference: Reference) -> None:
        """Raises ValueError with fewer than two transform cases or two calibration patients, NaN, or two sensors."""
        learnt, ranked = reference.transform, reference.calibrate
        first = first_of_each(ranked.unit)
        if len(first) < 2:
            raise ValueError("the reference's calibration part needs two patients or more to be parted into folds")
        self.sensor = learnt.sensor
        most = max(1, min(COMPONENTS, len(first) // PATIENTS_PER_COMPONENT))
        self.see = Whitener(finite(learnt, learnt.embedding, "embedding"), most)
        far = _far(self.see(learnt.embedding))
        self.middle, self.spread = float(far.mean()), float(far.std()) + 1e-6
        x, names = self._see(ranked)[first], ranked.stratum[first]
        by_lot = np.argsort([crc32(unit.encode()) for unit in ranked.unit[first].tolist()], kind="stable")
        halves = by_lot[::2], by_lot[1::2]
        known, counts = np.unique(names, return_counts=True)
        enough = np.array([min(np.sum(names[half] == name) for half in halves) >= FEW for name in known])
        largest = known[counts.argmax()]
        self.strata = {str(name): code for code, name in enumerate([largest, *known[enough & (known != largest)]])}
        self.folds = [_Fold(x[half], self._code(names[half])) for half in halves]
        self.recent: list[str] = []
        self.taken = 0
        self.told = 0.5

    def update(self, batch: Batch) -> Signal:
        if len(batch):
            self._take(self._see(batch), batch)
        log_e, lead = max(((fold.evidence.log_e, fold) for fold in self.folds), key=lambda pair: pair[0])
        return Signal(
            monitor=self.name,
            log_e=max(NOTHING, log_e - float(np.log(len(self.folds)))),
            statistic=self.told,
            threshold=float(np.log(self.run_length)),
            n=len(batch),
            since=lead.evidence.since,
            evidence={
                "guarantee": "theorem, under exchangeability of patients of one stratum",
                "reference": sum(len(fold.bag) for fold in self.folds),
            },
        )

    def state(self) -> dict[str, NDArray]:
        own = {
            "recent": np.array(self.recent, np.str_),
            "taken": np.array(self.taken),
            "told": np.array(self.told),
        }
        return joined(own, **{f"fold{i}": fold.state() for i, fold in enumerate(self.folds)})

    def restore(self, state: Mapping[str, NDArray]) -> None:
        """Raises KeyError for the state of other features or another reference."""
        check_version(state)
        self.recent = [str(unit) for unit in state["recent"]]
        self.taken, self.told = int(state["taken"]), float(state["told"])
        for i, fold in enumerate(self.folds):
            fold.restore(part(state, f"fold{i}"))

    def _take(self, seen: Float, batch: Batch) -> None:
        first = first_of_each(batch.unit, self.recent)
        if not len(first):
            return
        units = batch.unit[first].tolist()
        self.recent = [*self.recent, *units][-REMEMBERED:]
        x, strata = seen[first], self._code(batch.stratum[first])
        fold_of = np.array([crc32(unit.encode()) % 2 for unit in units])
        rng = np.random.default_rng((SEED, self.taken))
        self.taken += len(units)
        taught = {i: self.folds[1 - i].direction() for i in sorted({*fold_of.tolist()})}
        told = list[float]()
        for i, direction in taught.items():
            own = fold_of == i
            told += self.folds[i].judge(x[own], strata[own], direction, rng, int(batch.index[0]))
        self.told = sum(told) / len(told)

    def _see(self, batch: Batch) -> Float:
        """[n, d] -> [n, k + 2]."""
        places = self.see(seen_by(self.sensor, batch))
        return np.column_stack([places, (_far(places) - self.middle) / self.spread])

    def _code(self, names: NDArray[np.str_]) -> Int:
        return np.array([self.strata.get(name, 0) for name in names.tolist()], dtype=np.int64)


class _Fold:
    """Half of the patients: what is known of them, what they teach, and the evidence against them."""

    def __init__(self, bag: Float, strata: Int) -> None:
        """bag [m, k] of known cases, one per patient, and the stratum of each, 0, 1, ..."""
        self.bag, self.places = bag, [np.flatnonzero(strata == code) for code in range(strata.max() + 1)]
        self.sums = np.stack([bag[places].sum(axis=0, dtype=np.float64) for places in self.places])
        covariance = np.cov((bag - self._centres(strata)).T).reshape(bag.shape[1], -1)
        ridge = RIDGE * float(np.trace(covariance)) / len(covariance) + 1e-12
        self.precision = np.linalg.inv(covariance + ridge * np.eye(len(covariance)))
        self.mean = np.zeros(bag.shape[1])
        self.evidence = Evidence(len(STRENGTHS))

    def direction(self) -> Float:
        """[k] along which the newest cases lie above the known ones; 0 before the first."""
        return (self.precision @ self.mean).astype(self.bag.dtype)

    def judge(self, x: Float, strata: Int, direction: Float, rng: np.random.Generator, index: int) -> list[float]:
        """Bets on a tick's cases [n, k] with what the other fold has taught, and takes them in. Returns which share of
        the known cases scores below each."""
        from scipy.special import ndtri

        apart, scores, below = x - self._centres(strata), self.bag @ direction, list[float]()
        for case, code, score in zip(x, strata.tolist(), x @ direction, strict=True):
            places = self.places[code]
            others = scores[places]
            ties = np.count_nonzero(others == score) + 1
            below.append((np.count_nonzero(others < score) + ties * rng.random()) / (len(places) + 1))
            out = rng.integers(len(places) + 1)
            if out < len(places):
                place = places[out]
                self.sums[code] += case - self.bag[place]
                self.bag[place], scores[place] = case, score
        z, c = ndtri(np.clip(below, FINEST, 1 - FINEST)), np.array(STRENGTHS)
        if direction.any():
            self.evidence.add(c * z.sum() - len(z) * c**2 / 2, index)
        kept = (1 - WEIGHT) ** np.arange(len(x), -1, -1)
        self.mean = kept[0] * self.mean + WEIGHT * (kept[1:] @ apart)
        return below

    def state(self) -> dict[str, NDArray]:
        return joined({"bag": self.bag, "sums": self.sums, "mean": self.mean}, evidence=self.evidence.state())

    def restore(self, state: Mapping[str, NDArray]) -> None:
        if (state["bag"].shape, state["sums"].shape) != (self.bag.shape, self.sums.shape):
            raise KeyError(f"a bag of {state['bag'].shape} for one of {self.bag.shape}")
        self.bag, self.sums, self.mean = (np.array(state[name]) for name in ("bag", "sums", "mean"))
        self.evidence.restore(part(state, "evidence"))

    def _centres(self, strata: Int) -> Float:
        """[n, k] the mean of the known cases of each stratum."""
        return self.sums[strata] / np.array([len(places) for places in self.places])[strata, None]


def _far(places: Float) -> Float:
    """[n] log of the squared length of the components, which are all but the last column."""
    found: Float = np.log((places[:, :-1] ** 2).sum(axis=1) + 1e-9)
    return found
