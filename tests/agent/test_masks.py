"""Masks: read as they were drawn, held beside their images at the intake, and kept by content."""

from __future__ import annotations

import json
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from taking import make_workspace, rows, write_list, write_png

from agent.cases.examples import StoredExamples
from agent.cases.images import Unreadable
from agent.cases.intake import Intake
from agent.cases.labels import import_labels
from agent.cases.masks import against, read_mask, to_side
from agent.errors import HomeostatError
from agent.workspace import Workspace, put_setting
from strategies.preprocessing import resized
from strategies.protocols import Preprocessing

MAP = np.array([[0, 1, 2, 0]] * 4, np.uint8)


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """Of a segmentation with two structures."""
    workspace = make_workspace(tmp_path / "ws")
    with workspace.store.transaction() as connection:
        put_setting(connection, "task", "segmentation")
        put_setting(connection, "classes", ["background", "structure 1", "structure 2"])
    return workspace


def write_mask(path: Path, mask: np.ndarray) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(mask).save(path, "PNG")
    return path


def folder_of(root: Path, masks: dict[str, np.ndarray | None], size: int = 16) -> Path:
    """A case per mask, `None` for a cell that names no file."""
    listed = []
    for i, (name, mask) in enumerate(masks.items()):
        write_png(root / "images" / f"{name}.png", i, size)
        if mask is not None:
            write_mask(root / "masks" / f"{name}.png", mask)
        listed.append({"file": f"images/{name}.png", "case_id": name, "patient_id": name, "mask": f"masks/{name}.png"})
    return write_list(root, listed)


def cells(size: int = 16, value: int = 1) -> np.ndarray:
    mask = np.zeros((size, size), np.uint8)
    mask[4:9, 5:12] = value
    return mask


def test_every_format_gives_the_numbers_that_were_drawn(tmp_path: Path) -> None:
    """No stretch, no window, no palette: 0, 1, 2 are classes."""
    write_mask(tmp_path / "plain.png", MAP)
    palette = Image.fromarray(MAP, "P")
    palette.putpalette([0, 0, 0, 255, 0, 0, 0, 255, 0])
    palette.save(tmp_path / "palette.png", "PNG")
    write_mask(tmp_path / "grey as colour.png", np.repeat(MAP[..., None], 3, axis=2))
    write_mask(tmp_path / "deep.png", MAP.astype(np.uint16))
    tifffile.imwrite(tmp_path / "map.tif", MAP)
    np.save(tmp_path / "map.npy", MAP.astype(np.float32))
    nibabel.save(nibabel.Nifti1Image(MAP.T[..., None].astype(np.int16), np.eye(4)), tmp_path / "map.nii.gz")
    files = sorted(tmp_path.iterdir())
    assert len(files) == 7
    for file in files:
        found = read_mask(file)
        assert found.dtype == np.uint8 and (found == MAP).all(), file.name


@pytest.mark.parametrize(
    ("values", "says"),
    [
        (np.full((8, 8), -1, np.int16), "no classes"),
        (np.full((8, 8), 300, np.int32), "no classes"),
        (np.full((8, 8), 0.5, np.float32), "no classes"),
        (np.full((8, 8), np.nan, np.float32), "something else than numbers"),
        (np.zeros((2, 2), np.uint8), "at least 4"),
        (np.zeros((8, 8, 2), np.uint8), "one class per pixel"),
    ],
)
def test_what_is_no_label_map_is_refused_in_a_sentence(tmp_path: Path, values: np.ndarray, says: str) -> None:
    np.save(tmp_path / "secret name.npy", values)
    with pytest.raises(Unreadable, match=says) as error:
        read_mask(tmp_path / "secret name.npy")
    assert "secret" not in str(error.value)


def test_a_photograph_or_a_truncated_file_is_no_mask(tmp_path: Path) -> None:
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "photo.jpg", "JPEG")
    with pytest.raises(Unreadable, match="none of PNG"):
        read_mask(tmp_path / "photo.jpg")
    whole = write_mask(tmp_path / "whole.png", cells(64)).read_bytes()
    (tmp_path / "cut.png").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(Unreadable, match="mask can't be"):
        read_mask(tmp_path / "cut.png")
    with pytest.raises(Unreadable, match="mask can't be opened"):
        read_mask(tmp_path / "absent.png")


def test_a_mask_is_held_beside_its_image() -> None:
    against(MAP, (4, 4, 3), "abc")
    with pytest.raises(Unreadable, match="4 x 4 pixels and its image 4 x 5"):
        against(MAP, (4, 5), "abc")
    with pytest.raises(Unreadable, match="class 2, and the model knows 0 to 1"):
        against(MAP, (4, 4), "ab")


@given(st.integers(4, 40), st.integers(4, 40), st.integers(1, 40))
def test_bringing_a_map_to_a_side_makes_up_no_class(height: int, width: int, side: int) -> None:
    """And a map of that side stays as it is."""
    drawn = np.random.default_rng(height * width).integers(0, 4, (height, width), dtype=np.uint8)
    small = to_side(drawn, side)
    assert small.shape == (side, side) and {*small.ravel()} <= {*drawn.ravel()}
    assert (to_side(small, side) == small).all()
    assert (resized(Preprocessing(size=side, mean=(0, 0, 0), std=(1, 1, 1)), drawn).numpy() == small).all()


def test_masks_come_with_their_cases_and_wrong_ones_cost_the_label_alone(workspace: Workspace, tmp_path: Path) -> None:
    """Another size, another class, a cell that leads out of the folder or nowhere: the case is taken all the same."""
    masks = {"good": cells(), "empty": cells(value=0), "size": cells(15), "class": cells(value=7), "absent": None}
    folder = folder_of(tmp_path / "in", masks)
    (tmp_path / "outside.png").write_bytes(write_mask(tmp_path / "x.png", cells()).read_bytes())
    text = (folder / "cases.csv").read_text()
    write_png(folder / "images/out.png", 9)
    (folder / "cases.csv").write_text(text + "images/out.png,out,out,../outside.png\r\n")
    said: list[str] = []
    counts = Intake(workspace, tell=said.append).take(folder)
    assert counts | {"accepted": 6, "labels": 2, "wrong_labels": 4, "quarantined": 0} == counts
    assert [sentence.split(":")[0] for sentence in said] == [f"line {n} of cases.csv" for n in (4, 5, 6, 7)]
    assert "15 x 15" in said[0] and "class 7" in said[1] and "not there" in said[2] and "outside" in said[3]
    found = rows(workspace, "SELECT case_id, kind, value FROM labels ORDER BY id")
    assert [(row["case_id"], row["kind"]) for row in found] == [("good", "mask"), ("empty", "mask")]
    examples = StoredExamples(workspace, ["good", "size"])
    assert examples.label.tolist() == [0, -1] and (examples.mask(0) == cells()).all()
    with pytest.raises(HomeostatError, match="no label of this kind"):
        examples.mask(1)
    journaled = [json.loads(str(row["body"])) for row in rows(workspace, "SELECT body FROM journal")]
    assert journaled[-1]["wrong_labels"] == 4 and "good" not in json.dumps(journaled)


def test_the_same_mask_is_kept_once_and_fed_again_is_no_conflict(workspace: Workspace, tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "in", {"one": cells(), "two": cells()})
    assert Intake(workspace).take(folder)["labels"] == 2
    assert len({row["value"] for row in rows(workspace, "SELECT value FROM labels")}) == 1
    again = Intake(workspace).take(folder)
    assert (again["labels"], again["conflicts"], again["duplicates"]) == (0, 0, 2)
    write_mask(folder / "masks/one.png", cells(value=2))
    assert Intake(workspace).take(folder)["conflicts"] == 1


def test_late_masks_are_joined_from_below_the_folder_of_their_list(workspace: Workspace, tmp_path: Path) -> None:
    """As labels are: by line, the first stays, and a wrong one is said."""
    folder = folder_of(tmp_path / "in", dict.fromkeys(("a", "b", "c")))
    Intake(workspace).take(folder, labels=False)
    write_mask(tmp_path / "late" / "a.png", cells())
    write_mask(tmp_path / "late" / "b.png", cells(8))
    (tmp_path / "late" / "labels.csv").write_text(
        "case_id,mask,labelled_by\na,a.png,Dr A\nb,b.png,\nc,../ws/homeostat.db,\nnobody,a.png,\na,a.png,\n"
    )
    said: list[str] = []
    answer = import_labels(workspace, tmp_path / "late" / "labels.csv", tell=said.append)
    assert answer == {"joined": 1, "unknown": 1, "conflicts": 0, "refused": 2}
    assert [sentence.split(" of ")[0] for sentence in said] == ["line 3", "line 4", "line 5"]
    assert (StoredExamples(workspace, ["a"]).mask(0) == cells()).all()
    assert rows(workspace, "SELECT by, arm FROM labels") == [{"by": "Dr A", "arm": "import"}]


def test_a_list_of_classes_is_refused_where_masks_are_wanted(workspace: Workspace, tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("case_id,label\na,benign\n")
    with pytest.raises(HomeostatError, match="'case_id' and 'mask'"):
        import_labels(workspace, tmp_path / "labels.csv")
