"""Detection as the agent has it: what is kept of an answer, what it is worth, what is measured and told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from taking import write_list, write_png

from agent.cases.boxes import read_boxes
from agent.cases.datafolder import read_folder
from agent.cases.examples import FolderExamples
from agent.cases.images import Unreadable
from agent.commands.later import LATER
from agent.drift.performance import OF_KIND, sentence
from agent.errors import HomeostatError
from agent.tasks import TASKS, answer, rows_of, task_named
from agent.tasks.detection import COLUMNS, MOST
from agent.tasks.task import Kept
from monitors import case_f1, form_of
from strategies import boxes

DETECTION = task_named("detection")
CELLS = [{"label": "cell", "box": [1, 2, 5.5, 7]}, {"label": "core", "box": [8, 8, 12, 12]}]


def written(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def folder_of(root: Path, lists: list[object]) -> Path:
    for i, listed in enumerate(lists):
        write_png(root / f"{i}.png", i)
        written(root / f"{i}.json", listed)
    return write_list(root, [{"file": f"{i}.png", "case_id": str(i), "boxes": f"{i}.json"} for i in range(len(lists))])


class Says:
    """A version that says these boxes of every image, in shares of its sides."""

    classes = ("cell", "core")

    class preprocessing:
        size = 64

    def __init__(self, *said: tuple[int, float, tuple[float, float, float, float]]) -> None:
        self.one = torch.zeros(6, 16)
        for place, (label, score, corners) in enumerate(said):
            self.one[label, place] = score
            self.one[2:, place] = torch.tensor(corners)

    def prepare(self, image: np.ndarray):
        return torch.zeros(3, 4, 4)

    def answer(self, batch) -> np.ndarray:
        return np.stack([self.one.view(6, 4, 4).numpy()] * len(batch))

    def observe(self, batch):
        from strategies.predictor import Observation

        return Observation(self.answer(batch), self.answer(batch), np.zeros((len(batch), 3), np.float32))


RIGHT = (0, 0.9, (1 / 16, 2 / 16, 5.5 / 16, 7 / 16))
WRONG = (1, 0.7, (0.0, 0.0, 0.2, 0.2))
HIDDEN = (1, 0.3, (0.5, 0.5, 0.75, 0.75))


def test_the_layout_of_rows_is_that_of_the_strategies() -> None:
    """Written in both packages, of which one may not load torch."""
    assert (boxes.MOST, 2 + len(boxes.IOUS)) == (MOST, COLUMNS)
    assert DETECTION.name in TASKS and not [name for name in LATER if "task" in name]


def test_an_answer_is_kept_as_a_label_is_written(tmp_path: Path) -> None:
    """In pixels of its image, whatever the model's size; shares for the monitors, and the F1 that it expects."""
    predictor = Says(RIGHT, WRONG, HIDDEN)
    answered = answer(DETECTION, predictor, [predictor.prepare(np.zeros((16, 16)))] * 2, [(16, 16), (32, 64)])
    assert answered.scores.shape == (2, 3) and answered.scores.sum(axis=1) == pytest.approx(1)
    first, second = answered.kept
    assert first is not None and second is not None and first.form == "boxes"
    assert first.sure == pytest.approx(2 * 1.6 / (2 + 1.9))
    (tmp_path / "kept.json").write_bytes(second.content)
    found = read_boxes(tmp_path / "kept.json")
    assert [box.label for box in found] == ["cell", "core", "core"]
    assert found[0][1:] == pytest.approx((4, 4, 22, 14)) and found[2][1:] == pytest.approx((32, 16, 48, 24))
    told = DETECTION.told(predictor, answered, 0)
    assert told["prediction"] == "1 cell, 1 core" and [box["score"] for box in told["boxes"]] == [0.9, 0.7]
    nothing = answer(DETECTION, Says(), [predictor.prepare(np.zeros((16, 16)))], [(16, 16)])
    assert DETECTION.told(predictor, nothing, 0) == {
        "prediction": "nothing", "probability": 1.0, "boxes": [], "expected_f1": 1.0,
    }  # fmt: skip
    assert nothing.scores.tolist() == [[0, 0, 1]]
    broken = answer(DETECTION, Says((0, np.nan, RIGHT[2])), [predictor.prepare(np.zeros((16, 16)))], [(16, 16)])
    assert np.isnan(broken.scores).all(), "a broken answer is not one that there is nothing"


def test_a_kept_answer_is_worth_its_f1(tmp_path: Path) -> None:
    """One of two said is right and one of two true found; what is not shown doesn't count; nothing said of nothing is
    right; the same figure as its row's."""
    predictor = Says(RIGHT, WRONG, HIDDEN)
    [kept] = answer(DETECTION, predictor, [predictor.prepare(np.zeros((16, 16)))], [(16, 16)]).kept
    label = written(tmp_path / "true.json", CELLS)
    assert isinstance(kept, Kept) and DETECTION.worth(kept.content, label) == pytest.approx(0.5)
    empty = written(tmp_path / "empty.json", [])
    assert DETECTION.worth(kept.content, empty) == 0 and DETECTION.worth(b"[]", empty) == 1
    assert DETECTION.worth(b"[]", label) == 0
    with pytest.raises(Unreadable):
        DETECTION.worth(kept.content, written(tmp_path / "odd.json", {"a": 1}))
    examples = FolderExamples(read_folder(folder_of(tmp_path / "in", [CELLS])).rows, ["cell", "core"], DETECTION)
    true = DETECTION.beside(examples, [0], [(16, 16)], 64)
    said = predictor.answer(torch.stack([predictor.prepare(np.zeros((16, 16)))]))
    record = DETECTION.record(rows_of(DETECTION, said, true), examples.label, examples.patient)
    assert case_f1(record).tolist() == pytest.approx([0.5])
    assert form_of(record, record).parts(record)[0].tolist() == pytest.approx([1.0, 0.0])


def test_measures_are_the_contract_s_and_none_where_nothing_is_true(tmp_path: Path) -> None:
    """An image in which there is nothing to find counts; a case without a list is none."""
    rows = read_folder(folder_of(tmp_path / "in", [CELLS, [], CELLS[:1]])).rows
    assert DETECTION.classes(rows) == ["cell", "core"]
    examples = FolderExamples(rows, ["cell", "core"], DETECTION)
    assert examples.label.tolist() == [0, 0, 0]
    found = DETECTION.measured(Says(RIGHT), examples, lambda *_: None)
    assert len(found) == 3 and found.measures().keys() == {"map50", "map", "froc"} == {*DETECTION.measures}
    assert found.measures()["map50"] == pytest.approx(np.mean([(51 + 50 * 2 / 3) / 101, 0]), abs=1e-4)
    nothing = found.measures(np.array([False, True, False]))
    assert nothing == {"map50": None, "map": None, "froc": None}


def test_boxes_that_fit_no_image_or_no_class_are_refused_by_their_number(tmp_path: Path) -> None:
    """In `evaluate`, whose folder no intake has looked at; and what can't be learnt, by the line of the list."""
    outside = [{"label": "cell", "box": [0, 0, 90, 4]}]
    rows = read_folder(folder_of(tmp_path / "a", [CELLS, outside])).rows
    with pytest.raises(HomeostatError, match="of image 2 of 2 a box lies outside its image of 16 x 16"):
        DETECTION.measured(Says(), FolderExamples(rows, ["cell", "core"], DETECTION), lambda *_: None)
    martian = [{"label": "martian", "box": [0, 0, 4, 4]}]
    rows = read_folder(folder_of(tmp_path / "b", [martian])).rows
    with pytest.raises(Unreadable, match="none of the model's"):
        DETECTION.measured(Says(), FolderExamples(rows, ["cell", "core"], DETECTION), lambda *_: None)
    with pytest.raises(HomeostatError, match="every list of boxes is empty"):
        DETECTION.classes(read_folder(folder_of(tmp_path / "c", [[], []])).rows)
    with pytest.raises(HomeostatError, match=r"line 3 of cases\.csv: the boxes are no JSON list"):
        DETECTION.classes(read_folder(folder_of(tmp_path / "d", [CELLS, {"a": 1}])).rows)


def test_what_labels_show_of_boxes_is_their_f1() -> None:
    """With an interval over patients, and how much more the model expected; and people are told of it first."""
    told = [{"worth": worth, "sure": 0.9, "patient_key": str(i)} for i, worth in enumerate([1.0, 0.5] * 12)]
    found = OF_KIND["boxes"](DETECTION, told, np.ones(24), ["cell"])
    assert found["n"] == 24 and found["f1"]["value"] == 0.75 and found["overconfidence"]["value"] == 0.15
    low, high = found["f1"]["interval"]
    assert 0.6 < low < 0.75 < high < 0.9
    said = {"version": "v0", "labelled": 24, "cases": 30, "measured": found, "weighted": None, "patients": 24}
    assert "f1 0.750" in sentence(said)
