"""How soon an alarm about the feed ends by itself once cases come as before, and whether it does where they don't.

`python tests/golden/feeds.py`: sixty usual days, a change until the chart alarms at a share of 5 % in one false alarm a
year, then days as before or days as changed. The alarm's ticks are looked at as agent/drift/feed.py does.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from statistics import median

import numpy as np

from agent.drift.feed import BACK, EVERY
from monitors import Batch, CaseVolume, EDetector, Reference, SchemaStream, as_before

QUIET, LOOKS, RUNS = 60, 10, 40
LINE = math.log(365 * 1.4 / 0.05)
NONE = Batch(index=np.zeros(0, int), unit=np.zeros(0, np.str_), stratum=np.zeros(0, np.str_), time=np.zeros(0),
             outputs=np.zeros((0, 2)), embedding=np.zeros((0, 2)), version="v", sensor="s")  # fmt: skip

Day = Callable[[np.random.Generator, int, float], Batch]


def day(n: int, t: int, there: np.ndarray | None = None) -> Batch:
    form = {} if there is None else {"age": np.where(there, "there", ""), "site": np.full(n, "there")}
    return Batch(index=np.arange(1, n + 1), unit=np.array([f"{t} {i}" for i in range(n)], np.str_),
                 stratum=np.full(n, "", np.str_), time=np.full(n, t * 86400.0), outputs=np.zeros((n, 2)),
                 embedding=np.zeros((n, 2)), version="v", sensor="s", tick_time=t * 86400.0, form=form)  # fmt: skip


def fewer(rng: np.random.Generator, t: int, share: float) -> Batch:
    """Some 20 cases, 8 at weekends, without this share of them."""
    return day(int(rng.poisson((8 if (t + 3) % 7 >= 5 else 20) * (1 - share))), t)


def without_age(rng: np.random.Generator, t: int, share: float) -> Batch:
    """Some 10 cases, a twentieth of them without an age, and of the others this share."""
    n = int(rng.poisson(10))
    return day(n, t, rng.random(n) < 0.95 * (1 - share))


def played(kind: type, make: Day, share: float, after: float, seed: int) -> tuple[int, list[bool]] | None:
    """(ticks to the alarm, what each look says); None where there is no alarm in half a year."""
    rng, monitor = np.random.default_rng(seed), fitted(kind)
    before = [make(rng, t, 0.0) for t in range(QUIET)]
    for batch in before:
        monitor.update(batch)
    monitor.detector = EDetector()
    for took in range(1, 183):
        if monitor.update(make(rng, QUIET + took - 1, share)).log_e >= LINE:
            ticks = max(BACK, took)
            days = [make(rng, QUIET + took + t, after) for t in range(ticks + EVERY * LOOKS)]
            ends = range(ticks, ticks + EVERY * LOOKS, EVERY)
            return took, [as_before(fitted(kind), before, days[end - ticks : end]) for end in ends]
    return None


def fitted(kind: type) -> CaseVolume | SchemaStream:
    monitor = kind()
    monitor.fit(Reference(transform=NONE, calibrate=NONE))
    return monitor


if __name__ == "__main__":
    print("| feed | change | then | alarms | days to it | ends at the first look | within ten |\n" + "| --- " * 7 + "|")
    for name, kind, make in (("volume", CaseVolume, fewer), ("schema", SchemaStream, without_age)):
        for share in (1.0, 0.5, 0.3):
            for after in (0.0, share):
                found = [one for seed in range(RUNS) if (one := played(kind, make, share, after, seed))]
                first, ten = (sum(rule(looks) for _, looks in found) for rule in (lambda looks: looks[0], any))
                then = "as before" if not after else "as changed"
                took = median(took for took, _ in found) if found else "-"
                print(
                    f"| {name} | {share:.0%} | {then} | {len(found)} of {RUNS} | {took} | {first} | {ten} |", flush=True
                )
