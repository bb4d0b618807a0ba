"""Attribution: what the product calls a change, over changes of which the kind is known.

Seeded shifts in synthetic worlds (those of `bench drift`), at 500 patients, without labels of these and with some; real
changes of site and real changes of prevalence only with `--data`. `--input FOLDER` names the changes of *.npz streams
that somebody else made.
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
from agent.observe import Reading
from benchmarks.drift import SETTLED, answered
from benchmarks.drift.watch import Watch
from benchmarks.drift.worlds import SHIFTS, Stream, World
from benchmarks.stream import CHANGES, Change, fit_home, hold_back, observed
from monitors import Attribution, Batch, Reference, Shift, attribute

KINDS: Mapping[str, Shift] = {
    "mean": Shift.ACQUISITION,
    "cov": Shift.ACQUISITION,
    "ramp": Shift.ACQUISITION,
    "subpop": Shift.POPULATION,
    "prevalence": Shift.PREVALENCE,
}
TOLD: Mapping[str, Shift] = {
    "one class looks different": Shift.MANIFESTATION,
    "labelled otherwise": Shift.ANNOTATION,
    "prevalence and mean": Shift.MIXED,
}
LABELLED = (250, 100)  # of the new patients; the others' labels have not come
MOVED = 3.0  # times the world's shift of one Mahalanobis unit, of the one class: as far as the new source of `subpop`
RENAMED = 0.3  # share of the larger class that is called by the other's name: of all, as many as `prevalence` changes
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
    worlds = range(seed, seed + (WORLDS if full else SHORT))
    rows = [*seeded(worlds, tell), *(row for n in LABELLED for row in labelled(worlds, n, tell))]
    if data is not None:
        for change in CHANGES:
            with tempfile.TemporaryDirectory() as scratch:
                rows += real(data, change, seed, Path(scratch), tell)
    return {"name": "attribution", "rows": confusion(rows), "ratios": ratios(rows)}


def seeded(worlds: Sequence[int], progress: Progress) -> Iterator[dict[str, Any]]:
    """One row {"source", "shift", "is", "called", "part", "distance"} per stream."""
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


def labelled(worlds: Sequence[int], n: int, progress: Progress) -> Iterator[dict[str, Any]]:
    """The same streams and those of TOLD, with the labels of n new patients chosen by lot."""
    for number, at in enumerate(worlds):
        world = World(at)
        known = world.stream(REFERENCE, (at, 1))
        watch = Watch(known.x, known.score)
        labels = known.label[-len(watch.reference.calibrate) :].astype(int)
        for shift in (None, *SHIFTS, *TOLD):
            progress(f"world {at}: {shift}, {n} labels", number, len(worlds))
            for i in range(STREAMS):
                made = told if shift in TOLD else _after
                stream = made(world, shift, (at, 2, i))
                cases = Watch.batch(stream.x, stream.score, REFERENCE + 1)
                late = np.random.default_rng((at, 3, i)).permutation(SETTLED)[n:]
                came = stream.label.astype(int)
                came[late] = -1
                answer = attribute(watch.reference, cases, labels, new_labels=came)
                truth = Shift.NONE if shift is None else {**KINDS, **TOLD}[shift]
                yield _row(f"worlds, {n} labels", shift or "none", truth, answer)


def told(world: World, shift: str | None, seed: Sequence[int]) -> Stream:
    """Patients after one of the changes that labels tell."""
    stream = _after(world, "prevalence" if shift == "prevalence and mean" else None, seed)
    x, label = stream.x.astype(np.float64), stream.label.copy()
    if shift == "one class looks different":
        x[label] += MOVED * world.shift
    elif shift == "prevalence and mean":
        x += world.shift
    else:
        label |= np.random.default_rng((*seed, 4)).random(len(label)) < RENAMED
    return Stream(x.astype(np.float32), world.score(x), label)


def _after(world: World, shift: str | None, seed: Sequence[int]) -> Stream:
    x, score, label = world.stream(RISEN + SETTLED, seed, shift)
    return Stream(x[RISEN:], score[RISEN:], label[RISEN:])


def real(data: Path, change: Change, seed: int, scratch: Path, progress: Progress) -> Iterator[dict[str, Any]]:
    """A base fitted on the home site; then the other site's patients, and unseen ones of home in another mix.

    Home's mix changes by leaving out three quarters of every other class's patients. Raises HomeostatError without the
    data folder.
    """
    from agent.cases.datafolder import read_folder

    folder = data / change.folder
    if not (folder / "cases.csv").exists():
        raise HomeostatError(f"{folder} is no data folder: name the one that holds it with --data")
    home = [row for row in read_folder(folder, [f"site={change.home}"]).rows if row.label]
    new = [row for row in read_folder(folder, [f"site={change.new}"]).rows if row.label]
    taught, unseen = hold_back(home, len(home) // 2, seed)
    calibrate, quiet = hold_back(unseen, len(unseen) // 2, seed + 1)
    progress(f"{change.folder}: fits on {change.home}", 0, 1)
    fit_home(data, change, taught, scratch, seed)
    parts = {"taught": taught[:TAUGHT], "calibrate": calibrate, "quiet": quiet, "new": new}
    said = {name: observed(scratch / "base", rows) for name, rows in parts.items()}
    batches = {name: seen(said[name], rows) for name, rows in parts.items()}
    reference = Reference(transform=batches["taught"], calibrate=batches["calibrate"])
    names = sorted({row.label or "" for row in home})
    labels = np.array([names.index(row.label or "") for row in calibrate])
    mark = f"{change.folder}: {change.home}"
    came = np.array([names.index(row.label) if row.label in names else -1 for row in new])
    yield _row(mark, f"to {change.new}", Shift.ACQUISITION, attribute(reference, batches["new"], labels))
    answer = attribute(reference, batches["new"], labels, new_labels=came)
    yield _row(f"{mark}, labelled", f"to {change.new}", Shift.ACQUISITION, answer)
    for i in range(RESAMPLES):
        rng = np.random.default_rng((seed, i))
        more = names[i % len(names)]
        kept = [j for j, row in enumerate(quiet) if row.label == more or rng.random() < 0.25]
        cases = seen([said["quiet"][j] for j in kept], [quiet[j] for j in kept])
        came = np.array([names.index(quiet[j].label or "") for j in kept])
        yield _row(mark, f"more {more}", Shift.PREVALENCE, attribute(reference, cases, labels))
        answer = attribute(reference, cases, labels, new_labels=came)
        yield _row(f"{mark}, labelled", f"more {more}", Shift.PREVALENCE, answer)


def confusion(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row per source and shift: how often it was called what, and the median distance where it has one."""
    counted: dict[tuple[str, str, str], Counter[str]] = {}
    far: dict[tuple[str, str, str], list[float]] = {}
    for row in rows:
        kind = row["source"], row["shift"], row["is"]
        counted.setdefault(kind, Counter())[row["called"]] += 1
        far.setdefault(kind, []).extend([] if row["distance"] is None else [row["distance"]])
    return [
        dict(zip(("source", "shift", "is"), kind, strict=True))
        | {**dict.fromkeys(_NAMES, 0), **called, "distance": float(np.median(far[kind])) if far[kind] else None}
        for kind, called in counted.items()
    ]


_NAMES = (
    *("acquisition", "population", "prevalence", "manifestation", "annotation", "mixed"),
    *("far-out", "undetermined"),
)


def ratios(rows: Sequence[dict[str, Any]]) -> dict[str, float]:
    """Of the seeded shifts; and of real ones the share of prevalence changes named so, and of site changes not so."""
    made = [row for row in rows if row["source"] == "worlds"]
    found = {**_shares(made)}
    for n in LABELLED:
        these = [row for row in rows if row["source"] == f"worlds, {n} labels" and row["is"] != Shift.NONE]
        if these:
            found |= {f"{n}_labels.{key}": value for key, value in _shares(these).items()}
    sites = [row for row in rows if not row["source"].startswith("worlds") and "labelled" not in row["source"]]
    if sites:
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


def seen(said: Sequence[Reading], rows: Sequence[Any]) -> Batch:
    """What was read of the rows of a data folder, as the monitors' record."""
    scores, embedding, quality = (np.stack(part) for part in zip(*said, strict=True))
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
        quality=quality,
    )


def _row(source: str, shift: str, truth: Shift, answer: Attribution) -> dict[str, Any]:
    called = {"called": answer.shift.value, "part": answer.part, "distance": answer.distance}
    return {"source": source, "shift": shift, "is": truth.value, **called}


def _tell(what: str, done: int, of: int) -> None:
    print(f"{done}/{of} {what}", file=sys.stderr, flush=True)
