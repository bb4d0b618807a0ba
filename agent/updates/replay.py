"""Replay: is a version what its record says? Its training is run again from the recorded job, and compared byte by
byte. What an auditor asks two years later."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from agent.errors import HomeostatError
from agent.store import journal
from agent.updates import jobs
from agent.updates.records import add_measures
from agent.versions import bundle, registry
from agent.workspace import Workspace, exclusive, write_atomically

Progress = Callable[[str, int, int], object]  # (what, done, of)


@dataclass(frozen=True)
class Replay:
    """What differs from the version's own files; nothing where it was made again as it is."""

    version: str
    differs: tuple[str, ...]
    files: int


def replay(workspace: Workspace, name: str, *, by: str, progress: Progress = lambda *_: None) -> Replay:
    """Runs the recorded training of a version once more and records whether it gave the same bytes.

    The parts that a recipe makes are compared; it is the same on one kind of machine, with the same libraries. Raises
    HomeostatError where the version was not made by a training, its record is gone, or the training fails.
    """
    with workspace.store.read() as connection:
        version = registry.resolve(connection, name)
        facts = bundle.facts(workspace.path("versions", version))
        row = connection.execute(
            "SELECT id FROM jobs WHERE spec_digest = ?", (facts.get("data", {}).get("job_spec"),)
        ).fetchone()
    if row is None:
        raise HomeostatError(f"{version} was not made by a training of this workspace: there is nothing to replay")
    recorded = workspace.path("jobs", row["id"], "job.json")
    if not recorded.is_file() or sha256(recorded.read_bytes()).hexdigest() != facts["data"]["job_spec"]:
        raise HomeostatError(f"the record of {row['id']}, which made {version}, is not as it was: restore a backup")
    folder = workspace.path("jobs", f".replay-{version}")
    with exclusive(workspace.path("jobs", ".replay.lock"), f"another replay is running in {workspace.root}"):
        for left in workspace.path("jobs").glob(".replay-*"):  # of one that was killed
            shutil.rmtree(left)
        try:
            _train_again(folder, recorded, facts["recipe"], progress)
            again, kept = folder / "recipes" / facts["recipe"], workspace.path("versions", version)
            names = sorted(file.name for file in again.iterdir())
            differs = tuple(one for one in names if not _same(again / one, kept / one))
        finally:
            shutil.rmtree(folder, ignore_errors=True)
    with workspace.store.transaction() as connection:
        add_measures(connection, version, {"replays": not differs})
        body = {"version": version, "same": not differs, "differs": list(differs)}
        journal.append(connection, "version_replayed", at=workspace.now(), by=by, body=body)
    return Replay(version, differs, len(names))


def _train_again(folder: Path, recorded: Path, recipe: str, progress: Progress) -> None:
    folder.mkdir()
    spec = {**json.loads(recorded.read_text()), "recipes": [recipe], "asked": []}
    write_atomically(folder / "job.json", json.dumps(spec).encode())
    command = [sys.executable, "-m", "agent.updates.worker", str(folder)]
    with (folder / "log.txt").open("wb") as log, subprocess.Popen(command, stdout=log, stderr=log) as worker:
        while True:
            try:
                code = worker.wait(timeout=0.5)
                break
            except subprocess.TimeoutExpired:
                if said := jobs.progress_of(folder):
                    progress(*said)
    if code:
        result = folder / "result.json"
        says = json.loads(result.read_text()).get("error", "") if result.is_file() else f"exit code {code}"
        raise HomeostatError(f"the training could not be run again: {says}")


def _same(one: Path, other: Path) -> bool:
    return other.is_file() and bundle.file_sha256(one) == bundle.file_sha256(other)
