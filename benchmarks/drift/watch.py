"""The product as a chart: its family of monitors on one reference, and those on trial beside them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from benchmarks.drift.lengths import Chart

if TYPE_CHECKING:
    from benchmarks.drift.charts import Cases
    from monitors import Batch, Monitor, Signal

Float = NDArray[np.floating]
TICK = 1  # cases that the product's monitors read at a time: all others decide after each case, too
LEARNT = 0.2  # share of a reference that its transforms are learnt on
PRODUCT = "product"
TRIAL = 1 / 6  # of the budget, for the monitor on trial: what distances would keep beside it


class Watch:
    """The product's monitors on one reference, a part to learn the transforms on and the rest to compare with.

    Read as one family they promise `ticks` decisions to a false alarm. Those `beside` read along, and have no say.
    """

    def __init__(self, x: Float, score: Float, ticks: float = 365.0, beside: Sequence[Monitor] = ()) -> None:
        from monitors import Reference, default_monitors

        self.ticks, self.seen, learnt = ticks, 0, int(LEARNT * len(x))
        self.monitors, self.beside = default_monitors(ticks, timed=False), [*beside]
        self.reference = Reference(
            transform=self.batch(x[:learnt], score[:learnt], 1),
            calibrate=self.batch(x[learnt:], score[learnt:], learnt + 1),
        )
        for monitor in (*self.monitors, *self.beside):
            monitor.fit(self.reference)

    def read(self, x: Float, score: Float) -> Signal:
        """What the family says after one more tick of cases, x [n, d] and score [n]."""
        return self.both(x, score)[0]

    def both(self, x: Float, score: Float) -> tuple[Signal, list[Signal]]:
        """(what the family says, what those beside it say) after one more tick."""
        from monitors import family

        batch = self.batch(x, score, self.seen + 1)
        self.seen += len(x)
        rule = family([monitor.update(batch) for monitor in self.monitors], None, self.ticks)
        return rule, [monitor.update(batch) for monitor in self.beside]

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


def alone(name: str) -> Callable[[Cases], Chart]:
    """The product's family of monitors by the name PRODUCT, TICK cases a decision, each case a patient's; or a monitor
    on trial."""
    return lambda cases: cases.once(_watched)[name]


def with_product(name: str) -> Callable[[Cases], Chart]:
    """The family with a monitor on trial in it, which has TRIAL of the budget; the others share the rest as before."""

    def both(cases: Cases) -> Chart:
        seen = cases.once(_watched)
        return np.maximum(np.log(1 - TRIAL) + seen[PRODUCT], np.log(TRIAL) + seen[name])

    return both


def _watched(cases: Cases) -> dict[str, Chart]:
    """The log_e [n, s] of the family, and of each monitor on trial."""
    from monitors import EXPERIMENTAL

    fitted = Watch(cases.reference.x, cases.reference.score, beside=[kind() for kind in EXPERIMENTAL])
    found = {name: np.full((cases.n, cases.streams), -np.inf) for name in (PRODUCT, *(k.name for k in EXPERIMENTAL))}
    for stream in range(cases.streams):
        watch = deepcopy(fitted)
        for start in range(0, cases.n - TICK + 1, TICK):
            some = slice(start, start + TICK)
            rule, beside = watch.both(cases.x[some, stream], cases.score[some, stream])
            for name, signal in ((PRODUCT, rule), *((one.monitor, one) for one in beside)):
                found[name][start + TICK - 1, stream] = signal.log_e
    return found
