"""`feed` and `labels import` as a person calls them: one JSON value, sentences on standard error, exit codes."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from taking import make_workspace, write_folder

from agent.cli import main


def run(capsys: pytest.CaptureFixture[str], *words: str) -> tuple[int, str, str]:
    code = main(list(words))
    out, err = capsys.readouterr()
    return code, out, err


def test_feed_and_labels_answer_with_their_counts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The contract's keys, and the refused file named on standard error."""
    make_workspace(tmp_path / "ws")
    folder = write_folder(tmp_path / "in", 3)
    (folder / "images/2.png").write_bytes(b"")
    workspace = ("--workspace", str(tmp_path / "ws"))
    code, out, err = run(capsys, "feed", str(folder), "--no-labels", "--json", *workspace)
    assert code == 0
    assert json.loads(out).items() >= {"accepted": 2, "duplicates": 0, "quarantined": 1}.items()
    assert err == "homeostat: quarantine/2.png: line 4 of cases.csv: the file is empty\n"
    (tmp_path / "labels.csv").write_text("case_id,label\ncase-0,benign\nnobody,benign\n")
    code, out, err = run(capsys, "labels", "import", str(tmp_path / "labels.csv"), "--json", *workspace)
    assert code == 0
    assert json.loads(out).items() >= {"joined": 1, "unknown": 1, "conflicts": 0}.items()
    assert "line 3 of labels.csv" in err
    code, out, _ = run(capsys, "feed", str(folder), "--where", "label=benign", *workspace)
    assert (code, out) == (0, "0 accepted, 2 duplicates, 1 quarantined; 1 labels joined\n")


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["feed", "nowhere"], "no folder"),
        (["feed", "in", "--where", "clinic=a"], "no column 'clinic'"),
        (["labels", "import"], "needs the CSV file"),
        (["labels", "wanted", "--n", "0"], "1 or more"),
        (["labels", "import", "nowhere.csv"], "can't be read"),
    ],
)
def test_wrong_calls_are_one_sentence_and_exit_2(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, words: list[str], says: str
) -> None:
    """Standard output stays empty."""
    make_workspace(tmp_path / "ws")
    write_folder(tmp_path / "in", 1)
    monkeypatch.chdir(tmp_path)
    code, out, err = run(capsys, *words, "--workspace", "ws")
    assert (code, out) == (2, "")
    assert says in err
    assert err.count("\n") == 1


def test_many_refusals_are_told_in_part(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A thousand broken lines don't fill the screen."""
    make_workspace(tmp_path / "ws")
    folder = write_folder(tmp_path / "in", 1)
    with (folder / "cases.csv").open("a") as file:
        file.writelines(f"gone-{i}.png,g{i},g{i},\n" for i in range(30))
    _, out, err = run(capsys, "feed", str(folder), "--workspace", str(tmp_path / "ws"))
    assert out.startswith("1 accepted, 0 duplicates, 30 quarantined")
    assert len(err.splitlines()) == 21
    assert "and 10 more" in err
