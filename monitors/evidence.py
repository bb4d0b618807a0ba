"""From p-values to evidence that may be looked at after every tick, and the one rule that turns it into an alarm."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from monitors.protocols import NOTHING, Batch, Float, Signal

FINEST = 1e-3
"""The smallest p-value that is told from others."""

ONSET_SHOWN = float(np.log(10))
"""An onset is named once the evidence since it is ten to one."""


class Evidence:
    """Shiryaev-Roberts e-detectors side by side, one per bet, and their mean.

    M <- e * (1 + M) sums the evidence of every possible onset, and M_t - t is a martingale while the e-values have the
    expectation 1 given what came before (Shin, Ramdas and Rinaldo 2024). The mean over bets is an e-detector too.
    """

    def __init__(self, bets: int) -> None:
        self._log = np.full(bets, -np.inf)
        self._since_onset = np.zeros(bets)
        self._onset = np.zeros(bets, dtype=np.int64)

    def add(self, log_e: Float, index: int) -> None:
        """Takes the tick's e-values [bets] as logarithms; `index` is the number of the tick's first case."""
        self._log = log_e + np.logaddexp(0.0, self._log)
        restarted = self._since_onset <= 0
        self._onset = np.where(restarted, index, self._onset)
        self._since_onset = np.where(restarted, 0.0, self._since_onset) + log_e

    @property
    def log_e(self) -> float:
        return max(NOTHING, float(np.logaddexp.reduce(self._log)) - float(np.log(len(self._log))))

    @property
    def since(self) -> int | None:
        """The index of the first case after the onset that contributes most to the evidence; of the bets' onsets that
        are within ten to one of the best, the latest."""
        best = float(self._since_onset.max())
        return int(self._onset[self._since_onset >= best - ONSET_SHOWN].max()) if best >= ONSET_SHOWN else None

    def state(self) -> dict[str, NDArray]:
        return {"log": self._log, "since_onset": self._since_onset, "onset": self._onset}

    def restore(self, state: Mapping[str, NDArray]) -> None:
        self._log = np.array(state["log"], dtype=float)
        self._since_onset = np.array(state["since_onset"], dtype=float)
        self._onset = np.array(state["onset"], dtype=np.int64)


class EDetector(Evidence):
    """An e-detector over p-values (see Evidence), a bet per power calibrator.

    e = kappa * max(p, FINEST)^(kappa - 1), scaled to expectation 1 for a uniform p (Vovk and Wang 2021). Small kappas
    are quick on gross shifts, large ones patient on faint shifts. A rank among some hundred past days tells no p-value
    below 1/1000: an e-value bounded there overshoots less, and is larger where it matters.
    """

    def __init__(self, kappas: Sequence[float] = (0.1, 0.25, 0.5, 0.8)) -> None:
        super().__init__(len(kappas))
        self.kappas = np.array(kappas)
        self._scale = np.log(self.kappas) - np.log1p((self.kappas - 1) * FINEST**self.kappas)

    def update(self, p: float, index: int) -> None:
        """Takes the tick's p-value, 0 < p <= 1; `index` is the number of the tick's first case."""
        if not 0 < p <= 1:
            raise ValueError(f"a p-value lies in (0, 1], not {p}")
        self.add(self._scale + (self.kappas - 1) * np.log(max(p, FINEST)), index)


class Ranked(Protocol):
    """A monitor that ranks each tick among the past ones, and has e-detectors read the ranks."""

    def update(self, batch: Batch) -> Signal: ...

    def begin_anew(self) -> None:
        """Forgets the evidence, and not what it ranks among."""
        ...


def as_before(monitor: Ranked, before: Iterable[Batch], lately: Sequence[Batch]) -> bool:
    """Whether the n latest ticks look as those before a change did, to a fitted monitor that has read nothing yet.

    It is, where the evidence of a change within the latest stays below 2n. That of a Shiryaev-Roberts e-detector is n
    at most on average while nothing changes, so an unchanged feed passes every other time at least (Doob's inequality;
    simulated by tests/golden/feeds.py, three times of four). What still differs is shown to do so if n ticks are as
    many as the change took to be seen; no evidence of n ticks is no proof for less. False without ticks on either side.
    """
    read = len([monitor.update(batch) for batch in before])
    monitor.begin_anew()
    highest = max((monitor.update(batch).log_e for batch in lately), default=np.inf)
    return read > 0 and bool(highest < np.log(2 * max(1, len(lately))))


def family(
    signals: Sequence[Signal], weights: Sequence[float] | None = None, ticks_per_false_alarm: float = 365.0
) -> Signal:
    """The whole deployment's one false-alarm budget: the highest of the monitors' readings, each by its weight.

    A monitor alone would reach c / weight after as many ticks on average; rates of false alarms add up at most, so all
    of them together reach `ticks_per_false_alarm` = c after c ticks, or later, while nothing has changed: alarm when
    log_e >= threshold = log c. Theorem for e-detectors, of which the weighted maximum stays below the weighted mean;
    simulated for charts (tests/golden/run_lengths.py). `weights`, one per signal, sum to 1 or less: what is not given
    out stands for monitors that are not heard. By default a monitor has the weight that its own `run_length` was set
    for, c / run_length. The onset is the leading monitor's. Raises ValueError on other weights.
    """
    given = [ticks_per_false_alarm * np.exp(-s.threshold) for s in signals] if weights is None else weights
    share = np.asarray(given, dtype=float)
    if len(share) != len(signals) or np.any(share < 0) or share.sum() > 1 + 1e-9:
        raise ValueError("weights are one per signal, not negative, and sum to 1 at most")
    heard = [(float(np.log(w)) + s.log_e, s) for w, s in zip(share, signals, strict=True) if w > 0]
    log_e, lead = max(heard, key=lambda pair: pair[0]) if heard else (NOTHING, None)
    return Signal(
        monitor="family",
        log_e=max(NOTHING, log_e),
        statistic=max(NOTHING, log_e),
        threshold=float(np.log(ticks_per_false_alarm)),
        n=max((s.n for s in signals), default=0),
        since=lead.since if lead else None,
        evidence={s.monitor: s.log_e for s in signals} | ({"lead": lead.monitor} if lead else {}),
    )
