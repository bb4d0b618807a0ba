"""Attribution: what the product calls a change, over changes of which the kind is known.

Seeded shifts in synthetic worlds (those of `bench drift`), at 500 patients; real changes of site and real changes of
prevalence only with `--data`. `--input FOLDER` names the changes of *.npz streams that somebody else made.
"""

from __future__ import annotations

import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agent.errors import HomeostatError
from benchmarks.drift import SETTLED, answered
from benchmarks.drift.watch import Watch
from benchmarks.drift.worlds import SHIFTS, World
from benchmarks.stream import CHANGES, Change, hold_back, observed, write_folder
from monitors import Attribution, Batch, Reference, Shift, attribute

KINDS: Mapping[str, Shift] = {
    "mean": Shift.ACQUISITION,
    "cov": Shift.ACQUISITION,
    "ramp": Shift.ACQUISITION,
    "subpop": Shift.POPULATION,
    "prevalence": Shift.PREVALENCE,
}
REFERENCE, RISEN = 1000, 600  # RISEN: cases after which a ramp has reached its height
WORLDS, SHORT, STREAMS = 10, 3, 4
TAUGHT = 300  # cases that transforms are learnt on
RESAMPLES = 10  # of a real site's patients in another mix

Progress = Callable[[str, int, int], None]


def bench(
    data: Path | None, seed: int, input: Path | None = None, full: bool = False, progress: Progress | None = None
) -> dict[str, Any]:
    """{"name", "rows", "ratios"}; the short form plays three worlds. Real sites need `data`."""
    if input is not None:
        return {"name": "attribution", "rows": list(answered(input)), "ratios": {}}
    tell = progress or _tell
    rows = list(seeded(range(seed, seed + (WORLDS if full else SHORT)), tell))
    if data is not None:
        for change in CHANGES:
            with tempfile.TemporaryDirectory() as scratch:
                rows += real(data, change, seed, Path(scratch), tell)
    return {"name": "attribution", "rows": confusion(rows), "ratios": ratios(rows)}


def seeded(worlds: Sequence[int], progress: Progress) -> Iterator[dict[str, Any]]:
    """One row {"source", "shift", "is", "called", "part"} per stream."""
    for number, at in enumerate(worlds):
        world = World(at)
        known = world.stream(REFERENCE, (at, 1))
        watch = Watch(known.x, known.score)
        labels = known.label[-len(watch.reference.calibrate) :].astype(int)
        for shift in SHIFTS:
            progress(f"world {at}: {shift}", number, len(worlds))
            for i in range(STREAMS):
                stream = world.stream(RISEN + SETTLED, (at, 2, i), shift)
                cases = Watch.batch(stream.x[RISEN:], stream.score[RISEN:], REFERENCE + 1)
                answer = attribute(watch.reference, cases, labels)
                yield _row("worlds", shift, KINDS[shift], answer)


def real(data: Path, change: Change, seed: int, scratch: Path, progress: Progress) -> Iterator[dict[str, Any]]:
    """A base fitted on the home site; then the other site's patients, and unseen ones of home in another mix.

    Home's mix changes by leaving out three quarters of every other class's patients. Raises HomeostatError without the
    data folder.
    """
    from agent.cases.datafolder import read_folder
    from agent.deploy import fit

    folder = data / change.folder
    if not (folder / "cases.csv").exists():
        raise HomeostatError(f"{folder} is no data folder: name the one that holds it with --data")
    home = [row for row in read_folder(folder, [f"site={change.home}"]).rows if row.label]
    new = [row for row in read_folder(folder, [f"site={change.new}"]).rows if row.label]
    taught, unseen = hold_back(home, len(home) // 2, seed)
    calibrate, quiet = hold_back(unseen, len(unseen) // 2, seed + 1)
    write_folder(scratch / "home", taught)
    spec = change.backbone
    if change.weights and (data / "models" / change.weights).exists():
        spec = f"{change.backbone}:{data / 'models' / change.weights}"
    progress(f"{change.folder}: fits on {change.home}", 0, 1)
    fit(scratch / "home", scratch / "base", where=(), backbone=spec, epochs=None, seed=seed, progress=_silent)
    parts = {"taught": taught[:TAUGHT], "calibrate": calibrate, "quiet": quiet, "new": new}
    said = {name: observed(scratch / "base", rows) for name, rows in parts.items()}
    batches = {name: _seen(said[name], rows) for name, rows in parts.items()}
    reference = Reference(transform=batches["taught"], calibrate=batches["calibrate"])
    names = sorted({row.label or "" for row in home})
    labels = np.array([names.index(row.label or "") for row in calibrate])
    mark = f"{change.folder}: {change.home}"
    answer = attribute(reference, batches["new"], labels)
    yield _row(mark, f"to {change.new}", Shift.ACQUISITION, answer)
    for i in range(RESAMPLES):
        rng = np.random.default_rng((seed, i))
        more = names[i % len(names)]
        kept = [j for j, row in enumerate(quiet) if row.label == more or rng.random() < 0.25]
        answer = attribute(reference, _seen([said["quiet"][j] for j in kept], [quiet[j] for j in kept]), labels)
        yield _row(mark, f"more {more}", Shift.PREVALENCE, answer)


def confusion(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per source and shift: how often it was called what."""
    counted: dict[tuple[str, str, str], Counter[str]] = {}
    for row in rows:
        counted.setdefault((row["source"], row["shift"], row["is"]), Counter())[row["called"]] += 1
    return [
        {"source": source, "shift": shift, "is": truth, **dict.fromkeys(_NAMES, 0), **called}
        for (source, shift, truth), called in counted.items()
    ]


_NAMES = ("acquisition", "population", "prevalence", "far-out", "undetermined")


def ratios(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Of the seeded shifts; and of real ones the share of prevalence changes named so, and of site changes not so."""
    made = [row for row in rows if row["source"] == "worlds"]
    found = {**_shares(made)}
    if len(made) < len(rows):
        sites = [row for row in rows if row not in made]
        mixes = [row["called"] == "prevalence" for row in sites if row["is"] == "prevalence"]
        moved = [row["called"] == "prevalence" for row in sites if row["is"] != "prevalence"]
        found["real.prevalence_right"] = float(np.mean(mixes))
        found["real.site_called_prevalence"] = float(np.mean(moved))
    return found


def _shares(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    named = [row for row in rows if row["called"] != "undetermined"]
    mixes = [row["called"] == "prevalence" for row in rows if row["is"] == "prevalence"]
    looks = [row["called"] == "prevalence" for row in rows if row["is"] == "acquisition"]
    return {
        "named": len(named) / len(rows),
        "right_of_named": sum(row["called"] == row["is"] for row in named) / max(1, len(named)),
        "prevalence_right": float(np.mean(mixes)),
        "acquisition_called_prevalence": float(np.mean(looks)),
    }


def _seen(said: Sequence[tuple[Any, Any]], rows: Sequence[Any]) -> Batch:
    scores, embedding = (np.stack(part) for part in zip(*said, strict=True))
    n = len(rows)
    return Batch(
        index=np.arange(1, n + 1),
        unit=np.array([row.patient_id for row in rows]),
        stratum=np.full(n, "all"),
        time=np.full(n, np.nan),
        outputs=scores,
        embedding=embedding,
        version="v0",
        sensor="sensor",
    )


def _row(source: str, shift: str, truth: Shift, answer: Attribution) -> dict[str, Any]:
    return {"source": source, "shift": shift, "is": truth.value, "called": answer.shift.value, "part": answer.part}


def _tell(what: str, done: int, of: int) -> None:
    print(f"{done}/{of} {what}", file=sys.stderr, flush=True)


def _silent(what: str, done: int, of: int) -> None:
    return None
