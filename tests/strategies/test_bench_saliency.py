"""The benchmark of saliency: a model that learnt the marker is found out; the data it takes is joined by patient."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from agent.cases.datafolder import read_folder
from agent.errors import HomeostatError
from benchmarks import saliency


@pytest.mark.slow
def test_a_model_of_marked_images_is_found_out() -> None:
    """On images with the marker both models are right, and one looks at the blob; without it the other fails."""
    result = saliency.bench(None, seed=0)
    rows = {(row["model"], row["images"]): row for row in result["rows"]}
    assert {key: row["shortcut"] for key, row in rows.items()}["marked", "marked"] is True
    assert not rows["honest", "marked"]["shortcut"] and result["ratios"]["balanced_accuracy_kept"] > 0.95
    assert result["ratios"]["pointing_game_kept"] < 0.5


def write(folder: Path, patients: list[str], **cells: str) -> None:
    """One image per patient, with a mask; a column per name in `cells`."""
    folder.mkdir()
    lines = ["file,patient_id,mask," + ",".join(cells)]
    for patient in patients:
        for name in (f"{patient}.png", f"{patient}-mask.png"):
            Image.fromarray(np.full((40, 40), 1, np.uint8)).save(folder / name)
        lines.append(f"{patient}.png,{patient},{patient}-mask.png," + ",".join(cells.values()))
    (folder / "cases.csv").write_text("\n".join(lines))


def test_masks_and_types_are_joined_by_their_source_image(tmp_path: Path) -> None:
    """An image with a mask has the type of its own source image; without one it is left out."""
    write(tmp_path / "wbc", [f"a{i}" for i in range(16)], label="monocyte")
    write(tmp_path / "wbcseg", [f"a{i}" for i in range(4, 20)], site="here")
    folder = saliency.joined(tmp_path, tmp_path / "both")
    rows = read_folder(folder).rows
    assert [(row.patient_id, row.label, bool(row.truths)) for row in rows] == [
        (f"a{i}", "monocyte", True) for i in range(4, 16)
    ]


def test_few_of_a_type_are_left_out_and_none_is_said(tmp_path: Path) -> None:
    """Nothing can be learnt of two cells; a folder that has no other is refused in a sentence."""
    write(tmp_path / "wbc", ["a0", "a1"], label="basophil")
    write(tmp_path / "wbcseg", ["a0", "a1"], site="here")
    with pytest.raises(HomeostatError, match="'wbcseg' has a mask"):
        saliency.joined(tmp_path, tmp_path / "both")


def test_the_marker_is_the_class_s_own_and_nothing_else_is_changed(tmp_path: Path) -> None:
    """A patch in the corner of the class's colour; the rest of the image, the labels and the masks stay."""
    plain = saliency.drawn(tmp_path / "plain", 6, 0)
    rows = read_folder(saliency.marked(plain, tmp_path / "marked")).rows
    colours = dict[str | None, set[tuple[int, ...]]]()
    for before, after in zip(read_folder(plain).rows, rows, strict=True):
        was, now = np.array(Image.open(before.file)), np.array(Image.open(after.file))
        colours.setdefault(after.label, set()).add(tuple(now[4, 4].tolist()))
        np.testing.assert_array_equal(was[20:], now[20:])
        assert before.label == after.label and before.truths["mask"].read_bytes() == after.truths["mask"].read_bytes()
    assert [len(found) for found in colours.values()] == [1, 1] and len(set.union(*colours.values())) == 2
