"""The daemon as a real process: signals, a second one, kill -9, and what people do while it runs."""

from __future__ import annotations

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import smears
from chapters import events, feed, rows

from agent.versions import pointer
from agent.versions.verify import problems
from agent.workspace import Workspace

PATIENCE = 240.0  # seconds; a busy machine takes half a minute to import what the daemon needs


def start(root: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "agent.cli", *words, "--workspace", str(root)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ})


def call(root: Path, *words: str) -> tuple[int, str, list[str]]:
    process = start(root, *words)
    out, err = process.communicate(timeout=PATIENCE)
    return process.returncode, out, [line for line in err.splitlines() if line.startswith("homeostat: ")]


def until(what: Callable[[], object]) -> None:
    deadline = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.05)


def observed(workspace: Workspace) -> int:
    return rows(workspace, "SELECT count(*) AS n FROM observations WHERE role = 'live'")[0]["n"]


def holds(root: Path) -> bool:
    """Whether somebody works on the workspace."""
    import fcntl

    with (root / ".lock").open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


@pytest.fixture
def daemon(request, chapters, tmp_path) -> Iterator[tuple[Workspace, subprocess.Popen[str]]]:
    """A daemon on the chapter that the test names."""
    workspace = chapters.open(request.param, tmp_path / "site")
    process = start(workspace.root, "run", "--json")
    try:
        until(lambda: holds(workspace.root) or process.poll() is not None)
        yield workspace, process
    finally:
        process.kill()
        process.communicate()


def deliver(workspace: Workspace, site: str, n: int, seed: int) -> None:
    """A folder put into the inbox the way people do it: under another name first."""
    draft = workspace.path("inbox", f"day-{seed}.part")
    smears.write(draft, site, n, seed, labels=False)
    draft.rename(workspace.path("inbox", f"day-{seed}"))


@pytest.mark.slow
@pytest.mark.parametrize("daemon", ["alarmed"], indirect=True)
def test_a_day_of_the_daemon(daemon):
    """It takes the inbox, refuses a second one, answers people, and ends after the step at hand with exit code 0."""
    workspace, process = daemon
    before = observed(workspace)
    deliver(workspace, smears.HOME, 20, 50)
    until(lambda: observed(workspace) == before + 20)
    assert not workspace.path("inbox", "day-50").exists()

    code, _, said = call(workspace.root, "run")
    assert code == 2 and len(said) == 1 and "another homeostat works" in said[0]

    code, _, said = call(workspace.root, "update", "--recipe", "recalibrate")
    assert code == 3 and len(said) == 1 and "labels import" in said[0], "the daemon's own answer, with its exit code"
    assert "update_requested" in events(workspace)

    process.send_signal(signal.SIGTERM)
    out, _ = process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    assert json.loads(out)["cases"] == before + 20
    assert problems(workspace) == []


@pytest.mark.slow
@pytest.mark.parametrize("daemon", ["promoted"], indirect=True)
def test_a_rollback_is_followed_by_the_daemon_that_runs(daemon):
    """The very next cases get the older version's answers."""
    workspace, _ = daemon
    before = observed(workspace)
    deliver(workspace, smears.HOME, 10, 51)
    until(lambda: observed(workspace) == before + 10)
    code, out, said = call(workspace.root, "rollback", "--by", "ana", "--reason", "better so", "--json")
    assert (code, said) == (0, []) and json.loads(out)["to"] == "v0"
    assert pointer.read(workspace.path("live.json")).version == "v0"
    deliver(workspace, smears.HOME, 10, 52)
    until(lambda: observed(workspace) == before + 20)
    said = rows(workspace, "SELECT version FROM observations WHERE role = 'live' ORDER BY number DESC LIMIT 20")
    assert [row["version"] for row in said] == ["v0"] * 10 + ["v1"] * 10


@pytest.mark.slow
@pytest.mark.parametrize("daemon", ["alarmed"], indirect=True)
def test_sigterm_during_an_update_ends_its_worker_and_closes_its_version(daemon):
    """No orphan trains on, and no version stays in training."""
    workspace, process = daemon
    file = workspace.root.parent / "labels.csv"
    folder = smears.write(workspace.root.parent / "labelled", smears.NEW, 120, 3)
    lines = [line.split(",") for line in (folder / "cases.csv").read_text().splitlines()]
    file.write_text("\n".join(f"{line[1]},{line[4]}" for line in lines) + "\n")
    shutil.rmtree(folder)
    assert call(workspace.root, "labels", "import", str(file))[0] == 0
    until(lambda: rows(workspace, "SELECT pid FROM jobs WHERE pid IS NOT NULL"))
    worker = rows(workspace, "SELECT pid FROM jobs")[0]["pid"]
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=PATIENCE)
    assert process.returncode == 0
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)
    assert rows(workspace, "SELECT id, state FROM versions WHERE id != 'v0'") == [{"id": "v1", "state": "abandoned"}]


@pytest.mark.slow
def test_kill_9_at_random_instants_loses_and_doubles_no_case(chapters, tmp_path):
    """However often it dies: every case has one answer, one tick, and the record holds together."""
    workspace = chapters.open("configured", tmp_path / "site")
    feed(workspace, smears.HOME, 60, 53)
    feed(workspace, smears.NEW, 40, 54)
    rng = random.Random(7)
    for _ in range(3):
        process, seen = start(workspace.root, "run", "--until-idle"), observed(workspace)
        until(lambda p=process, s=seen: observed(workspace) > s or p.poll() is not None)
        time.sleep(rng.uniform(0, 0.4))
        process.kill()
        process.communicate()
    code, out, said = call(workspace.root, "run", "--until-idle", "--json")
    assert (code, said) == (0, []) and json.loads(out)["cases"] == 100
    numbered = rows(workspace, "SELECT number, case_id, tick FROM observations WHERE role = 'live' ORDER BY number")
    assert [row["number"] for row in numbered] == list(range(1, 101))
    assert len({row["case_id"] for row in numbered}) == 100
    assert [row["tick"] for row in numbered] == [1 + i // 10 for i in range(100)]
    signals = rows(workspace, "SELECT tick FROM signals WHERE monitor = 'embedding' ORDER BY tick")
    assert [row["tick"] for row in signals] == list(range(1, 11))
    assert problems(workspace) == []
