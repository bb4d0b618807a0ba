"""What is compared: each chart reads a reference once, then streams of cases, and answers with its statistic per case.

The field's statistics are as their papers have them, with no threshold of their own: all are tuned to one run length.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from benchmarks.drift.lengths import Chart
from benchmarks.drift.worlds import Stream
from monitors import EDetector
from monitors.whitening import squared_distances

if TYPE_CHECKING:
    from monitors import Batch, Signal

Float = NDArray[np.floating]
NEIGHBOUR = 5
WINDOW, EVERY = 100, 10  # of the statistics over windows: cases, and cases between two looks
TICK = 1  # cases that the product's monitors read at a time: all others decide after each case, too
LEARNT = 0.2  # share of a reference that its transforms are learnt on
SHOWN = 256  # reference cases of the windowed kernel statistic


class Cases:
    """A reference and the streams x [n, s, d], score [n, s] beside it, with what several charts need of them."""

    def __init__(self, reference: Stream, x: Float, score: Float, seed: int) -> None:
        self.reference, self.x, self.score, self.seed = reference, np.asarray(x, dtype=np.float64), score, seed
        self.n, self.streams, d = self.x.shape
        see = whitened(reference.x)
        self.known = see(reference.x)
        self.z = see(self.x.reshape(-1, d)).reshape(self.n, self.streams, -1)

    def scored(self, learnt: Float, of_reference: Float, of: Callable[[Float], Float]) -> tuple[Float, Float]:
        """(`of` of the reference, of the streams [n, s]) in coordinates learnt on `learnt` alone."""
        see = whitened(learnt)
        return of(see(of_reference)), of(see(self.x.reshape(-1, self.x.shape[2]))).reshape(self.n, self.streams)


def whitened(learnt: Float) -> Callable[[Float], Float]:
    """All principal components with unit variance, as learnt on `learnt` [m, d]."""
    x = np.asarray(learnt, dtype=np.float64)
    mean = x.mean(axis=0)
    values, vectors = np.linalg.eigh(np.cov(x.T))
    project = vectors / np.sqrt(values + 1e-6 * values[-1])
    return lambda y: (np.asarray(y, dtype=np.float64) - mean) @ project


def ewma(features: Float, weight: float) -> Chart:
    """[n, s, f], of mean 0 and covariance I before a change -> [n, s]: Hotelling's T^2 of their exponentially weighted
    mean (MEWMA, Lowry and others 1992), with its variance as it is after so many cases."""
    mean, left = np.zeros(features.shape[1:]), 1.0
    found = np.empty(features.shape[:2])
    for t, case in enumerate(features):
        mean = (1 - weight) * mean + weight * case
        left *= (1 - weight) ** 2
        found[t] = (mean**2).sum(axis=-1) / (weight / (2 - weight) * (1 - left))
    return found


def mewma(cases: Cases) -> Chart:
    return ewma(cases.z, 0.05)


def neighbours(cases: Cases) -> Chart:
    """A Shiryaev-Roberts e-detector over conformal p-values of the distance to the nearest neighbours; the transform
    and the neighbours are of one half of the reference, the ranks of the other and of all that came."""
    half = len(cases.reference.x) // 2
    see = whitened(cases.reference.x[:half])
    train = see(cases.reference.x[:half])
    ranked, seen = cases.scored(cases.reference.x[:half], cases.reference.x[half:], lambda z: _distance(train, z))
    found = np.empty(seen.shape)
    for stream, values in enumerate(_ranks(ranked, seen, cases.seed).T):
        detector = EDetector()
        for t, p in enumerate(values):
            detector.update(p, t)
            found[t, stream] = detector.log_e
    return found


def answers(cases: Cases) -> Chart:
    """The model's own score, as an exponentially weighted mean: what a change of prevalence moves first."""
    known = cases.reference.score
    return ewma(((cases.score - known.mean()) / known.std())[..., None], 0.05)


def page_hinkley(cases: Cases) -> Chart:
    """Page's chart on the squared Mahalanobis distance, with an allowance of half a standard deviation."""
    known, seen = (cases.known**2).sum(axis=1), (cases.z**2).sum(axis=2)
    return cusum((seen - known.mean()) / known.std() - 0.5)


def kernel_window(cases: Cases) -> Chart:
    """MMD^2 of the last WINDOW cases against the reference (Gretton and others 2012), Gaussian, median bandwidth."""
    known = cases.known[:SHOWN]
    gamma = 1 / np.median(squared_distances(known, known))
    within = np.exp(-gamma * squared_distances(known, known)).mean()

    def of(window: Float) -> float:
        own, cross = (
            np.exp(-gamma * squared_distances(window, window)),
            np.exp(-gamma * squared_distances(window, known)),
        )
        return float(own.mean() + within - 2 * cross.mean())

    return _over_windows(cases, of)


def kolmogorov_smirnov(cases: Cases) -> Chart:
    """The largest of the dimensions' Kolmogorov-Smirnov distances; Bonferroni's bound is a threshold on it."""
    known = np.sort(cases.known, axis=0)
    below = np.arange(1, len(known) + 1) / len(known)

    def of(window: Float) -> float:
        window = np.sort(window, axis=0)
        at = [np.searchsorted(window[:, i], known[:, i], side="right") / len(window) for i in range(known.shape[1])]
        return float(np.abs(np.stack(at, axis=1) - below[:, None]).max())

    return _over_windows(cases, of)


def product(cases: Cases) -> Chart:
    """The product's family of monitors: TICK cases a decision, each case a patient's."""
    found = np.full((cases.n, cases.streams), -np.inf)
    for stream in range(cases.streams):
        watch = Watch(cases.reference.x, cases.reference.score)
        for start in range(0, cases.n - TICK + 1, TICK):
            some = slice(start, start + TICK)
            found[start + TICK - 1, stream] = watch.read(cases.x[some, stream], cases.score[some, stream]).log_e
    return found


class Watch:
    """The product's monitors on one reference, a part to learn the transforms on and the rest to compare with.

    Read as one family they promise `ticks` decisions to a false alarm.
    """

    def __init__(self, x: Float, score: Float, ticks: float = 365.0) -> None:
        from monitors import Reference, default_monitors

        self.ticks, self.seen, learnt = ticks, 0, int(LEARNT * len(x))
        self.monitors = default_monitors(ticks, timed=False)
        self.reference = Reference(
            transform=self.batch(x[:learnt], score[:learnt], 1),
            calibrate=self.batch(x[learnt:], score[learnt:], learnt + 1),
        )
        for monitor in self.monitors:
            monitor.fit(self.reference)

    def read(self, x: Float, score: Float) -> Signal:
        """What the family says after one more tick of cases, x [n, d] and score [n]."""
        from monitors import family

        batch = self.batch(x, score, self.seen + 1)
        self.seen += len(x)
        return family([monitor.update(batch) for monitor in self.monitors], None, self.ticks)

    @staticmethod
    def batch(x: Float, score: Float, start: int) -> Batch:
        """Cases x [n, d] with the model's score [n] of class 1, numbered from `start`, each its own patient's."""
        from monitors import Batch

        number = start + np.arange(len(x))
        return Batch(
            index=number,
            unit=np.array([f"patient {i}" for i in number]),
            stratum=np.full(len(x), "all"),
            time=np.full(len(x), np.nan),
            outputs=np.column_stack([1 - score, score]).astype(np.float32),
            embedding=np.asarray(x, dtype=np.float32),
            version="v0",
            sensor="sensor",
        )


def cusum(steps: Float) -> Chart:
    """The height above the lowest point so far of the sum of steps [n, s] (Page 1954). Over true log-likelihood ratios
    it is the oracle: no chart without the densities is faster."""
    found, height = np.empty_like(steps), np.zeros(steps.shape[1])
    for t, step in enumerate(steps):
        height = np.maximum(0.0, height + step)
        found[t] = height
    return found


def _ranks(known: Float, seen: Float, seed: int) -> Float:
    """Conformal p-values of scores [n, s] among `known` and all that came before, ties broken at random."""
    luck, found = np.random.default_rng(seed).random(seen.shape), np.empty(seen.shape)
    for stream in range(seen.shape[1]):
        ranked = sorted(known.tolist())
        for t, value in enumerate(seen[:, stream]):
            place = bisect_left(ranked, value)
            found[t, stream] = (len(ranked) - place + luck[t, stream]) / (len(ranked) + 1)
            ranked.insert(place, float(value))
    return found


def _over_windows(cases: Cases, of: Callable[[Float], float]) -> Chart:
    found = np.full((cases.n, cases.streams), -np.inf)
    for t in range(WINDOW - 1, cases.n, EVERY):
        found[t] = [of(cases.z[t - WINDOW + 1 : t + 1, stream]) for stream in range(cases.streams)]
    return found


def _distance(train: Float, z: Float) -> Float:
    """[n]: to the NEIGHBOUR-th nearest of `train`."""
    return np.sqrt(np.partition(squared_distances(z, train), NEIGHBOUR, axis=1)[:, NEIGHBOUR])


CHARTS: Mapping[str, Callable[[Cases], Chart]] = {
    "mewma": mewma,
    "neighbours": neighbours,
    "answers": answers,
    "page_hinkley": page_hinkley,
    "kernel_window": kernel_window,
    "kolmogorov_smirnov": kolmogorov_smirnov,
    "product": product,
}
