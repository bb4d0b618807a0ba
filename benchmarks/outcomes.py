"""What late labels add: how soon an alarm comes where the answers have become wrong, with the monitors of labels on and
off.

Real home sites: a base learnt on half of the patients; in each shuffle the others are parted anew, half of them to
compare with and half as the stream, so that while nothing changes the two are alike but for chance. A third of the
cases have a label by the next decision.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from agent.errors import HomeostatError
from benchmarks.attribution import TAUGHT, seen
from benchmarks.stream import CHANGES, Change, fit_home, hold_back, labelled, observed
from monitors import OF_LABELS, Batch, Reference, default_monitors, family
from monitors.attribution import taken

PER_TICK = 10
LABELLED = 1 / 3
SHUFFLES, FULL = 10, 40
PROMISED = 365.0  # ticks to a false alarm, of all monitors together

Progress = Callable[[str, int, int], None]


def bench(
    data: Path | None, seed: int, input: Path | None = None, full: bool = False, progress: Progress | None = None
) -> dict[str, Any]:
    """{"name", "rows", "ratios"}; the short form plays the first home with ten shuffles. Raises HomeostatError without
    `data`, and where `input` is given."""
    if input is not None:
        raise HomeostatError("the benchmark 'outcomes' reads no streams: leave --input out")
    if data is None:
        raise HomeostatError("the benchmark 'outcomes' plays real sites: name their folder with --data")
    tell, rows = progress or _tell, list[dict[str, Any]]()
    homes = {change.folder: change for change in CHANGES}
    for change in list(homes.values())[: None if full else 1]:
        with tempfile.TemporaryDirectory() as scratch:
            taught, unseen = home(data, change, seed, Path(scratch), tell)
        rows += played(f"{change.folder}: {change.home}", taught, unseen, seed, FULL if full else SHUFFLES, tell)
    return {"name": "outcomes", "rows": rows, "ratios": ratios(rows)}


def home(data: Path, change: Change, seed: int, scratch: Path, progress: Progress) -> tuple[Batch, Batch]:
    """(cases of patients who taught it, cases of all others) of a home site with their classes, as a base that was
    fitted there sees them. Raises HomeostatError without the data folder."""
    rows = labelled(data, change.folder, change.home)
    taught, unseen = hold_back(rows, len(rows) // 2, seed)
    progress(f"{change.folder}: fits on {change.home}", 0, 1)
    fit_home(data, change, taught, scratch, seed)
    names = sorted({row.label or "" for row in rows})
    parts = []
    for some in (taught[:TAUGHT], unseen):
        target = np.array([names.index(row.label or "") for row in some])
        parts.append(replace(seen(observed(scratch / "base", some), some), target=target))
    return parts[0], parts[1]


def unchanged(cases: Batch, rng: np.random.Generator) -> Batch:
    """Nothing happens: an alarm is false."""
    return cases


def another_standard(cases: Batch, rng: np.random.Generator) -> Batch:
    """Half of the labels of the first class are given as the second: a new reader, or a new guideline."""
    moved = (cases.target == 0) & (rng.random(len(cases)) < 0.5)
    return replace(cases, target=np.where(moved, 1, cases.target))


def worse_answers(cases: Batch, rng: np.random.Generator) -> Batch:
    """A quarter of the answers is another case's, as sure as ever: a broken link between image and model."""
    outputs, hit = cases.outputs.copy(), np.flatnonzero(rng.random(len(cases)) < 0.25)
    outputs[hit] = outputs[rng.permutation(hit)]
    return replace(cases, outputs=outputs)


STREAMS: Mapping[str, Callable[[Batch, np.random.Generator], Batch]] = {
    "unchanged": unchanged,
    "another standard": another_standard,
    "worse answers": worse_answers,
}


def played(
    site: str, taught: Batch, unseen: Batch, seed: int, shuffles: int, progress: Progress
) -> Iterator[dict[str, Any]]:
    """A row per stream, with labels and without: alarms, of how many shuffles, and the median of the cases to one
    (all of them where there is none)."""
    for name, change in STREAMS.items():
        for labels in (False, True):
            progress(f"{site}: {name}", list(STREAMS).index(name), len(STREAMS))
            found = [first_alarm(taught, unseen, change, labels, (seed, shuffle)) for shuffle in range(shuffles)]
            alarms = [(at, lead) for at, lead in found if lead]
            yield {
                "site": site,
                "stream": name,
                "labels": labels,
                "alarms": len(alarms),
                "of": shuffles,
                "median_cases": float(np.median([at for at, _ in found])),
                "lead": max({lead for _, lead in alarms}, key=[lead for _, lead in alarms].count, default=""),
            }


def first_alarm(
    taught: Batch,
    unseen: Batch,
    change: Callable[[Batch, np.random.Generator], Batch],
    labels: bool,
    seed: tuple[int, int],
) -> tuple[int, str]:
    """(cases to the alarm, the monitor that led to it) of a stream of half of the unseen patients in a drawn order;
    (all cases, "") where there is none."""
    rng = np.random.default_rng(seed)
    patients = rng.permutation(np.unique(unseen.unit))
    compared = np.isin(unseen.unit, patients[: len(patients) // 2])
    order = rng.permutation(np.flatnonzero(~compared))
    reference = Reference(transform=taught, calibrate=taken(unseen, np.flatnonzero(compared)))
    monitors = default_monitors(PROMISED, timed=False, labels=labels)
    for monitor in monitors:
        monitor.fit(reference)
    for start in range(0, len(order) - PER_TICK + 1, PER_TICK):
        cases = change(taken(unseen, order[start : start + PER_TICK]), rng)
        cases = replace(cases, index=np.arange(start + 1, start + PER_TICK + 1))
        told = replace(cases, target=np.where(rng.random(PER_TICK) < LABELLED, cases.target, -1))
        read = [monitor.update(told if isinstance(monitor, OF_LABELS) else cases) for monitor in monitors]
        rule = family(read, None, PROMISED)
        if rule.log_e >= rule.threshold:
            return start + PER_TICK, str(rule.evidence["lead"])
    return len(order), ""


def ratios(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """The share of shuffles with an alarm, per stream, with labels and without, over all sites."""
    found = {}
    for name in STREAMS:
        for labels in (True, False):
            of = [row for row in rows if row["stream"] == name and row["labels"] == labels]
            key = f"{name.replace(' ', '_')}.{'with' if labels else 'without'}_labels"
            found[key] = sum(row["alarms"] for row in of) / sum(row["of"] for row in of)
    return found


def _tell(what: str, done: int, of: int) -> None:
    print(f"{done}/{of} {what}", file=sys.stderr, flush=True)
