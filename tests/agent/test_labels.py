"""Late labels: joined once, the first stays, and what can't be joined is said line by line."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from taking import CLASSES, make_workspace, rows, write_folder, write_list

from agent.cases.intake import Intake
from agent.cases.labels import import_labels
from agent.errors import HomeostatError
from agent.workspace import Workspace


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Three cases without labels, and an alias of the first."""
    workspace = make_workspace(tmp_path / "ws")
    folder = write_folder(tmp_path / "in", 3)
    Intake(workspace).take(folder, labels=False)
    write_list(folder, [{"file": "images/0.png", "case_id": "alias"}])
    Intake(workspace).take(folder)
    return workspace


def csv_of(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "labels.csv"
    path.write_text(text)
    return path


def test_labels_are_joined_with_who_when_and_whether_the_output_was_seen(workspace: Workspace, tmp_path: Path) -> None:
    """Optional columns are kept; empty cells are unknown."""
    text = (
        "case_id,label,labelled_by,labelled_at,model_output_seen\n"
        "case-0,benign,Dr A,2026-03-01,yes\ncase-1,malignant,,,\ncase-2,benign,,,False\n"
    )
    assert import_labels(workspace, csv_of(tmp_path, text)) == {"joined": 3, "unknown": 0, "conflicts": 0, "refused": 0}
    query = "SELECT value, by, at, model_output_seen AS seen, arm FROM labels ORDER BY case_id"
    assert [tuple(row.values()) for row in rows(workspace, query)] == [
        ("benign", "Dr A", "2026-03-01T00:00:00.000000Z", 1, "import"),
        ("malignant", None, None, None, "import"),
        ("benign", None, None, 0, "import"),
    ]


def test_what_cannot_be_joined_is_counted_and_said_by_line(workspace: Workspace, tmp_path: Path) -> None:
    """Unknown case, conflict, unknown class, wrong cells: the rest is joined, and the journal names no case."""
    text = (
        "case_id,label,labelled_at,model_output_seen\n"
        "case-0,benign,,\nalias,malignant,,\nnobody,benign,,\ncase-1,martian,,\ncase-1,benign,soon,\n"
        "case-1,benign,,perhaps\ncase-1\n,benign,,\ncase-2,benign,,\ncase-2,benign,,\n"
    )
    said: list[str] = []
    answer = import_labels(workspace, csv_of(tmp_path, text), tell=said.append)
    assert answer == {"joined": 2, "unknown": 1, "conflicts": 1, "refused": 5}
    assert [sentence.split()[1] for sentence in said] == ["3", "4", "5", "6", "7", "8", "9"]
    assert "martian" in said[2] and "benign, malignant" in said[2]
    assert rows(workspace, "SELECT value FROM labels WHERE case_id = 'case-0'") == [{"value": "benign"}]
    body = json.loads(str(rows(workspace, "SELECT body FROM journal ORDER BY seq DESC LIMIT 1")[0]["body"]))
    assert body == {**answer, "conflicting": [4]}
    told = rows(workspace, "SELECT body FROM journal WHERE event = 'class_unknown'")
    assert [json.loads(str(row["body"])) for row in told] == [{"names": 1}], "an empty cell is no class"


def test_the_same_file_twice_changes_nothing(workspace: Workspace, tmp_path: Path) -> None:
    """A repeated label is no conflict, and no event."""
    file = csv_of(tmp_path, "case_id,label\ncase-0,benign\n")
    import_labels(workspace, file)
    before = rows(workspace, "SELECT * FROM journal")
    assert import_labels(workspace, file) == {"joined": 0, "unknown": 0, "conflicts": 0, "refused": 0}
    assert rows(workspace, "SELECT * FROM journal") == before


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("id,label\ncase-0,benign\n", "'case_id'"),
        ("case_id,class\ncase-0,benign\n", "'label'"),
        ("case_id,mask\ncase-0,m.png\n", "needs the columns"),
        ("case_id,label\n", "no line to join"),
        ("case_id,label\ncase-0,martian\n", "line 2 .*martian"),
        ("", "no header"),
    ],
)
def test_a_wrong_file_is_refused_and_nothing_is_joined(
    workspace: Workspace, tmp_path: Path, text: str, says: str
) -> None:
    """Wrong columns, none of the lines right: one sentence that names the file."""
    before = rows(workspace, "SELECT * FROM journal")
    with pytest.raises(HomeostatError, match=says) as error:
        import_labels(workspace, csv_of(tmp_path, text))
    assert "labels.csv" in str(error.value) and error.value.exit_code == 2
    assert rows(workspace, "SELECT * FROM labels") == []
    assert rows(workspace, "SELECT * FROM journal") == before


def test_a_missing_file_is_one_sentence(workspace: Workspace, tmp_path: Path) -> None:
    """No traceback for a typing error."""
    with pytest.raises(HomeostatError, match=r"gone\.csv can't be read"):
        import_labels(workspace, tmp_path / "gone.csv")


IDS = ["case-0", "case-1", "case-2", "alias", "nobody"]


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.tuples(st.sampled_from(IDS), st.sampled_from([*CLASSES, "martian"])), min_size=1, max_size=15))
def test_the_first_label_of_a_case_stays(workspace: Workspace, tmp_path: Path, lines: list[tuple[str, str]]) -> None:
    """Against a model in a dictionary: counts and labels agree for any lines, in one file or one by one."""
    with workspace.store.transaction() as connection:
        connection.execute("DELETE FROM labels")
    model: dict[str, str] = {}
    expected = dict.fromkeys(("joined", "unknown", "conflicts", "refused"), 0)
    for case, label in lines:
        case = "case-0" if case == "alias" else case
        if label == "martian":
            expected["refused"] += 1
        elif case == "nobody":
            expected["unknown"] += 1
        elif model.setdefault(case, label) != label:
            expected["conflicts"] += 1
    expected["joined"] = len(model)
    file = csv_of(tmp_path, "case_id,label\n" + "".join(f"{case},{label}\n" for case, label in lines))
    if expected["refused"] == len(lines):
        with pytest.raises(HomeostatError):
            import_labels(workspace, file)
    else:
        assert import_labels(workspace, file) == expected
    found = rows(workspace, "SELECT case_id, value FROM labels")
    assert {row["case_id"]: row["value"] for row in found} == model
