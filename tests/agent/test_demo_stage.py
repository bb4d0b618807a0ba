"""The demo's stage and cast: a real death at a chosen place, and data folders that share no patient."""

from __future__ import annotations

import csv
from itertools import pairwise
from pathlib import Path

import pytest
from deployed import approved, deploy
from PIL import Image

from agent.cases.datafolder import read_folder
from agent.cli import main
from agent.demo.cast import LATER, Size, cut_out, generated
from agent.demo.stage import Stage
from agent.demo.story import flipped
from agent.errors import HomeostatError
from agent.versions import pointer
from agent.versions.verify import problems
from agent.workspace import Workspace

WHO = ("--by", "ana", "--reason", "because")
PARTS = ("home", "quiet", "arrival", *LATER, "test-home", "test-new")


def test_the_promotion_dies_between_commit_and_pointer_and_is_made_whole(tmp_path: Path) -> None:
    """SIGKILL in the middle leaves the store ahead of live.json; publishing again, as every start does, mends it."""
    workspace = deploy(tmp_path / "site")
    version = approved(workspace)
    stage = Stage(workspace.root)
    assert stage.kill_in_the_middle(version, "promote", version, *WHO) == -9
    assert (stage.live(), stage.pointed()) == (version, "v0")
    assert pointer.publish(Workspace(workspace.root)).version == stage.pointed() == version
    assert problems(Workspace(workspace.root)) == []


def test_a_promotion_that_is_refused_is_told_and_not_waited_for(tmp_path: Path) -> None:
    """Where the process ends by itself the play says why, at once."""
    workspace = deploy(tmp_path / "site")
    with pytest.raises(HomeostatError, match="there is no version 'v7'"):
        Stage(workspace.root).kill_in_the_middle("v7", "promote", "v7", *WHO)


def test_a_command_given_apart_answers_as_on_the_command_line(tmp_path: Path) -> None:
    """Value, exit code and sentence of a process of its own reach the play."""
    stage = Stage(deploy(tmp_path / "site").root)
    reply = stage.give_apart("rollback", *WHO)
    assert reply.exit_code == 1 and "nothing to roll back to" in reply.value["error"]
    assert stage.give("versions").value[0]["id"] == "v0"


def test_one_bit_is_flipped_and_no_more() -> None:
    """The damage of the story is as small as damage can be."""
    whole = bytes(range(200))
    changed = [(a ^ b).bit_count() for a, b in zip(whole, flipped(whole), strict=True)]
    assert sum(changed) == 1


def patients(folder: Path) -> set[str]:
    return {row.patient_id for row in read_folder(folder).rows}


def share_nobody(parts: list[set[str]]) -> bool:
    return sum(map(len, parts)) == len(set().union(*parts))


def test_the_generated_folders_share_no_patient_and_follow_each_other(tmp_path: Path) -> None:
    """Nobody has learnt from whom the story tests on, and no gap between the folders looks like silence."""
    cast = generated(tmp_path, Size(home=12, quiet=6, arrival=6, later=2, test=4, pixels=24), seed=3)
    assert share_nobody([patients(cast[part]) for part in PARTS])
    days = [sorted({str(row.acquired_at)[:10] for row in read_folder(cast[part]).rows}) for part in PARTS]
    assert all(before[-1] < after[0] for before, after in pairwise(days))
    assert {row.site for row in read_folder(cast["arrival"]).rows} != {
        row.site for row in read_folder(cast["home"]).rows
    }


@pytest.fixture
def own(tmp_path: Path) -> Path:
    """One's own images: two sites, two images per patient."""
    folder = tmp_path / "own"
    folder.mkdir()
    rows = []
    for number in range(200):
        Image.new("L", (8, 8), number).save(folder / f"{number}.png")
        site = "here" if number < 100 else "there"
        rows.append((f"{number}.png", f"patient-{number // 2}", site, "ab"[number // 2 % 2]))
    with (folder / "cases.csv").open("w", newline="") as file:
        csv.writer(file).writerows([("file", "patient_id", "site", "label"), *rows])
    return folder


def test_ones_own_images_are_parted_by_patient(own: Path, tmp_path: Path) -> None:
    """Both images of a patient go to the same folder, every patient is used, and the sites stay apart."""
    cast = cut_out(tmp_path / "cut", own, "site=here", "site=there", seed=0)
    assert share_nobody([patients(cast[part]) for part in PARTS])
    assert sum(len(read_folder(cast[part]).rows) for part in PARTS) == 200
    assert {row.site for part in ("home", "quiet", "test-home") for row in read_folder(cast[part]).rows} == {"here"}
    assert (cast.home_name, cast.new_name) == ("here", "there")


def test_too_few_of_ones_own_images_are_told_in_one_sentence(own: Path, tmp_path: Path) -> None:
    """A side that can't carry the story is named, with what it has and what it needs."""
    with pytest.raises(HomeostatError, match=r"labelled patients where site=there.*needs"):
        cut_out(tmp_path / "cut", own, "site!=nowhere", "site=there", seed=0)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--data", "somewhere", "--home", "site=a"], "--new"),
        (["--keep", "{taken}"], "overwrites nothing"),
        (["--keep", "{new}", "--data", "{nowhere}", "--home", "site=a", "--new", "site=b"], "nowhere"),
    ],
)
def test_a_wrong_call_is_told_before_anything_is_made(
    words: list[str], says: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Half a description of one's own images, a taken folder and a missing one each get a sentence and exit 2."""
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken" / "mine.txt").write_text("mine")
    places = {name: str(tmp_path / name) for name in ("taken", "new", "nowhere")}
    assert main(["demo", *(word.format(**places) for word in words)]) == 2
    assert says in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "taken").iterdir()] == ["mine.txt"]
