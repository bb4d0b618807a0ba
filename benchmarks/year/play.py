"""Plays one policy through one year: the agent's own cycle on the injected clock, fed day by day, labelled late.

Cases enter the store as the intake leaves them (it was measured elsewhere, and would decode ten thousand files); from
observation on everything is the agent's own. What a version says of an image is computed once.
"""

from __future__ import annotations

import csv
import json
import random
import shutil
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

from agent.cases.labels import import_labels
from agent.cases.pseudonym import patient_key
from agent.cases.split import Split
from agent.clock import rfc3339
from agent.config import render
from agent.cycle import Cycle
from agent.drift import episodes
from agent.observe import Observer, Reading, reading
from agent.store import insert
from agent.tasks import answer, task_named
from agent.updates import requests
from agent.versions import registry
from agent.workspace import Workspace
from benchmarks.year.pictures import Pictures, place_of
from benchmarks.year.policies import Policy
from benchmarks.year.schedule import DAYS, FAR_OUT, SCANNER, THIRD, Shown, Year

START = datetime(2026, 1, 5, tzinfo=UTC)
SCANNERS = {SCANNER: "B", THIRD: "C"}  # home's is A; a far-out batch comes under home's name
BUDGET = 45  # labels a week
AUDIT, ROUTINE, FLAGGED = 0.03, 0.08, 0.35  # chance of a label: random audit arm, routine follow-up, flagged cases
DELAY = (14, 42)  # days until a label comes

Known = dict[tuple[str, str], Reading]  # (digest of a version, image)
Tell = Callable[[int], None]


@dataclass
class Trace:
    """What came of a year: per case (day, condition, label, answer, trust, abstained, version), and what happened."""

    policy: str
    rows: list[tuple[int, str, str, str, str, bool, str]]
    probability: Any  # float32 [n, k]
    activations: list[dict[str, Any]]
    alarms: list[dict[str, Any]]
    trust: list[tuple[int, str]]
    labels: list[int]  # day on which each label came
    training_seconds: float
    folder: Path


class RememberingObserver(Observer):
    """Reads an image once per version, however often it comes."""

    def __init__(self, workspace: Workspace, known: Known) -> None:
        super().__init__(workspace)
        self.known = known

    def _read(self, examples: Any, version: str) -> tuple[dict[int, Reading], dict[int, str]]:
        from monitors import quality

        names = [path.name for path, _ in examples.files]
        with self.workspace.store.read() as connection:
            digest = registry.get(connection, version)["digest"]
        fresh = {name: i for i, name in enumerate(names) if (digest, name) not in self.known}
        if fresh:
            predictor = self.predictor(version)
            images = [examples.image(i) for i in fresh.values()]
            tensors, shapes = [predictor.prepare(image) for image in images], [image.shape[:2] for image in images]
            read = answer(task_named(predictor.task), predictor, tensors, shapes)
            for place, (name, image) in enumerate(zip(fresh, images, strict=True)):
                self.known[digest, name] = reading(read, place, quality(image))
        return {i: self.known[digest, name] for i, name in enumerate(names)}, {}


def play(
    site: Path, folder: Path, year: Year, pictures: Pictures, policy: Policy, known: Known, seed: int, tell: Tell
) -> Trace:
    """Copies the workspace `site` to `folder` and lives through the year; `tell` is told each day."""
    clock = [START]
    workspace = _copy(site, folder, pictures, policy, lambda: clock[0])
    cycle = Cycle(workspace)
    cycle.observer = RememberingObserver(workspace, known)
    if not policy.detects:
        cycle.detect = lambda now: False  # type: ignore[method-assign]
    if not policy.watches:
        cycle.watch = lambda now: False  # type: ignore[method-assign]
    if not policy.clears:
        cycle.clear = lambda now: False  # type: ignore[method-assign]
    site_of_day = _Site(workspace, pictures, seed)
    cycle.start(START)
    by_day: dict[int, list[Shown]] = {}
    for case in year.cases:
        by_day.setdefault(case.day, []).append(case)
    for day in range(year.days):
        clock[0] = START + timedelta(days=day, hours=6)
        settle(cycle, clock[0])
        clock[0] = START + timedelta(days=day, hours=20)
        site_of_day.feed(by_day.get(day, []), clock[0])
        settle(cycle, clock[0])
        clock[0] = START + timedelta(days=day, hours=21)
        site_of_day.order_labels(by_day.get(day, []), day)
        site_of_day.bring_labels(day)
        if policy.every and day and day % policy.every == 0:
            requests.ask(workspace, policy.config.plan.responses["undetermined"].recipes, by="calendar")
        settle(cycle, clock[0])
        if not policy.asks:
            _close(workspace)
        if policy.person_after is not None:
            _approve(workspace, clock[0] - timedelta(days=policy.person_after))
        tell(day + 1)
    return _trace(workspace, policy, year, site_of_day)


@dataclass
class Done:
    """A worker that has ended."""

    returncode: int
    pid: int = 0

    def poll(self) -> int:
        return self.returncode

    def wait(self) -> int:
        return self.returncode


def at_once(folder: Path, threads: int) -> Done:
    """The executor of a benchmark: works the job off in this process, which has loaded everything before."""
    from agent.updates import worker

    try:
        return Done(worker.main(folder))
    except (ValueError, OSError, MemoryError):  # the reason stands in result.json
        return Done(1)


def settle(cycle: Cycle, now: datetime) -> None:
    """Steps until nothing is left to do; a running job is waited for."""
    while cycle.step(now):
        if cycle.making is not None and cycle.making.job is not None:
            cycle.making.job.process.wait()


class _Site:
    """The hospital around the agent: it images, and it labels, late and not much."""

    def __init__(self, workspace: Workspace, pictures: Pictures, seed: int) -> None:
        self.workspace, self.pictures = workspace, pictures
        self.split = Split.read(workspace.base)
        self.rng = random.Random(f"labels {seed}")
        self.due: dict[int, list[Shown]] = {}
        self.ordered = [0] * (DAYS // 7 + 1)
        self.came: list[int] = []

    def feed(self, cases: Sequence[Shown], now: datetime) -> None:
        with self.workspace.store.transaction() as connection:
            for case in cases:
                key = patient_key(self.workspace.key, case.patient)
                connection.execute(
                    "INSERT OR IGNORE INTO patients (patient_key, split, first_seen) VALUES (?, ?, ?)",
                    (key, self.split.assign(case.patient), rfc3339(now)),
                )
                at = START + timedelta(days=case.day, minutes=case.minute)
                insert(connection, "cases", case_id=case.case_id, origin="feed", state="pending", patient_key=key,
                       site="main", scanner=SCANNERS.get(place_of(case.condition), "A"), acquired_at=rfc3339(at),
                       received_at=rfc3339(now), facts=json.dumps({}))  # fmt: skip
                name = self.pictures.file(case.condition, case.patient, case.view).name
                insert(connection, "inputs", case_id=case.case_id, role="image", uri=f"year/{name}",
                       digest=sha256(name.encode()).hexdigest(), media_type="image/png")  # fmt: skip

    def order_labels(self, cases: Sequence[Shown], day: int) -> None:
        """Each case draws the same numbers in every policy; who is flagged differs."""
        with self.workspace.store.read() as connection:
            rows = connection.execute(
                """SELECT case_id FROM observations WHERE role = 'live' AND (abstained OR trust != 'normal')
                   AND case_id IN (SELECT value FROM json_each(?))""",
                (json.dumps([case.case_id for case in cases]),),
            )
            flagged = {row["case_id"] for row in rows}
        for case in cases:
            luck, delay = self.rng.random(), self.rng.randint(*DELAY)
            chance = AUDIT + (FLAGGED if case.case_id in flagged else ROUTINE)
            week = day // 7
            if case.condition == FAR_OUT or luck >= chance or self.ordered[week] >= BUDGET:
                continue
            self.ordered[week] += 1
            self.due.setdefault(day + delay, []).append(case)

    def bring_labels(self, day: int) -> None:
        todays = self.due.get(day, [])
        if not todays:
            return
        file = self.workspace.path("labels.csv")
        with file.open("w", newline="", encoding="utf-8") as out:
            rows = [("case_id", "label"), *((case.case_id, case.label) for case in todays)]
            csv.writer(out).writerows(rows)
        import_labels(self.workspace, file)
        self.came += [day] * len(todays)


def _copy(site: Path, folder: Path, pictures: Pictures, policy: Policy, clock: Callable[[], datetime]) -> Workspace:
    """Everything of the deployed workspace, the store whole; images are shared by links."""
    shutil.copytree(site, folder, ignore=shutil.ignore_patterns("homeostat.db*", "objects", "homeostat.yaml"))
    (folder / "objects").symlink_to(site / "objects")
    (folder / "year").symlink_to(pictures.folder)
    (folder / "homeostat.yaml").write_text(render(policy.config))
    with (
        closing(sqlite3.connect(site / "homeostat.db")) as one,
        closing(sqlite3.connect(folder / "homeostat.db")) as to,
    ):
        one.backup(to)
    return Workspace(folder, clock, at_once)


def _close(workspace: Workspace) -> None:
    """Ends what a promotion has left open: whoever fine-tunes at each alarm does so once."""
    with workspace.store.transaction() as connection:
        kept = connection.execute(
            """SELECT 1 FROM alarms WHERE state != 'closed'
               AND opened_at < (SELECT max(at) FROM activations WHERE how = 'promote')"""
        ).fetchone()
        if kept:
            because = "a version was promoted"
            episodes.close_alarms(connection, {*episodes.OF_SHIFT}, because=because, by="policy", at=workspace.now())


def _approve(workspace: Workspace, before: datetime) -> None:
    """The person approves what has waited since `before` and promotes it."""
    with workspace.store.read() as connection:
        ready = connection.execute(
            "SELECT id FROM versions WHERE state = 'candidate' AND created_at <= ? ORDER BY number", (rfc3339(before),)
        ).fetchall()
    for row in ready:
        registry.approve(workspace, row["id"], by="physicist", reason="every required gate passed")
        registry.promote(workspace, row["id"], by="physicist", reason="as recommended")


def _trace(workspace: Workspace, policy: Policy, year: Year, site: _Site) -> Trace:
    import numpy as np

    from agent.workspace import get_setting

    cases = {case.case_id: case for case in year.cases}
    with workspace.store.read() as connection:
        classes = get_setting(connection, "classes")
        seen = connection.execute(
            """SELECT case_id, scores, trust, abstained, version FROM observations
               WHERE role = 'live' ORDER BY number"""
        ).fetchall()
        activations = _dicts(connection.execute("SELECT * FROM activations WHERE how != 'init' ORDER BY generation"))
        alarms = _dicts(connection.execute("SELECT * FROM alarms ORDER BY id"))
        trust = [
            (_day(row["at"]), json.loads(row["body"])["to"])
            for row in connection.execute("SELECT at, body FROM journal WHERE event = 'trust_changed' ORDER BY seq")
        ]
    scores = [np.frombuffer(row["scores"], "<f4") for row in seen]
    rows = []
    for row, said in zip(seen, scores, strict=True):
        case = cases[row["case_id"]]
        trusted = row["trust"] if policy.trusts else "normal"
        rows.append((case.day, case.condition, case.label, classes[int(said.argmax())], trusted,
                     bool(row["abstained"]) and policy.trusts, row["version"]))  # fmt: skip
    return Trace(
        policy=policy.name,
        rows=rows,
        probability=np.stack(scores),
        activations=[{**one, "day": _day(one["at"])} for one in activations],
        alarms=[{**one, "day": _day(one["opened_at"])} for one in alarms],
        trust=trust if policy.trusts else [],
        labels=site.came,
        training_seconds=sum(map(_seconds, sorted(workspace.path("jobs").glob("*/result.json")))),
        folder=workspace.root,
    )


def _seconds(result: Path) -> float:
    return float(json.loads(result.read_text()).get("seconds", 0.0))


def _dicts(rows: Any) -> list[dict[str, Any]]:
    return [dict(row) for row in rows]


def _day(at: str) -> int:
    return (datetime.fromisoformat(at) - START).days
