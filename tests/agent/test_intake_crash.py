"""Kill -9 between any two steps of the intake, in a real process: no case is lost, none is there twice."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from taking import make_workspace, rows, write_folder, write_list

from agent.cases import inbox
from agent.cases.intake import Intake
from agent.store import journal
from agent.workspace import Workspace

# The child kills itself at the n-th operation of these that Python announces to audit hooks. The hook is the test's;
# the product knows nothing of it.
STEPS = {
    "open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "shutil.rmtree", "sqlite3.connect", "fcntl.flock",
    "subprocess.Popen",
}  # fmt: skip


def dies_at(n: int, workspace: Workspace, job: Callable[[Workspace], object]) -> bool:
    """Runs `job` in a forked process; whether that died at its n-th step, before it was done."""
    child = os.fork()
    if child == 0:
        seen = 0

        def hook(event: str, _: tuple[object, ...]) -> None:
            nonlocal seen
            if event in STEPS:
                seen += 1
                if seen == n:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        try:
            job(Workspace(workspace.root))
        except BaseException:
            os._exit(1)
        os._exit(0)
    status = os.waitpid(child, 0)[1]
    assert status in (0, signal.SIGKILL)
    return status == signal.SIGKILL


def mixed_folder(root: Path) -> Path:
    """Two cases, an alias, a broken file and a wrong line."""
    write_folder(root, 3)
    (root / "images/2.png").write_bytes(b"broken")
    named = [("0", "case-0"), ("1", "case-1"), ("0", "alias"), ("2", "case-2"), ("9", "gone")]
    listed = [{"file": f"images/{name}.png", "case_id": case, "label": "benign"} for name, case in named]
    return write_list(root, listed)


def state(workspace: Workspace) -> dict[str, object]:
    """All that must be the same however the intake came to its end."""
    queries = {
        "cases": "SELECT case_id, alias_of, state FROM cases ORDER BY case_id",
        "inputs": "SELECT case_id, digest FROM inputs ORDER BY case_id",
        "labels": "SELECT case_id, value FROM labels ORDER BY case_id",
        "quarantine": "SELECT name, reason, digest FROM quarantine ORDER BY name",
        "patients": "SELECT split FROM patients ORDER BY split",
    }
    found: dict[str, object] = {name: rows(workspace, query) for name, query in queries.items()}
    # A half-written temporary file may be left; it is hidden, and `doctor` says what to do with it.
    found["kept"] = sorted(path.name for path in workspace.path("quarantine").glob("[!.]*"))
    return found


def whole(workspace: Workspace) -> None:
    """Every row's object is there, and the journal's chain holds, right after the kill."""
    for row in rows(workspace, "SELECT uri FROM inputs"):
        assert workspace.path(str(row["uri"])).is_file()
    for row in rows(workspace, "SELECT name FROM quarantine"):
        assert workspace.path("quarantine", f"{row['name']}.reason.json").is_file()
    with workspace.store.read() as connection:
        assert journal.verify(connection) == []


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    root = tmp_path_factory.mktemp("undisturbed")
    workspace = make_workspace(root / "ws")
    Intake(workspace).take(mixed_folder(root / "in"))
    return state(workspace)


def test_a_feed_killed_at_every_step_ends_as_an_undisturbed_one(tmp_path: Path, undisturbed: dict[str, object]) -> None:
    """One workspace is killed at step 1, then fed again and killed at step 2, and so on until a feed gets through."""
    workspace = make_workspace(tmp_path / "ws")
    folder = mixed_folder(tmp_path / "in")
    kills = 0
    for n in range(1, 400):
        if not dies_at(n, workspace, lambda again: Intake(again).take(folder)):
            break
        kills += 1
        whole(workspace)
    assert kills > 20
    Intake(workspace).take(folder)
    assert state(workspace) == undisturbed


def test_a_feed_killed_once_at_any_step_ends_as_an_undisturbed_one(
    tmp_path: Path, undisturbed: dict[str, object]
) -> None:
    """A fresh workspace for each of many instants, so that the later steps are reached from an empty store too."""
    folder = mixed_folder(tmp_path / "in")
    kills = 0
    for n in range(2, 400, 4):
        workspace = make_workspace(tmp_path / f"ws{n}")
        died = dies_at(n, workspace, lambda again: Intake(again).take(folder))
        whole(workspace)
        Intake(workspace).take(folder)
        assert state(workspace) == undisturbed
        if not died:
            break
        kills += 1
    assert kills > 8


def test_an_inbox_killed_at_every_step_loses_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder and a loose image, taken by a process that dies again and again: each is there once, the inbox empty."""
    monkeypatch.setattr(inbox, "SETTLED", 0.0)
    workspace = make_workspace(tmp_path / "ws")
    write_folder(workspace.path("inbox", "monday"), 2)
    (tmp_path / "x").mkdir()
    write_folder(tmp_path / "x", 3, first_seed=5)
    (tmp_path / "x/images/2.png").rename(workspace.path("inbox", "loose.png"))
    for n in range(1, 400):
        if not dies_at(n, workspace, inbox.scan):
            break
        whole(workspace)
    inbox.scan(workspace)
    assert [row["case_id"] for row in rows(workspace, "SELECT case_id FROM cases ORDER BY case_id")] == [
        "case-0",
        "case-1",
        "loose.png",
    ]
    assert list(workspace.path("inbox").iterdir()) == []
    assert list(workspace.path("quarantine").glob("[!.]*")) == []
