"""A stream of unseen home cases, then a change, of the site or of home's scanner a little: how soon the alarm comes,
and how often it comes in vain; with image quality among the streams and without it.

The agent's own store, ticks, monitors and family rule, on a workspace that `fit` and `init` made; each case is read by
the model once, and the shuffles are played over what it said. Folders that have no classes to learn from are played
through the monitors alone (`sensed`).
"""

from __future__ import annotations

import csv
import random
import shutil
import sqlite3
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from agent.cases.datafolder import Row, read_folder
from agent.errors import HomeostatError
from benchmarks import scanner_changes

if TYPE_CHECKING:
    from agent.observe import Reading

    Said = Sequence[Reading]  # what was read of each case
    Draw = Callable[[random.Random], tuple[Said, Said]]  # (quiet cases, those after the change)

QUIET = 150  # unseen home cases, before the change and in the null stream
CALM = 70  # of them, before home's scanner changes; the others come as the changed scanner shows them
MIXED_QUIET = 100  # before another mix at home, which has to be drawn from home, too
IN_TIME = 40  # cases after the change within which the alarm is asked for
SHUFFLES, NULL_SHUFFLES = 10, 20
ALL, BLIND = "all", "without image quality"


CHEST = "mobilenetv3_small_kermany_cxr.npz"


@dataclass(frozen=True)
class Change:
    """A home site and what comes after it: another site, or cases of one `label` of home's own.

    `weights` names a file of the folder models, or nothing.
    """

    folder: str
    home: str
    new: str
    backbone: str = "mobilenet_v3_small"
    weights: str | None = CHEST
    label: str | None = None


CHANGES = (
    Change("wbc", "pbc_barcelona", "jiangxi_tecom"),
    Change("wbc", "pbc_barcelona", "bccd"),
    Change("cxr", "kermany_guangzhou", "nih_bethesda"),
)
MIXES = (Change("busi", "busi_cairo", "malignant only", label="malignant"),)


def bench(data: Path | None, seed: int, input: Path | None = None, full: bool = False) -> dict[str, Any]:
    """The short form plays the first change, `full` all of them, and those that only a sensor sees. Raises
    HomeostatError without the data folders."""
    from benchmarks.sensed import SENSED, play_sensed

    if data is None:
        raise HomeostatError("the benchmark 'stream' plays real sites: name their folder with --data")
    rows: list[dict[str, Any]] = []
    for _, changes in groupby((*CHANGES, *MIXES) if full else CHANGES[:1], lambda c: (c.folder, c.home)):
        with tempfile.TemporaryDirectory() as scratch:
            rows += play_home(data, [*changes], seed, Path(scratch))
    for sensed in SENSED if full else ():
        with tempfile.TemporaryDirectory() as scratch:
            rows += play_sensed(data, sensed, seed, Path(scratch))
    return {"name": "stream", "rows": rows, "ratios": ratios(rows)}


def ratios(rows: Sequence[dict[str, Any]]) -> dict[str, float | None]:
    """Of the first change, and of each by its name: the shares of shuffles with an alarm in time, before the change and
    without one, and the median of the cases after the change until the alarm (None where most shuffles have none). Of
    each small change of the scanner: the cases to the alarm with image quality watched over those without it."""
    found: dict[str, float | None] = {}
    for site in dict.fromkeys(row["site"] for row in rows):
        of = {stream: [row for row in rows if (row["site"], row["stream"], row["monitors"]) == (site, stream, ALL)]
              for stream in ("change", "null")}  # fmt: skip
        late = sorted(row["alarm_at_case"] - row["quiet"] if row["in_time"] else float("inf") for row in of["change"])
        one: dict[str, float | None] = {
            "in_time": _share(of["change"], "in_time"),
            "before_the_change": _share(of["change"], "early"),
            "cases_to_the_alarm": float(median(late)) if median(late) < float("inf") else None,
        }
        if of["null"]:
            one["null_alarms"] = _share(of["null"], "early")
        found = found or dict(one)
        found |= {f"{site}.{name}": value for name, value in one.items()}
        for stream in scanner_changes.CHANGES:
            some = [row for row in rows if (row["site"], row["stream"]) == (site, stream)]
            with_it, without = (sum(row["delay"] for row in some if row["monitors"] == which) for which in (ALL, BLIND))
            if some:
                found[f"{site}.{stream}.with_quality"] = with_it / without
    return found


def _share(rows: Sequence[dict[str, Any]], what: str) -> float:
    return sum(bool(row[what]) for row in rows) / len(rows)


def play_home(data: Path, changes: Sequence[Change], seed: int, scratch: Path) -> list[dict[str, Any]]:
    """Fits on home without the patients that are played, deploys, and plays every shuffle: the changes of one home
    site; with the first of them the null stream, and where that is another site, home's scanner a little changed."""
    from agent.deploy import init

    first = changes[0]
    rows = labelled(data, first.folder, first.home)
    home, quiet = hold_back(rows, len(rows) // 2 if first.label else QUIET, seed)
    fit_home(data, first, home, scratch, seed)
    init(scratch / "site", scratch / "base", scratch / "home", where=(), config=None, progress=_silent)
    unseen, found = observed(scratch / "base", quiet), list[dict[str, Any]]()
    for number, change in enumerate(changes):
        if change.label:
            draw = _other_mix(unseen, [row.label == change.label for row in quiet])
        else:
            draw = _other_site(unseen, observed(scratch / "base", labelled(data, change.folder, change.new)))
        streams = {"change": draw}
        if number == 0:
            streams["null"] = lambda order, draw=draw: (draw(order)[0], [])  # type: ignore[misc]
        if number == 0 and not change.label:
            for name, alter in scanner_changes.CHANGES.items():
                streams[name] = _other_scanner(unseen, observed(scratch / "base", quiet, alter))
        found += _shuffles(scratch, change, streams, seed)
    return found


def labelled(data: Path, folder: str, site: str) -> list[Row]:
    """Raises HomeostatError where there is no such folder."""
    if not (data / folder / "cases.csv").exists():
        raise HomeostatError(f"{data / folder} is no data folder: name the one that holds it with --data")
    return [row for row in read_folder(data / folder, [f"site={site}"]).rows if row.label]


def _other_site(quiet: Said, new: Said) -> Draw:
    return lambda order: (order.sample(quiet, QUIET), order.sample(new, min(IN_TIME, len(new))))


def _other_mix(unseen: Said, wanted: Sequence[bool]) -> Draw:
    def draw(order: random.Random) -> tuple[Said, Said]:
        places = order.sample(range(len(unseen)), len(unseen))
        after = [unseen[i] for i in places[MIXED_QUIET:] if wanted[i]]
        return [unseen[i] for i in places[:MIXED_QUIET]], after[:IN_TIME]

    return draw


def _other_scanner(quiet: Said, altered: Said) -> Draw:
    def draw(order: random.Random) -> tuple[Said, Said]:
        places = order.sample(range(len(quiet)), QUIET)
        return [quiet[i] for i in places[:CALM]], [altered[i] for i in places[CALM:]]

    return draw


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
    from agent.observe import Reading, reading
    from agent.tasks import answer, task_named
    from monitors import quality
    from strategies.predictor import Predictor

    predictor, said = Predictor.load(base), list[Reading]()
    for start in range(0, len(rows), 32):
        images = [read_image(row.file) for row in rows[start : start + 32]]
        images = [alter(image, start + i) for i, image in enumerate(images)] if alter else images
        tensors, shapes = [predictor.prepare(image) for image in images], [image.shape[:2] for image in images]
        read = answer(task_named(predictor.task), predictor, tensors, shapes)
        said += [reading(read, i, quality(image)) for i, image in enumerate(images)]
    return said


def _shuffles(scratch: Path, change: Change, streams: Mapping[str, Draw], seed: int) -> Iterator[dict[str, Any]]:
    for stream, draw in streams.items():
        for shuffle in range(NULL_SHUFFLES if stream == "null" else SHUFFLES):
            quiet, after = draw(random.Random(1000 * seed + shuffle))
            for which in (ALL, BLIND):
                copy = scratch / f"{change.new} {stream} {shuffle} {which}"
                alarm = first_alarm(scratch / "site", copy, [*quiet, *after], looks=which == ALL)
                yield row_of(change, stream, shuffle, len(quiet), alarm, len(after), which)


def row_of(
    change: Change, stream: str, shuffle: int, quiet: int, alarm: int | None, after: int, monitors: str
) -> dict[str, Any]:
    """What one shuffle says, with `quiet` cases before its change, `after` of them after it and an alarm at the case of
    this number, or none: then the `delay` is all that come after."""
    found = alarm is not None and alarm > quiet
    return {
        "site": f"{change.folder}: {change.home} -> {change.new}",
        "stream": stream,
        "monitors": monitors,
        "shuffle": shuffle,
        "quiet": quiet,
        "alarm_at_case": alarm,
        "early": alarm is not None and alarm <= quiet,
        "delay": alarm - quiet if alarm is not None and found else after,
        "in_time": alarm is not None and quiet < alarm <= quiet + IN_TIME,
    }


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
