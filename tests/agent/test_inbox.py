"""The watched folder: complete things only, once, and nothing that a person put there is lost."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
from taking import make_workspace, rows, write_folder, write_png

from agent.cases import inbox
from agent.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Workspace:
    """Whatever is there has settled, unless a test says otherwise."""
    monkeypatch.setattr(inbox, "SETTLED", 0.0)
    return make_workspace(tmp_path / "ws")


def test_folders_and_loose_images_are_taken_and_removed(workspace: Workspace) -> None:
    """A folder by its list, a loose image by its name; then the inbox is empty and there is nothing more to do."""
    write_folder(workspace.path("inbox", "monday"), 2)
    write_png(workspace.path("inbox", "loose.png"), 9)
    write_png(workspace.path("inbox", "tuesday", "a", "b.png"), 10)
    assert inbox.scan(workspace) == 4
    assert {row["case_id"] for row in rows(workspace, "SELECT case_id FROM cases")} == {
        "case-0", "case-1", "loose.png", "a/b.png",
    }  # fmt: skip
    assert list(workspace.path("inbox").iterdir()) == []
    assert inbox.scan(workspace) == 0


def test_what_still_changes_waits_and_keeps_the_agent_awake(
    workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that was just written is not taken, yet `run --until-idle` must not end before it is."""
    monkeypatch.setattr(inbox, "SETTLED", 0.6)
    monkeypatch.setattr(inbox, "LOOK_AGAIN", 0.05)
    path = write_png(workspace.path("inbox", "x.png"), 1)
    assert inbox.scan(workspace) == 1
    assert rows(workspace, "SELECT * FROM cases") == []
    os.utime(path, (0, 0))  # a copy that keeps old times is judged by when it came
    assert inbox.scan(workspace) == 1
    assert rows(workspace, "SELECT * FROM cases") == []
    time.sleep(0.7)
    assert inbox.scan(workspace) == 1
    assert len(rows(workspace, "SELECT * FROM cases")) == 1


def test_hidden_and_unfinished_names_and_links_are_left_alone(workspace: Workspace, tmp_path: Path) -> None:
    """They wait for their rename; a link would let the outside in."""
    for name in (".x.png", "y.png.part", "z.tmp"):
        write_png(workspace.path("inbox", name), 1)
    workspace.path("inbox", "empty").mkdir()
    workspace.path("inbox", "link.png").symlink_to(write_png(tmp_path / "outside.png", 3))
    assert inbox.scan(workspace) == 0
    assert len(list(workspace.path("inbox").iterdir())) == 5
    workspace.path("inbox", "y.png.part").rename(workspace.path("inbox", "y.png"))
    assert inbox.scan(workspace) == 1


def test_what_changed_while_it_was_taken_stays(workspace: Workspace, monkeypatch: pytest.MonkeyPatch) -> None:
    """A file that grew after it was read is not removed: the next scan looks at it again."""
    path = write_png(workspace.path("inbox", "x.png"), 1)
    real = inbox.Intake.take_cases

    def grows(intake: inbox.Intake, *arguments: object, **options: object) -> dict[str, int]:
        answer = real(intake, *arguments, **options)  # type: ignore[arg-type]
        with path.open("ab") as file:
            file.write(b"more")
        return answer

    with monkeypatch.context() as patched:
        patched.setattr(inbox.Intake, "take_cases", grows)
        inbox.scan(workspace)
    assert path.exists()
    inbox.scan(workspace)
    assert not path.exists()
    assert len(rows(workspace, "SELECT * FROM cases")) == len(rows(workspace, "SELECT * FROM quarantine")) == 1


def test_a_folder_that_cannot_be_read_goes_to_quarantine_whole(workspace: Workspace) -> None:
    """With its reason beside it, the same folder a second time too; the daemon goes on with the rest."""
    for _ in range(2):
        folder = workspace.path("inbox", "bad week")
        folder.mkdir()
        (folder / "cases.csv").write_text("name,label\nx,benign\n")
        write_png(folder / "x.png", 1)
        write_png(workspace.path("inbox", "good.png"), 2)
        assert inbox.scan(workspace) == 2
        assert list(workspace.path("inbox").iterdir()) == []
    (row,) = rows(workspace, "SELECT * FROM quarantine")
    kept = workspace.path("quarantine", str(row["name"]))
    assert (kept / "x.png").is_file()
    assert "no column 'file'" in json.loads(Path(f"{kept}.reason.json").read_text())["reason"]
    assert str(workspace.root) not in str(row["reason"])


def test_a_half_removed_folder_is_removed_and_not_taken_again(workspace: Workspace) -> None:
    """A crash in the middle of a removal leaves a hidden rest without its list, which is no data folder."""
    write_png(workspace.path("inbox", ".taken-monday", "images", "1.png"), 1)
    assert inbox.scan(workspace) == 0
    assert list(workspace.path("inbox").iterdir()) == []
    assert rows(workspace, "SELECT * FROM cases") == []
