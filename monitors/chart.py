"""The chart behind the monitors: exponentially weighted means of what is seen, and how long each height takes to reach
while nothing changes."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from monitors.protocols import NOTHING, Batch, Float, Int, Signal
from monitors.state import check_version, joined

WEIGHT = 0.03
"""Of the newest patient in the mean: the chart remembers some 33 of them."""

SLOW, BUSY = 0.01, 12
"""A second mean remembers 100 patients: where as many come a tick as BUSY, the first has forgotten what it saw before
after a few looks, and a faint shift never adds up."""

WEIGHTS = np.array([WEIGHT, SLOW])

FEW = 20
"""A stratum with fewer reference patients than this is compared with the largest one."""

PACE = 1 / 28
"""Weight of the newest tick in the mean number of patients a tick: four weeks of days."""

REMEMBERED = 64
"""Patients that are not counted again at once: a visit may straddle ticks."""

ONSET_SHOWN = float(np.log(10))
"""An onset is named once the chart is as high as it is every tenth tick at most while nothing changes."""

RIDGE = 1e-4  # of the largest variance
REFERENCES, STREAMS, LENGTH, CHUNK = 16, 8, 6000, 40  # of the simulation: streams are of each drawn reference
SPACINGS = (1, 3, 10, 30, 100)  # patients between two looks
LEVELS = 160
GAUSSIAN = 0.5  # growth of the log run length with T^2 in the tail, where there is nothing to fit it on
COUNTED = 20  # alarms below which a run length is carried on from lower levels and not counted


class Chart:
    """MEWMA (Lowry and others 1992): Hotelling's T^2 of exponentially weighted means of features, one per patient.

    A patient counts once, by the first case of the tick. Features are taken from the mean of their stratum and scaled
    by the covariance within strata, both estimated on the reference.

    How long the chart takes to a height while nothing changes is simulated once, over references drawn anew from this
    one (bootstrap): their means and covariances err as this one's do, so the run length is that of a site which has one
    reference only and does not know the truth. `log_run_length` is that of today's height, in ticks: a monitor that
    alarms where it reaches log(A) does so after A ticks on average. It is learnt for looks after every 1 to 100
    patients, and read at the mean number of patients per tick so far. Simulated, under exchangeability of patients
    within strata.

    From BUSY patients a tick on the higher of two means is read, each at half of the rate of false alarms (Bonferroni);
    with fewer the longer memory would only cost delay.
    """

    def __init__(self, floor: float = 0.0) -> None:
        """floor: variance that is added to every feature, in its own units: what never varied in the reference may all
        the same."""
        self.floor = floor

    def fit(self, features: Float, units: NDArray[np.str_], strata: NDArray[np.str_]) -> None:
        """features [n, k], one row per case; the first of each patient is kept. Raises ValueError without any."""
        if not len(features):
            raise ValueError("the reference's calibration part is empty: there is nothing to compare with")
        first = first_of_each(units)
        x, names = np.asarray(features, dtype=np.float64)[first], strata[first]
        known, counts = np.unique(names, return_counts=True)
        enough = counts >= FEW
        self.strata = {str(name): code for code, name in enumerate(known[enough])}
        self.largest = int(np.argmax(counts[enough])) if enough.any() else 0
        codes = self._code(names)
        self.centres = np.stack([x[codes == code].mean(axis=0) for code in range(max(1, len(self.strata)))])
        self.fewest = int(counts[enough].min()) if enough.any() else len(x)
        apart = x - self.centres[codes]
        floor = self.floor * np.eye(x.shape[1])
        self.whiten = _whitening(apart.T @ apart / max(1, len(x) - len(self.centres)) + floor)
        self.added = (self.whiten.T @ floor @ self.whiten).astype(np.float32)
        self.known = (apart @ self.whiten).astype(np.float32)
        self.levels: dict[int, Float] = {}
        self.means = np.zeros((len(WEIGHTS), x.shape[1]))
        self.left = np.ones(len(WEIGHTS))  # share of each mean that is still the starting point
        self.heights = np.zeros(len(WEIGHTS))
        self.risen_since = np.full(len(WEIGHTS), -1)  # index of a case, -1 while no higher than usual
        self.pace = float("nan")
        self.recent: list[str] = []

    def update(self, features: Float, batch: Batch) -> None:
        """Takes the features [n, k] of a tick's cases."""
        first = first_of_each(batch.unit, self.recent)
        if not len(first):
            return
        units = batch.unit[first]
        self.recent = [*self.recent, *units.tolist()][-REMEMBERED:]
        codes = self._code(batch.stratum[first])
        z = (np.asarray(features, dtype=np.float64)[first] - self.centres[codes]) @ self.whiten
        kept = (1 - WEIGHTS[:, None]) ** np.arange(len(z), -1, -1)
        self.means = kept[:, :1] * self.means + WEIGHTS[:, None] * (kept[:, 1:] @ z)
        self.left *= kept[:, 0]
        self.pace = len(z) if np.isnan(self.pace) else self.pace + PACE * (len(z) - self.pace)
        self.heights = (self.means**2).sum(axis=1) / _variance(WEIGHTS, self.left)
        k = z.shape[1]
        risen = self.heights > k + np.sqrt(2 * k)  # a standard deviation above its mean
        begun = np.where(self.risen_since < 0, int(batch.index[first].min()), self.risen_since)
        self.risen_since = np.where(risen, begun, -1)

    @property
    def since(self) -> int | None:
        """The index of the first case of the tick in which the chart rose above its usual height for good; None
        while it is no higher than it often is."""
        return self._leading()[2]

    @property
    def log_run_length(self) -> float:
        """Natural logarithm of the ticks, on average, to today's height; NOTHING before the first patient."""
        return self._leading()[1]

    @property
    def mean(self) -> Float:
        """[k] the weighted mean that is read, in whitened features."""
        return self.means[self._leading()[0]]

    def _leading(self) -> tuple[int, float, int | None]:
        """(which mean is read, the log of its run length, its onset where one is named)."""
        if np.isnan(self.pace):
            return 0, NOTHING, None
        read = len(WEIGHTS) if self.pace >= BUSY else 1
        logs = [self._log_run_length(i) - np.log(read) for i in range(read)]
        leader = int(np.argmax(logs))
        risen = int(self.risen_since[leader])
        return leader, float(logs[leader]), risen if logs[leader] >= ONSET_SHOWN and risen >= 0 else None

    def _log_run_length(self, which: int) -> float:
        if which not in self.levels:
            known, added = self.known.tobytes(), self.added.tobytes()
            weight = float(WEIGHTS[which])
            self.levels[which] = simulated(known, self.known.shape[1], weight, added, self.fewest)
        heights, logs = self.levels[which][0], self.levels[which][1:]
        place = np.interp(np.log(self.pace), np.log(SPACINGS), np.arange(len(SPACINGS)))
        low = int(min(place, len(SPACINGS) - 2))
        at = [_read(heights, logs[i], float(self.heights[which])) for i in (low, low + 1)]
        return float(at[0] + (place - low) * (at[1] - at[0]))

    def signal(self, monitor: str, run_length: float, n: int, **evidence: float | str) -> Signal:
        """What a monitor of this name says after a tick of n cases, set to `run_length` ticks if it decided alone."""
        leader, reached, since = self._leading()
        return Signal(
            monitor=monitor,
            log_e=reached,
            statistic=float(self.heights[leader]),
            threshold=float(np.log(run_length)),
            n=n,
            since=since,
            evidence=self.guarantee() | evidence,
        )

    def moved(self) -> Float:
        """[k] the mean in each feature's own standard deviation: which of them drive the height."""
        back = np.linalg.pinv(self.whiten)
        return (self.mean @ back) / (np.sqrt((back**2).sum(axis=0)) + 1e-12)

    def state(self) -> dict[str, NDArray]:
        return joined(
            {
                "means": self.means,
                "left": self.left,
                "heights": self.heights,
                "risen_since": self.risen_since,
                "pace": np.array(self.pace),
                "recent": np.array(self.recent, np.str_),
                **{f"levels {which}": levels for which, levels in self.levels.items()},
            }
        )

    def restore(self, state: Mapping[str, NDArray]) -> None:
        """Raises KeyError for the state of a chart of other features."""
        check_version(state)
        if state["means"].shape != self.means.shape:
            raise KeyError(f"a state of {state['means'].shape[1]} features for a chart of {self.means.shape[1]}")
        self.means, self.left, self.heights, self.risen_since = (
            np.array(state[name]) for name in ("means", "left", "heights", "risen_since")
        )
        self.pace = float(state["pace"])
        self.recent = [str(unit) for unit in state["recent"]]
        self.levels = {w: np.array(state[f"levels {w}"]) for w in range(len(WEIGHTS)) if f"levels {w}" in state}

    def guarantee(self) -> dict[str, str | int]:
        """What may be promised, in words, for a signal's evidence."""
        promise = "simulated, under exchangeability of patients within strata"
        if len(self.known) < FEW:
            promise += f"; nothing is promised with {len(self.known)} reference patients"
        return {"guarantee": promise, "reference": len(self.known)}

    def _code(self, strata: NDArray[np.str_]) -> Int:
        return np.array([self.strata.get(str(s), self.largest) for s in strata], dtype=np.int64)


def first_of_each(units: NDArray[np.str_], but: Sequence[str] = ()) -> Int:
    """Positions of the first case of each unit, in order, `but` some."""
    first: dict[str, int] = {}
    for position, unit in enumerate(units.tolist()):
        first.setdefault(unit, position)
    return np.array([position for unit, position in first.items() if unit not in but], dtype=np.int64)


@lru_cache(maxsize=16)
def simulated(
    known: bytes, k: int, weight: float, added: bytes = b"", fewest: int | None = None, seed: int = 2026
) -> Float:
    """[1 + len(SPACINGS), LEVELS]: heights, and for looks at each spacing the log of the mean number of looks to them.

    known: the reference's whitened features as bytes, float32 [n, k]. Streams and references are drawn from them; to
    the covariance of these `added` is added, float32 [k, k] as bytes. fewest: patients of the smallest stratum, whose
    centre errs most: for as long as a batch of its cases lasts the stream is taken from there.
    """
    z = np.frombuffer(known, dtype=np.float32).reshape(-1, k)
    more = np.frombuffer(added, dtype=np.float32).reshape(k, k) if added else np.zeros((k, k), np.float32)
    rng = np.random.default_rng(seed)
    n, streams = len(z), REFERENCES * STREAMS
    centres, whitens = np.empty((REFERENCES, 1, k), np.float32), np.empty((REFERENCES, k, k), np.float32)
    for r in range(REFERENCES):
        drawn = z[rng.integers(0, n, n)]
        centres[r] = drawn[:fewest].mean(axis=0)
        whitens[r] = _whitening(np.cov(drawn.T).reshape(k, k) + more) if n > 1 else np.eye(k)
    age = np.arange(CHUNK)[:, None] - np.arange(CHUNK)
    recent = np.where(age >= 0, weight * (1 - weight) ** np.maximum(age, 0), 0.0).astype(np.float32)
    kept = ((1 - weight) ** np.arange(1, CHUNK + 1)).astype(np.float32)[:, None]
    height, mean = np.empty((LENGTH, streams), np.float32), np.zeros((CHUNK, streams * k), np.float32)
    for start in range(0, LENGTH, CHUNK):
        cases = z[rng.integers(0, n, (CHUNK, streams))].reshape(CHUNK, streams * k)
        mean = recent @ cases + kept * mean[-1]
        left = (1 - weight) ** np.arange(start + 1, start + CHUNK + 1)
        each = mean.reshape(CHUNK, REFERENCES, STREAMS * k).transpose(1, 0, 2).reshape(REFERENCES, -1, k)
        full = np.repeat(1 - left, STREAMS).astype(np.float32)[:, None]
        seen = (each - full * centres) @ whitens
        squares = np.einsum("rsk,rsk->rs", seen, seen).reshape(REFERENCES, CHUNK, STREAMS).transpose(1, 0, 2)
        height[start : start + CHUNK] = squares.reshape(CHUNK, streams) / np.asarray(_variance(weight, left))[:, None]
    grid = np.linspace(np.quantile(height, 0.5), float(height.max()), LEVELS)
    return np.stack([grid, *(_run_lengths(height[s - 1 :: s], grid) for s in SPACINGS)])


def _run_lengths(height: Float, grid: Float) -> Float:
    """Logs of the looks to each height: one over the rate of alarms, that of each reference taken alone (alarms over
    looks, as for an exponential time to the first one) and then averaged: what a site is promised is a rate."""
    highest = np.maximum.accumulate(height, axis=0)
    passed = np.stack([np.searchsorted(stream, grid) for stream in highest.T])  # looks before the first at the height
    alarms = (passed < len(height)).sum(axis=0)
    looks = np.minimum(passed + 1, len(height))
    rate = [(at < len(height)).sum(axis=0) / seen.sum(axis=0) for at, seen in _by_reference(passed, looks)]
    logs = -np.log(np.maximum(np.mean(rate, axis=0), 0.5 / looks.sum(axis=0)))
    return np.maximum.accumulate(_carried_on(grid, logs, alarms))


def _by_reference(*found: Int) -> Iterator[tuple[Int, ...]]:
    yield from zip(*(one.reshape(REFERENCES, STREAMS, -1) for one in found), strict=True)


def _carried_on(grid: Float, logs: Float, alarms: Int) -> Float:
    """Where fewer than COUNTED streams alarmed, along the line through the levels just below."""
    last = int(np.flatnonzero(alarms >= COUNTED)[-1])
    fitted = np.flatnonzero((alarms <= 5 * COUNTED) & (alarms >= COUNTED))
    slope = np.polyfit(grid[fitted], logs[fitted], 1)[0] if len(fitted) > 3 and np.ptp(grid) > 0 else GAUSSIAN
    return np.where(np.arange(len(grid)) > last, logs[last] + slope * (grid - grid[last]), logs)


def _read(heights: Float, logs: Float, height: float) -> float:
    """The log run length at a height, carried on along the last levels above the highest."""
    if height <= heights[-1]:
        return float(np.interp(height, heights, logs))
    risen = float(heights[-1] - heights[-20])
    slope = (logs[-1] - logs[-20]) / risen if risen > 0 else GAUSSIAN
    return float(min(logs[-1] + slope * (height - heights[-1]), -NOTHING))


def _variance(weight: float | Float, left: float | Float) -> float | Float:
    """Of the weighted mean of independent cases with unit variance."""
    return weight / (2 - weight) * (1 - left**2)


def _whitening(covariance: Float) -> Float:
    """[k, k] -> [k, k]: features times it have unit covariance."""
    values, vectors = np.linalg.eigh(covariance)
    return vectors / np.sqrt(np.maximum(values, 0.0) + RIDGE * values[-1] + 1e-12)


def finite(batch: Batch, values: Float, what: str) -> Float:
    """The values as they are. Raises ValueError where one is NaN or infinite."""
    if not np.isfinite(values).all():
        raise ValueError(f"{what} of the tick of case {batch.index[0]} holds NaN or infinity")
    return values
