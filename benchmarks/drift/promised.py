"""Is the promise kept, a reference at a time? A site has only one, and no run length that others have on average."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import deepcopy

import numpy as np
from numpy.typing import NDArray

from benchmarks.drift.charts import REFERENCE
from benchmarks.drift.watch import Watch
from benchmarks.drift.worlds import World

OF_WORLD, STREAMS = 2, 20  # references of each world, streams without a change of each reference
TICKS = 365  # decisions to a false alarm, promised; one after each case
PATIENCE = 12  # times as long a stream is watched
ENOUGH = 0.7  # of what was promised

Float = NDArray[np.floating]
Progress = Callable[[str, int, int], None]


def promise(worlds: Sequence[int], progress: Progress, streams: int = STREAMS) -> dict[str, float]:
    """As `kept` tells it, of OF_WORLD references of each world."""
    found = []
    for number, seed in enumerate(worlds):
        progress(f"world {seed}: the promised run length", number, len(worlds))
        found += [realised(World(seed), which, TICKS, streams) for which in range(OF_WORLD)]
    return kept(np.array(found))


def realised(world: World, which: int, promised: int, streams: int) -> tuple[float, float]:
    """(realised over promised run length of one reference, its standard error), deciding after each case.

    Cases watched over alarms, each stream until its first alarm or to its end: the maximum likelihood estimate of the
    mean where the time to an alarm is exponential.
    """
    known = world.stream(REFERENCE, (100 * world.seed + which, 1))
    fitted, watched, alarms = Watch(known.x, known.score, promised), 0, 0
    for stream in range(streams):
        watch, cases = deepcopy(fitted), world.stream(PATIENCE * promised, (world.seed, which, 9, stream))
        for i in range(len(cases.x)):
            watched += 1
            rule = watch.read(cases.x[i : i + 1], cases.score[i : i + 1])
            if rule.log_e >= rule.threshold:
                alarms += 1
                break
    ratio = watched / max(alarms, 0.5) / promised
    return ratio, ratio / np.sqrt(max(alarms, 1))


def kept(each: Float) -> dict[str, float]:
    """[r, 2], realised over promised run length of each reference and its error -> their mean and the share with
    ENOUGH, each with its standard error over references; and by what part a reference's own figure errs, which is one
    reason why some lie below ENOUGH."""
    ratio, enough = each[:, 0], each[:, 0] >= ENOUGH
    share, n = float(enough.mean()), len(each)
    return {
        "promise.mean": float(ratio.mean()),
        "promise.mean_error": float(ratio.std(ddof=1) / np.sqrt(n)) if n > 1 else float(each[0, 1]),
        "promise.share_over_0.7": share,
        "promise.share_error": float(np.sqrt((share * (1 - share) + 1 / n) / (n + 1))),
        "promise.references": n,
        "promise.error_of_one": float(np.median(each[:, 1] / ratio)),
    }
