"""Streams of images that nobody has a model for: a frozen encoder sees them, and the monitors are played by themselves.

Without answers the prediction's chart stays where it is, and its share of the budget isn't used. Each shuffle draws
anew which of home's patients are the reference and which are the quiet cases: nothing was trained on them.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agent.cases.datafolder import Row, read_folder
from agent.drift.ticks import CASES_PER_TICK
from agent.errors import HomeostatError
from benchmarks.stream import (
    ALL,
    CHEST,
    IN_TIME,
    NULL_SHUFFLES,
    SHUFFLES,
    Change,
    hold_back,
    observed,
    row_of,
)
from monitors import Batch, Reference, default_monitors, family

LEARNT = 1 / 4  # share of the reference's patients that transforms are learnt on
QUIET = 1 / 3  # share of home's images that are played as unchanged
TICKS = 365.0  # to a false alarm

SENSED = (
    tuple(Change("nuclei", "fluo_a_256", new) for new in
          ("fluo_b_360", "fluo_c_696x520", "fluo_d_other", "he_white_bg", "brightfield_gray")),
    tuple(Change("retina", "drive_nl", new) for new in ("chase_uk", "stare_us")),
)  # fmt: skip


def play_sensed(data: Path, changes: Sequence[Change], seed: int, scratch: Path) -> list[dict[str, Any]]:
    """Every shuffle of the changes of one home site, and the null stream with the first of them.

    Raises HomeostatError without the data folder, or the encoder's weights.
    """
    from strategies.base import import_base

    weights, folder = data / "models" / CHEST, data / changes[0].folder
    for needed in (weights, folder / "cases.csv"):
        if not needed.exists():
            raise HomeostatError(f"there is no {needed}: name the folder that holds it with --data")
    import_base(f"{changes[0].backbone}:{weights}", ("normal", "pneumonia"), scratch / "base")

    def seen(site: str) -> tuple[list[Row], Any]:
        rows = [*read_folder(folder, [f"site={site}"]).rows]
        return rows, np.stack([reading.embedding for reading in observed(scratch / "base", rows)])

    home, found = seen(changes[0].home), list[dict[str, Any]]()
    for number, change in enumerate(changes):
        found += _shuffles(change, home, seen(change.new), seed, null=number == 0)
    return found


def _shuffles(
    change: Change, home: tuple[list[Row], Any], new: tuple[list[Row], Any], seed: int, null: bool
) -> Iterator[dict[str, Any]]:
    place = {row.case_id: i for i, row in enumerate(home[0])}

    def some(rows: Sequence[Row], start: int) -> Batch:
        return _batch(rows, home[1][[place[row.case_id] for row in rows]], start)

    for stream, count in (("change", SHUFFLES), ("null", NULL_SHUFFLES if null else 0)):
        for shuffle in range(count):
            order = random.Random(1000 * seed + shuffle)
            known, quiet = hold_back(home[0], quiet_cases(len(home[0])), order.randrange(2**31))
            calibrate, learnt = hold_back(known, round(LEARNT * len(known)), order.randrange(2**31))
            order.shuffle(quiet)
            parts = [some(quiet, 1)]
            if stream == "change":
                after = order.sample(range(len(new[0])), min(IN_TIME, len(new[0])))
                parts.append(_batch([new[0][i] for i in after], new[1][after], len(quiet) + 1))
            reference = Reference(transform=some(learnt, -2000), calibrate=some(calibrate, -1000))
            alarm, changed = first_alarm(reference, parts), sum(len(part) for part in parts[1:])
            yield row_of(change, stream, shuffle, len(quiet), alarm, changed, ALL)


def quiet_cases(home: int) -> int:
    """Whole ticks, one at least."""
    return CASES_PER_TICK * max(1, round(QUIET * home / CASES_PER_TICK))


def first_alarm(reference: Reference, parts: Sequence[Batch]) -> int | None:
    """The number of the last case of the tick in which the monitors alarm, ticks running across the parts."""
    watching = default_monitors(TICKS, timed=False)
    for monitor in watching:
        monitor.fit(reference)
    units = np.concatenate([part.unit for part in parts])
    x = np.concatenate([part.embedding for part in parts])
    for start in range(0, len(x) - CASES_PER_TICK + 1, CASES_PER_TICK):
        tick = slice(start, start + CASES_PER_TICK)
        batch = _seen(units[tick], x[tick], start + 1)
        if family([monitor.update(batch) for monitor in watching], None, TICKS).log_e >= np.log(TICKS):
            return start + CASES_PER_TICK
    return None


def _batch(rows: Sequence[Row], x: Any, start: int) -> Batch:
    return _seen(np.array([row.patient_id for row in rows]), x, start)


def _seen(units: Any, x: Any, start: int) -> Batch:
    n = len(x)
    return Batch(
        index=start + np.arange(n),
        unit=units,
        stratum=np.full(n, "all"),
        time=np.full(n, np.nan),
        outputs=np.ones((n, 1)),
        embedding=np.asarray(x, dtype=np.float32),
        version="v0",
        sensor="sensor",
    )
