"""What is compared: each chart reads a reference once, then streams of cases, and answers with its statistic per case.

The field's statistics are as their papers have them, with no threshold of their own: all are tuned to one run length.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.drift import peers, scalars, watch
from benchmarks.drift.lengths import Chart
from benchmarks.drift.worlds import Stream
from monitors import EXPERIMENTAL, EDetector
from monitors.whitening import squared_distances

Float = NDArray[np.floating]
Made = TypeVar("Made")
REFERENCE = 1000  # cases
NEIGHBOUR = 5
WINDOW, EVERY = 100, 10  # of the statistics over windows: cases, and cases between two looks
SHUFFLED, LEVEL = 200, 0.05  # permutations, and the share of windows above the field's usual limit


class Cases:
    """A reference and the streams x [n, s, d], score [n, s] beside it, with what several charts need of them."""

    def __init__(self, reference: Stream, x: Float, score: Float, seed: int) -> None:
        self.reference, self.x, self.score, self.seed = reference, np.asarray(x, dtype=np.float64), score, seed
        self.n, self.streams, d = self.x.shape
        see = whitened(reference.x)
        self.known = see(reference.x)
        self.z = see(self.x.reshape(-1, d)).reshape(self.n, self.streams, -1)
        self._made: dict[Callable[[Cases], Any], Any] = {}

    def once(self, make: Callable[[Cases], Made]) -> Made:
        """What `make` derives from the cases, derived at the first call only: several charts share it."""
        if make not in self._made:
            self._made[make] = make(self)
        return self._made[make]

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
    """MMD^2 of the last WINDOW cases against the reference (Gretton and others 2012), Gaussian, median bandwidth, in
    ratio to what a permutation test of level LEVEL asks for. Coordinates are learnt on one half of the reference, a
    quarter is compared with; the test permutes the other half."""
    half = len(cases.reference.x) // 2
    see = whitened(cases.reference.x[:half])
    pool = see(cases.reference.x[half:])
    known = pool[: len(pool) // 2]
    z = see(cases.x.reshape(-1, cases.x.shape[2])).reshape(cases.n, cases.streams, -1)
    gamma = 1 / np.median(squared_distances(known, known))
    within = np.exp(-gamma * squared_distances(known, known)).mean()

    def of(window: Float) -> float:
        own, cross = (
            np.exp(-gamma * squared_distances(window, window)),
            np.exp(-gamma * squared_distances(window, known)),
        )
        return float(own.mean() + within - 2 * cross.mean())

    return _over_windows(z, of) / _permuted(np.exp(-gamma * squared_distances(pool, pool)), len(known), cases.seed)


def _permuted(kernel: Float, known: int, seed: int) -> float:
    """What a share LEVEL of the permutations of cases exceeds, by their kernel matrix: a window against `known`."""
    rng, window = np.random.default_rng(seed), min(WINDOW, len(kernel) - known)
    found = []
    for _ in range(SHUFFLED):
        drawn = rng.permutation(len(kernel))
        one, other = drawn[:window], drawn[window : window + known]
        within = [kernel[np.ix_(part, part)].mean() for part in (one, other)]
        found.append(sum(within) - 2 * kernel[np.ix_(one, other)].mean())
    return float(np.quantile(found, 1 - LEVEL))


def kolmogorov_smirnov(cases: Cases) -> Chart:
    """The largest of the dimensions' Kolmogorov-Smirnov distances; Bonferroni's bound is a threshold on it. Each is
    largest at a case of the window, just there or just before."""
    z, below = cases.z.reshape(-1, cases.z.shape[2]), np.arange(WINDOW + 1)[:, None] / WINDOW
    known = np.sort(cases.known, axis=0)
    share = np.column_stack([np.searchsorted(known[:, i], z[:, i]) for i in range(z.shape[1])]) / len(known)

    def of(window: Float) -> float:
        window = np.sort(window, axis=0)
        return float(max((below[1:] - window).max(), (window - below[:-1]).max()))

    return _over_windows(share.reshape(cases.z.shape), of)


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


def _over_windows(z: Float, of: Callable[[Float], float]) -> Chart:
    found = np.full(z.shape[:2], -np.inf)
    for t in range(WINDOW - 1, len(z), EVERY):
        found[t] = [of(z[t - WINDOW + 1 : t + 1, stream]) for stream in range(z.shape[1])]
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
    "river_adwin": scalars.adwin,
    "river_adwin_component": scalars.adwin_of_component,
    "river_adwin_entropy": scalars.adwin_of_entropy,
    "river_kswin": scalars.kswin,
    "river_page_hinkley": scalars.page_hinkley,
    watch.PRODUCT: watch.alone(watch.PRODUCT),
    **{kind.name: watch.alone(kind.name) for kind in EXPERIMENTAL},
    **{f"{watch.PRODUCT} + {kind.name}": watch.with_product(kind.name) for kind in EXPERIMENTAL},
} | ({"menelaus_hdddm": peers.hdddm} if peers.installed() else {})
UNTUNED = ("menelaus_hdddm",)  # what alarms at one setting only is played as it comes
