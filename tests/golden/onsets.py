"""Prints how often the onset's interval holds the case of the change, and how wide it is.

    python tests/golden/onsets.py [--worlds 10] [--streams 6]

Streams of the worlds of `bench drift`, seeds 0 on, one reference of 1,000 cases each. The product's monitors read five
cases at a time, one false alarm in 365 ticks; what is asked is the onset at the alarm, and 60 and 200 cases later.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[2])]

from benchmarks.drift.charts import Watch  # noqa: E402
from benchmarks.drift.worlds import World  # noqa: E402
from monitors import onset  # noqa: E402

SHIFTS = ("mean", "prevalence", "subpop", "cov")
CHANGES, LATER, TICK, LENGTH = (60, 200, 350), (0, 60, 200), 5, 1500


def asked(seed: int, shift: str, i: int) -> Iterator[tuple[int, bool, int, int, int]]:
    """(cases since the alarm, covered, width, error of the onset, error of the chart's guess); nothing of a stream
    whose alarm came before the change, or never."""
    world, change = World(seed), CHANGES[i % len(CHANGES)]
    known, stream = world.stream(1000, (seed, 1)), world.stream(LENGTH, (seed, 2, i), shift, change)
    watch = Watch(known.x, known.score)
    for start in range(0, LENGTH - max(LATER), TICK):
        signal = watch.read(stream.x[start : start + TICK], stream.score[start : start + TICK])
        if signal.log_e >= signal.threshold:
            break
    else:
        return
    if start < change or signal.since is None:
        return
    for later in LATER:
        cases = Watch.batch(stream.x[: start + TICK + later], stream.score[: start + TICK + later], 1)
        found = onset(watch.reference, cases, signal.since)
        if found is not None:
            covered, first = found.low <= change + 1 <= found.high, change + 1
            yield later, covered, found.high - found.low, abs(found.case - first), abs(signal.since - first)


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--worlds", type=int, default=10)
    parser.add_argument("--streams", type=int, default=6)
    given = parser.parse_args()
    every: dict[int, list[bool]] = {}
    for shift in SHIFTS:
        rows = [row for seed in range(given.worlds) for i in range(given.streams) for row in asked(seed, shift, i)]
        for later in LATER:
            of = np.array([row[1:] for row in rows if row[0] == later], dtype=float)
            every.setdefault(later, []).extend(of[:, 0].astype(bool).tolist())
            width, error, guessed = np.median(of[:, 1:], axis=0)
            print(f"{shift:10} alarm + {later:3}: {len(of):3} streams, covered {of[:, 0].mean():.2f}, "
                  f"median width {width:.0f}, error {error:.0f}, the chart's {guessed:.0f}")  # fmt: skip
    for later, covered in every.items():
        print(f"all        alarm + {later:3}: {len(covered):3} streams, covered {np.mean(covered):.3f}")


if __name__ == "__main__":
    main()
