"""A stream of unseen home cases, then another site or home's scanner a little changed: how soon the alarm comes, and
how often it comes in vain; with image quality among the streams and without it.

The agent's own store, ticks, monitors and family rule, on a workspace that `fit` and `init` made; each case is read by
the model once, and the shuffles are played over what it said.
"""

from __future__ import annotations

import csv
import random
import shutil
import sqlite3
import tempfile
from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.cases.datafolder import Row, read_folder
from agent.errors import HomeostatError
from benchmarks import scanner_changes

if TYPE_CHECKING:
    from agent.observe import Reading

QUIET = 150  # unseen home cases, before the change and in the null stream
CALM = 70  # of them, before home's scanner changes; the others come as the changed scanner shows them
IN_TIME = 40  # cases after the change within which the alarm is asked for
SHUFFLES, NULL_SHUFFLES = 10, 20
ALL, BLIND = "all", "without image quality"


@dataclass(frozen=True)
class Change:
    """A home site and the one that comes after it; `weights` names a file of the folder models, or nothing."""

    folder: str
    home: str
    new: str
    backbone: str
    weights: str | None


CHANGES = (
    Change("wbc", "pbc_barcelona", "jiangxi_tecom", "mobilenet_v3_small", "mobilenetv3_small_kermany_cxr.npz"),
    Change("wbc", "pbc_barcelona", "bccd", "mobilenet_v3_small", "mobilenetv3_small_kermany_cxr.npz"),
    Change("cxr", "kermany_guangzhou", "nih_bethesda", "mobilenet_v3_small", "mobilenetv3_small_kermany_cxr.npz"),
)


def bench(data: Path | None, seed: int, input: Path | None = None, full: bool = False) -> dict[str, Any]:
    """The short form plays the first change, `full` all of them. Raises HomeostatError without the data folders."""
    if data is None:
        raise HomeostatError("the benchmark 'stream' plays real sites: name their folder with --data")
    rows: list[dict[str, Any]] = []
    for change in CHANGES if full else CHANGES[:1]:
        with tempfile.TemporaryDirectory() as scratch:
            rows += play_change(data, change, seed, Path(scratch))
    first = [row for row in rows if row["site"] == rows[0]["site"] and row["monitors"] == ALL]
    changed = [row for row in first if row["stream"] == "change"]
    null = [row for row in first if row["stream"] == "null"]
    ratios = {
        "in_time": sum(row["in_time"] for row in changed) / len(changed),
        "before_the_change": sum(row["early"] for row in changed) / len(changed),
        "null_alarms": sum(row["early"] for row in null) / len(null),
    }
    for site in dict.fromkeys(row["site"] for row in rows):
        for stream in scanner_changes.CHANGES:
            some = [row for row in rows if (row["site"], row["stream"]) == (site, stream)]
            with_it, without = (sum(row["delay"] for row in some if row["monitors"] == which) for which in (ALL, BLIND))
            ratios[f"{site}.{stream}.with_quality"] = with_it / without
    return {"name": "stream", "rows": rows, "ratios": ratios}


def play_change(data: Path, change: Change, seed: int, scratch: Path) -> list[dict[str, Any]]:
    """Fits on home without QUIET cases' patients, deploys, and plays every shuffle of the two streams."""
    from agent.deploy import init

    folder = data / change.folder
    if not (folder / "cases.csv").exists():
        raise HomeostatError(f"{folder} is no data folder: name the one that holds it with --data")
    rows = read_folder(folder, [f"site={change.home}"]).rows
    new = [row for row in read_folder(folder, [f"site={change.new}"]).rows if row.label]
    home, quiet = hold_back([row for row in rows if row.label], QUIET, seed)
    fit_home(data, change, home, scratch, seed)
    init(scratch / "site", scratch / "base", scratch / "home", where=(), config=None, progress=_silent)
    said = {name: observed(scratch / "base", cases) for name, cases in (("quiet", quiet), ("new", new))}
    said |= {name: observed(scratch / "base", quiet, alter) for name, alter in scanner_changes.CHANGES.items()}
    return _shuffles(scratch, change, said, seed)


def hold_back(rows: Sequence[Row], n: int, seed: int) -> tuple[list[Row], list[Row]]:
    """(the rest, at least n rows), by patient."""
    patients = sorted({row.patient_id for row in rows})
    random.Random(seed).shuffle(patients)
    held: set[str] = set()
    while sum(row.patient_id in held for row in rows) < n:
        held.add(patients.pop())
    return [r for r in rows if r.patient_id not in held], [r for r in rows if r.patient_id in held]


def fit_home(data: Path, change: Change, rows: Sequence[Row], scratch: Path, seed: int) -> None:
    """A base in scratch/base, fitted on copies of home's rows in scratch/home; from the weights where there are any."""
    from agent.deploy import fit

    write_folder(scratch / "home", rows)
    spec = change.backbone
    if change.weights and (data / "models" / change.weights).exists():
        spec = f"{change.backbone}:{data / 'models' / change.weights}"
    fit(scratch / "home", scratch / "base", where=(), backbone=spec, epochs=None, seed=seed, progress=_silent)


def write_folder(folder: Path, rows: Sequence[Row]) -> None:
    """A data folder of copies, one file per row."""
    folder.mkdir(parents=True)
    with (folder / "cases.csv").open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "case_id", "patient_id", "site", "scanner", "label"])
        for i, row in enumerate(rows):
            name = f"{i:05}{row.file.suffix}"
            shutil.copyfile(row.file, folder / name)
            writer.writerow([name, row.case_id, row.patient_id, row.site or "", row.scanner or "", row.label or ""])


def observed(base: Path, rows: Sequence[Row], alter: scanner_changes.Alter | None = None) -> list[Reading]:
    """What the base at this path reads of each row, its image altered."""
    from agent.cases.images import read_image
    from agent.observe import Reading, answers
    from monitors import quality
    from strategies.predictor import Predictor

    predictor, said = Predictor.load(base), list[Reading]()
    for start in range(0, len(rows), 32):
        images = [read_image(row.file) for row in rows[start : start + 32]]
        images = [alter(image, start + i) for i, image in enumerate(images)] if alter else images
        read = answers(predictor, [predictor.prepare(image) for image in images])
        said += [Reading(*one) for one in zip(*read, map(quality, images), strict=True)]
    return said


def _shuffles(scratch: Path, change: Change, said: dict[str, list[Reading]], seed: int) -> list[dict[str, Any]]:
    """A row per stream, shuffle and set of monitors. `delay` counts cases from the change to the alarm, all that come
    after the change where there is none; an alarm before it counts as none, and is `early`."""
    rows = []
    for stream in ("change", "null", *scanner_changes.CHANGES):
        for shuffle in range(NULL_SHUFFLES if stream == "null" else SHUFFLES):
            order = random.Random(1000 * seed + shuffle)
            chosen = order.sample(range(len(said["quiet"])), QUIET)
            before: list[Reading] = [said["quiet"][i] for i in chosen]
            after: list[Reading] = []
            if stream == "change":
                after = order.sample(said["new"], min(IN_TIME, len(said["new"])))
            elif stream != "null":
                before, after = before[:CALM], [said[stream][i] for i in chosen[CALM:]]
            for which in (ALL, BLIND):
                copy = scratch / f"{stream}{shuffle}{which}"
                alarm = first_alarm(scratch / "site", copy, [*before, *after], looks=which == ALL)
                found = alarm is not None and alarm > len(before)
                delay = alarm - len(before) if alarm is not None and found else len(after)
                rows.append(
                    {
                        "site": f"{change.home} -> {change.new}",
                        "stream": stream,
                        "monitors": which,
                        "shuffle": shuffle,
                        "alarm_at_case": alarm,
                        "early": alarm is not None and not found,
                        "found": found,
                        "delay": delay,
                        "in_time": found and delay <= IN_TIME,
                    }
                )
    return rows


def first_alarm(site: Path, copy: Path, said: Sequence[Reading], looks: bool = True) -> int | None:
    """Plays one stream through a copy of the workspace's store; the number of the case at which an alarm opened.

    looks: whether the store knows what images look like; image quality is watched where it does.
    """
    from agent.drift.detect import Detector
    from agent.drift.ticks import CASES_PER_TICK
    from agent.observe import describe, record
    from agent.store import insert
    from agent.workspace import Workspace, get_setting

    now = datetime(2026, 1, 5, tzinfo=UTC)
    copy.mkdir()
    shutil.copy(site / "homeostat.yaml", copy)
    with (
        closing(sqlite3.connect(site / "homeostat.db")) as source,
        closing(sqlite3.connect(copy / "homeostat.db")) as to,
    ):
        source.backup(to)
    workspace = Workspace(copy, lambda: now)
    if not looks:
        with workspace.store.transaction() as connection:
            connection.execute("DELETE FROM appearances")
    detector = Detector(workspace)
    for start in range(0, len(said), CASES_PER_TICK):
        with workspace.store.transaction() as connection:
            sensor = get_setting(connection, "sensor")
            for number, reading in enumerate(said[start : start + CASES_PER_TICK], start + 1):
                name = f"played {number}"
                insert(connection, "patients", patient_key=name, split="judge", first_seen="")
                insert(connection, "cases", case_id=name, origin="feed", state="observed", patient_key=name,
                       domain="home", received_at="", facts="{}")  # fmt: skip
                record(connection, case_id=name, version="v0", role="live", number=number, scores=reading.scores,
                       embedding=reading.embedding, sensor=sensor, trust="normal", at=now)  # fmt: skip
                if looks:
                    describe(connection, name, reading.quality)
        detector.step(now)
        with workspace.store.read() as connection:
            row = connection.execute("SELECT opened_at_case FROM alarms ORDER BY id LIMIT 1").fetchone()
        if row is not None:
            return int(row["opened_at_case"])
    return None


def _silent(what: str, done: int, of: int) -> None:
    return None
