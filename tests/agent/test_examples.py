"""Cases as strategies learn from them, from a folder and from the store: the same, lazily."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from taking import CLASSES, make_workspace, rows, write_list, write_png

from agent.cases.datafolder import read_folder
from agent.cases.examples import FolderExamples, StoredExamples
from agent.cases.images import Unreadable, read_image
from agent.cases.intake import Intake


def folder(root: Path) -> Path:
    for i in range(3):
        write_png(root / f"{i}.png", i)
    labels = ["malignant", "", "martian", "benign"]
    listed = [
        {"file": f"{i % 3}.png", "case_id": f"c{i}", "patient_id": f"p{i % 2}", "site": "n", "label": labels[i]}
        for i in range(4)
    ]
    return write_list(root, listed)


def test_a_folder_gives_labels_patients_and_images(tmp_path: Path) -> None:
    """Unknown and missing classes are -1; patients are no raw ids; a removed image is noticed only when asked for."""
    examples = FolderExamples(read_folder(folder(tmp_path)).rows, CLASSES)
    assert examples.label.tolist() == [1, -1, -1, 0]
    assert examples.patient.tolist() == ["p0", "p1", "p0", "p1"]
    assert examples.domain.tolist() == ["n"] * 4
    np.testing.assert_array_equal(examples.image(1), read_image(tmp_path / "1.png"))
    (tmp_path / "2.png").unlink()
    assert len(FolderExamples(examples.rows, CLASSES)) == 4
    with pytest.raises(Unreadable):
        examples.image(2)


def test_the_store_gives_them_in_the_order_asked_for(tmp_path: Path) -> None:
    """With pseudonyms, the set domain before the site, and an alias as its original: image, label and patient."""
    workspace = make_workspace(tmp_path / "ws")
    Intake(workspace).take(folder(tmp_path / "in"))
    with workspace.store.transaction() as connection:
        connection.execute("UPDATE cases SET domain = 'home' WHERE case_id = 'c1'")
    keys = {row["case_id"]: row["patient_key"] for row in rows(workspace, "SELECT case_id, patient_key FROM cases")}
    ids = ["c3", "c1", "c0", "c2"]
    examples = StoredExamples(workspace, ids)
    assert examples.label.tolist() == [1, -1, 1, -1]
    assert examples.domain.tolist() == ["n", "home", "n", "n"]
    assert examples.patient.tolist() == [keys["c0"], keys["c1"], keys["c0"], keys["c2"]]
    np.testing.assert_array_equal(examples.image(0), read_image(tmp_path / "in/0.png"))
    with pytest.raises(KeyError):
        StoredExamples(workspace, ["nobody"])


def test_many_cases_are_read_in_parts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More cases than a statement takes parameters; none at all is fine too."""
    from agent.cases import examples

    workspace = make_workspace(tmp_path / "ws")
    Intake(workspace).take(folder(tmp_path / "in"))
    monkeypatch.setattr(examples, "AT_ONCE", 2)
    assert len(StoredExamples(workspace, ["c0", "c1", "c2", "c0", "c3"])) == 5
    assert len(StoredExamples(workspace, [])) == len(FolderExamples([], CLASSES)) == 0
