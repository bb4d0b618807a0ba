"""The story of a deployment in chapters: each is a workspace as it stands when the one before has been told."""

from __future__ import annotations

import csv
import shutil
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import smears

from agent.cases.intake import Intake
from agent.cases.labels import import_labels
from agent.config import parse_config, render
from agent.cycle import Cycle
from agent.versions import registry
from agent.workspace import Workspace

PLAN = """
plan:
  responses: {undetermined: {recipes: [linear_probe]}}
  gates: {forgetting: {margin: 0.2}, calibration: {margin: 0.2}}
  labels: {train_patients: 20, anchor_patients: 10}
  probation: {cases: 20}
"""
QUIET, CHANGED, AFTER = 60, 120, 20  # cases of each chapter
SEEDS = {"quiet": 2, "alarmed": 3, "confirmed": 4}


class Hand:
    """A clock that a test moves."""

    def __init__(self) -> None:
        self.now = datetime(2025, 6, 1, 8, tzinfo=UTC)

    def __call__(self) -> datetime:
        return self.now

    def pass_(self, **time_: float) -> None:
        self.now += timedelta(**time_)


class Chapters:
    """Told in order, each once; `open` gives a copy to play with."""

    def __init__(self, founded: Path, shelf: Path) -> None:
        self._founded, self._shelf = founded, shelf

    def open(self, name: str, root: Path) -> Workspace:
        """A copy of how things stand at the end of the chapter, under a clock of its own."""
        shutil.copytree(self._told(name), root)
        return Workspace(root, Hand())

    def _told(self, name: str) -> Path:
        root = self._shelf / name
        if not root.exists():
            names = list(TELLERS)
            before = self._told(names[names.index(name) - 1]) if names.index(name) else self._founded
            draft = self._shelf / f"draft-{name}"
            shutil.rmtree(draft, ignore_errors=True)
            shutil.copytree(before, draft)
            workspace = Workspace(draft, Hand())
            TELLERS[name](workspace)
            workspace.store.close()
            draft.rename(root)
        return root


def configured(workspace: Workspace) -> None:
    workspace.path("homeostat.yaml").write_text(render(parse_config(PLAN, "the story's plan")))


def quiet(workspace: Workspace) -> None:
    """Unseen cases of the home laboratory."""
    feed(workspace, smears.HOME, QUIET, SEEDS["quiet"])
    work_off(workspace)


def alarmed(workspace: Workspace) -> None:
    """Cases of another laboratory, without labels."""
    feed(workspace, smears.NEW, CHANGED, SEEDS["alarmed"])
    work_off(workspace)


def judged(workspace: Workspace) -> None:
    """Its labels come; a candidate is made and judged."""
    labels(workspace, smears.NEW, CHANGED, SEEDS["alarmed"])
    work_off(workspace)


def promoted(workspace: Workspace) -> None:
    """A person lets it go live."""
    registry.approve(workspace, "challenger", by="ana", reason="the gates passed")
    registry.promote(workspace, "v1", by="ana", reason="the gates passed")


def confirmed(workspace: Workspace) -> None:
    """Probation passes without harm."""
    feed(workspace, smears.NEW, AFTER, SEEDS["confirmed"], labels=True)
    work_off(workspace)


TELLERS: dict[str, Callable[[Workspace], None]] = {
    "configured": configured,
    "quiet": quiet,
    "alarmed": alarmed,
    "judged": judged,
    "promoted": promoted,
    "confirmed": confirmed,
}


def feed(workspace: Workspace, site: str, patients: int, seed: int, *, labels: bool = False) -> None:
    folder = smears.write(_beside(workspace, f"feed-{site}-{seed}"), site, patients, seed, labels=labels)
    Intake(workspace).take(folder)
    shutil.rmtree(folder)


def labels(workspace: Workspace, site: str, patients: int, seed: int) -> None:
    """A file of late labels for what `feed` brought."""
    folder = smears.write(_beside(workspace, f"labels-{site}-{seed}"), site, patients, seed)
    file = folder / "labels.csv"
    with (folder / "cases.csv").open() as cases, file.open("w", newline="") as out:
        writer = csv.writer(out)
        writer.writerow(["case_id", "label"])
        writer.writerows((row["case_id"], row["label"]) for row in csv.DictReader(cases))
    import_labels(workspace, file)
    shutil.rmtree(folder)


def work_off(workspace: Workspace, cycle: Cycle | None = None) -> Cycle:
    """Steps until there is nothing left to do."""
    cycle = cycle or Cycle(workspace)
    while cycle.step(workspace.now()):
        if cycle.making is not None:
            time.sleep(0.05)
    return cycle


def rows(workspace: Workspace, query: str, **values: object) -> list[dict]:
    with workspace.store.read() as connection:
        return [dict(row) for row in connection.execute(query, values)]


def events(workspace: Workspace, *, since: int = 0) -> list[str]:
    return [row["event"] for row in rows(workspace, "SELECT event FROM journal WHERE seq > :s ORDER BY seq", s=since)]


def last_event(workspace: Workspace) -> int:
    return rows(workspace, "SELECT max(seq) AS seq FROM journal")[0]["seq"]


def _beside(workspace: Workspace, name: str) -> Path:
    return workspace.root.with_name(f"{workspace.root.name}-{name}")
