"""Boxes: JSON beside an image, checked at the intake."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from taking import make_workspace, rows, write_list, write_png

from agent.cases.boxes import against, read_boxes
from agent.cases.images import Unreadable
from agent.cases.intake import Intake
from agent.workspace import put_setting

GOOD = [{"label": "cell", "box": [1, 2, 5.5, 7]}]


def written(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def test_boxes_are_read_as_they_were_drawn_and_none_is_an_answer(tmp_path: Path) -> None:
    [box] = read_boxes(written(tmp_path / "a.json", GOOD))
    assert box == ("cell", 1.0, 2.0, 5.5, 7.0)
    assert read_boxes(written(tmp_path / "b.json", [])) == []
    against([box], (7, 6), ["cell"])


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("no json, secret", "no JSON"),
        ({"label": "cell"}, "no JSON list"),
        ([{"box": [0, 0, 1, 1]}], "box 1 has no label"),
        ([*GOOD, {"label": "cell", "box": [0, 0, 1]}], "box 2 has no four numbers"),
        ([{"label": "cell", "box": ["a", 0, 1, 1]}], "no four numbers"),
        ('[{"label": "cell", "box": [NaN, 0, 1, 1]}]', "no four numbers"),
        ([{"label": "cell", "box": [5, 0, 5, 1]}], "no area"),
    ],
)
def test_what_is_no_list_of_boxes_is_refused_in_a_sentence(tmp_path: Path, content: object, says: str) -> None:
    with pytest.raises(Unreadable, match=says) as error:
        read_boxes(written(tmp_path / "secret.json", content))
    assert "secret" not in str(error.value)


@given(st.lists(st.integers(-3, 12), min_size=4, max_size=4))
def test_a_box_within_its_image_is_taken_and_any_other_is_not(tmp_path_factory, corners: list[int]) -> None:
    x0, y0, x1, y1 = corners
    file = written(tmp_path_factory.mktemp("box") / "a.json", [{"label": "cell", "box": corners}])
    try:
        against(read_boxes(file), (8, 10), ["cell"])
        taken = True
    except Unreadable:
        taken = False
    assert taken == (-1 <= x0 < x1 <= 11 and -1 <= y0 < y1 <= 9)


def test_they_come_with_their_cases_and_a_wrong_list_costs_the_label_alone(tmp_path: Path) -> None:
    workspace = make_workspace(tmp_path / "ws")
    with workspace.store.transaction() as connection:
        put_setting(connection, "task", "detection")
        put_setting(connection, "classes", ["cell"])
    folder = tmp_path / "in"
    lists = [GOOD, [], [{"label": "cell", "box": [0, 0, 90, 4]}], [{"label": "martian", "box": [0, 0, 4, 4]}]]
    for i, boxes in enumerate(lists):
        write_png(folder / f"{i}.png", i)
        written(folder / f"{i}.json", boxes)
    write_list(folder, [{"file": f"{i}.png", "case_id": str(i), "boxes": f"{i}.json"} for i in range(4)])
    said: list[str] = []
    counts = Intake(workspace, tell=said.append).take(folder)
    assert (counts["accepted"], counts["labels"], counts["wrong_labels"]) == (4, 2, 2)
    assert "outside its image of 16 x 16" in said[0] and "none of the model's (cell)" in said[1]
    assert [row["kind"] for row in rows(workspace, "SELECT kind FROM labels")] == ["boxes", "boxes"]
