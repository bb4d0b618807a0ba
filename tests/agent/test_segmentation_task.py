"""Segmentation as the agent has it: what is kept of an answer, what that is worth and when, what is told."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from taking import make_workspace, rows, write_list, write_png

from agent.cases.datafolder import read_folder
from agent.cases.examples import FolderExamples
from agent.cases.intake import Intake
from agent.cases.labels import import_labels
from agent.errors import HomeostatError
from agent.observe import record
from agent.tasks import answer, task_named
from agent.tasks.segmentation import unpacked
from agent.updates.settle import settle
from agent.updates.worker import ListedExamples, _infer
from agent.workspace import Workspace, put_setting

SEGMENTATION = task_named("segmentation")
CLASSES = ["background", "structure 1", "structure 2"]


def drawn(size: int = 16, value: int = 1) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    mask[4:8, 4:12] = value
    return mask


class Says:
    """A version that gives these probabilities [k, s, s] of every image."""

    classes = tuple(CLASSES)
    task = "segmentation"

    class preprocessing:
        size = 16
        slices = 1

    def __init__(self, mask: np.ndarray, sure: float = 0.9) -> None:
        others = (1 - sure) / (len(CLASSES) - 1)
        self.one = np.where(np.arange(len(CLASSES))[:, None, None] == mask, sure, others).astype(np.float32)

    def prepare(self, image: np.ndarray) -> torch.Tensor:
        return torch.zeros(3, 16, 16)

    def answer(self, batch: torch.Tensor) -> np.ndarray:
        return np.stack([self.one] * len(batch))

    def decide(self, probabilities: np.ndarray) -> np.ndarray:
        return probabilities.argmax(axis=1)

    def observe(self, batch: torch.Tensor):
        from strategies.predictor import Observation

        return Observation(self.answer(batch), self.answer(batch), np.zeros((len(batch), 3), np.float32))


def said(mask: np.ndarray, sure: float = 0.9):
    version = Says(mask, sure)
    return version, answer(SEGMENTATION, version, [version.prepare(mask)], [mask.shape])


def test_an_answer_is_kept_as_a_map_with_the_dice_that_it_expects() -> None:
    """What monitors see sums to 1; a surer answer expects more."""
    version, answered = said(drawn())
    [kept] = answered.kept
    assert (unpacked(kept.content) == drawn()).all() and kept.form == "regions"
    assert answered.scores.shape == (1, 3) and answered.scores.sum() == pytest.approx(1)
    assert kept.sure > said(drawn(), 0.6)[1].kept[0].sure
    told = SEGMENTATION.told(version, answered, 0)
    assert told["prediction"] == "structure 1" and told["shares"]["structure 1"] == pytest.approx(32 / 256)
    version, empty = said(drawn(value=0))
    assert SEGMENTATION.told(version, empty, 0)["prediction"] == "background"


def test_a_kept_answer_is_worth_its_dice_at_its_own_size(tmp_path: Path) -> None:
    """Half of a structure found: 2 * 16 / (16 + 32); a mask of another size is brought to the answer's."""
    half = drawn()
    half[4:8, 8:12] = 0
    kept = said(half)[1].kept[0]
    for scale in (1, 3):
        file = tmp_path / f"{scale}.png"
        Image.fromarray(np.kron(drawn(), np.ones((scale, scale), np.uint8))).save(file)
        assert SEGMENTATION.worth(kept.content, file) == pytest.approx(2 / 3)
    Image.fromarray(drawn(value=0)).save(tmp_path / "empty.png")
    assert SEGMENTATION.worth(kept.content, tmp_path / "empty.png") == 0
    assert SEGMENTATION.worth(said(drawn(value=0))[1].kept[0].content, tmp_path / "empty.png") == 1


def test_measures_are_of_the_images_size_and_none_where_nothing_is_there(tmp_path: Path) -> None:
    for i, mask in enumerate((drawn(), drawn(value=0))):
        write_png(tmp_path / f"{i}.png", i)
        Image.fromarray(mask).save(tmp_path / f"{i}.mask.png")
    write_list(tmp_path, [{"file": f"{i}.png", "case_id": str(i), "mask": f"{i}.mask.png"} for i in range(2)])
    examples = FolderExamples(read_folder(tmp_path).rows, CLASSES, SEGMENTATION)
    found = SEGMENTATION.measured(Says(drawn()), examples, lambda *_: None)
    assert found.measures(np.array([True, False])) == {"dice": 1.0, "hd95": 0.0, "nsd": 1.0}
    assert found.measures()["dice"] == 0.5, "a structure that is said where none is counts 0"
    nothing = SEGMENTATION.measured(Says(drawn(value=0)), examples, lambda *_: None)
    assert nothing.measures(np.array([False, True])) == {"dice": 1.0, "hd95": None, "nsd": None}


def test_the_classes_of_a_folder_are_those_of_its_masks(tmp_path: Path) -> None:
    """All empty, or one left out in between, is nothing to fit on."""
    write_png(tmp_path / "0.png", 0)
    write_list(tmp_path, [{"file": "0.png", "mask": "m.png"}])
    for mask, says in ((drawn(value=0), "every mask is empty"), (drawn(value=2), "no mask has the class 1")):
        Image.fromarray(mask).save(tmp_path / "m.png")
        with pytest.raises(HomeostatError, match=says):
            SEGMENTATION.classes(read_folder(tmp_path).rows)
    Image.fromarray(drawn()).save(tmp_path / "m.png")
    assert SEGMENTATION.classes(read_folder(tmp_path).rows) == CLASSES[:2]


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Three cases without masks, `a` and `b` answered."""
    workspace = make_workspace(tmp_path / "ws")
    folder = tmp_path / "in"
    for i, name in enumerate("abc"):
        write_png(folder / f"{name}.png", i)
    write_list(folder, [{"file": f"{name}.png", "case_id": name} for name in "abc"])
    with workspace.store.transaction() as connection:
        put_setting(connection, "task", "segmentation")
        put_setting(connection, "classes", CLASSES)
    Intake(workspace).take(folder)
    for name in "ab":
        observe(workspace, name)
    return workspace


def observe(workspace: Workspace, name: str) -> None:
    answered = said(drawn())[1]
    with workspace.store.transaction() as connection:
        record(connection, case_id=name, version="v0", role="live", scores=answered.scores[0],
               embedding=answered.embedding[0], sensor="s", trust="normal", kept=answered.kept[0],
               at=workspace.now())  # fmt: skip


def labelled(workspace: Workspace, root: Path, **masks: np.ndarray) -> None:
    for name, mask in masks.items():
        Image.fromarray(mask).save(root / f"{name}.png")
    lines = [f"{name},{name}.png" for name in masks]
    (root / "labels.csv").write_text("\n".join(["case_id,mask", *lines]) + "\n")
    assert import_labels(workspace, root / "labels.csv")["joined"] == len(masks)


def worths(workspace: Workspace) -> dict[str, float | None]:
    found = rows(workspace, "SELECT o.case_id, a.worth FROM answers a JOIN observations o ON o.id = a.observation")
    return {str(row["case_id"]): row["worth"] for row in found}  # type: ignore[misc]


def test_worth_is_measured_once_label_and_answer_are_both_there(workspace: Workspace, tmp_path: Path) -> None:
    """In either order; the rest waits, and nothing is done twice."""
    assert settle(workspace) == 0 and worths(workspace) == {"a": None, "b": None}
    labelled(workspace, tmp_path, a=drawn(), c=drawn(value=2))
    assert settle(workspace) == 1 and worths(workspace) == {"a": 1.0, "b": None}
    observe(workspace, "c")
    assert settle(workspace) == 1 and worths(workspace) == {"a": 1.0, "b": None, "c": 0.0}
    before = rows(workspace, "SELECT * FROM journal")
    assert settle(workspace) == 0 and rows(workspace, "SELECT * FROM journal") == before


def test_a_label_that_is_gone_costs_its_own_answer_and_is_told(workspace: Workspace, tmp_path: Path) -> None:
    labelled(workspace, tmp_path, a=drawn(), b=drawn(value=2))
    gone = rows(workspace, "SELECT value FROM labels WHERE case_id = 'a'")[0]["value"]
    workspace.path(str(gone)).unlink()
    assert settle(workspace) == 1 and worths(workspace) == {"a": None, "b": 0.0}
    last = rows(workspace, "SELECT event, body FROM journal ORDER BY seq DESC LIMIT 1")[0]
    assert (last["event"], json.loads(str(last["body"]))) == ("answers_unmeasured", {"answers": 1})


def test_a_job_asks_the_network_once_per_case(tmp_path: Path) -> None:
    """Scores, what is kept and what is measured come of one pass; the same bytes under two cases are read once."""
    for i in range(2):
        write_png(tmp_path / f"{i}.png", i)
        Image.fromarray(drawn()).save(tmp_path / f"{i}m.png")
    facts = {"media_type": "image/png", "patient": "p", "domain": "home"}
    entries = [{"uri": f"{i % 2}.png", "label": f"{i % 2}m.png" if i < 3 else None, **facts} for i in range(4)]
    cases = ListedExamples(tmp_path, entries, CLASSES, SEGMENTATION)
    asked = []

    class Counted(Says):
        def answer(self, batch: torch.Tensor) -> np.ndarray:
            asked.append(len(batch))
            return super().answer(batch)

    found = _infer(Counted(drawn()), cases, 16, kept=True)
    assert asked == [3], "two images, one of them with its mask and without"
    assert (len(found.scores), len(found.rows), len(found.kept)) == (4, 4, 4)
    judged = SEGMENTATION.record(found.rows, cases.label, cases.patient)
    assert judged.known.tolist() == [True, True, True, False]
