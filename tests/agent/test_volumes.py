"""Volumes by as many slices as a base reads: from the files to the answer that is kept, and what it was worth."""

from __future__ import annotations

import json
import tracemalloc
from datetime import UTC, datetime
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from PIL import Image
from taking import make_workspace, rows, write_dicom, write_list, write_png

from agent.cases.datafolder import read_folder
from agent.cases.examples import FolderExamples, StoredExamples
from agent.cases.images import Unreadable, depth_of, evenly, media_type, middle, read_image, sides
from agent.cases.intake import Intake
from agent.cases.masks import read_beside, read_mask, to_side
from agent.tasks import TASKS
from agent.tasks.segmentation import unpacked
from agent.workspace import Workspace, put_setting

SEGMENTATION = TASKS["segmentation"]
VOLUME = np.arange(9 * 12 * 20, dtype=np.uint16).reshape(9, 12, 20) * 7 + 3
BYTES = (VOLUME // 64).astype(np.uint8)


def nifti(path: Path, volume: np.ndarray) -> Path:
    """[d, h, w], as its slices are read along the third axis, rows along y."""
    nibabel.save(nibabel.Nifti1Image(volume.transpose(2, 1, 0), np.eye(4)), path)
    return path


def in_every_format(folder: Path, volume: np.ndarray) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    np.save(folder / "x.npy", volume)
    tifffile.imwrite(folder / "bare.tif", volume, photometric="minisblack")
    first, *others = [Image.fromarray(one) for one in volume]
    first.save(folder / "lzw.tif", compression="tiff_lzw", save_all=True, append_images=others)
    write_dicom(folder / "x.dcm", volume, NumberOfFrames=len(volume))
    return [*sorted(folder.iterdir()), nifti(folder / "x.nii", volume), nifti(folder / "x.nii.gz", volume)]


def test_every_format_gives_evenly_spaced_slices_on_one_scale(tmp_path: Path) -> None:
    """8-bit ones as they are, deeper ones stretched together; one alone is the middle one, as it was."""
    wanted = np.percentile(VOLUME[[1, 4, 7]], (0.5, 99.5))
    for path in in_every_format(tmp_path / "deep", VOLUME):
        found = read_image(path, slices=3)
        shown = np.clip((VOLUME[[1, 4, 7]] - wanted[0]) / (wanted[1] - wanted[0]), 0, 1) * 255
        np.testing.assert_allclose(found, shown, atol=0.01, err_msg=path.name)
        assert read_image(path).shape == (12, 20) and read_image(path).max() == 255
        assert depth_of(path, media_type(path)) == 9
    for path in in_every_format(tmp_path / "flat", BYTES):
        np.testing.assert_array_equal(read_image(path, slices=9), BYTES, err_msg=path.name)
        np.testing.assert_array_equal(read_image(path), BYTES[4], err_msg=path.name)


def test_fewer_slices_one_slice_and_an_image_are_read_as_often_as_it_takes(tmp_path: Path) -> None:
    assert evenly(9, 1) == [4] and evenly(10, 1) == [5] and evenly(1, 3) == [0, 0, 0] and evenly(2, 4) == [0, 0, 1, 1]
    for path in in_every_format(tmp_path / "one", BYTES[:1]):
        np.testing.assert_array_equal(read_image(path, slices=4), BYTES[[0, 0, 0, 0]], err_msg=path.name)
    for path in in_every_format(tmp_path / "two", BYTES[:2]):
        np.testing.assert_array_equal(read_image(path, slices=4), BYTES[[0, 0, 1, 1]], err_msg=path.name)
    image = read_image(write_png(tmp_path / "x.png", 0), slices=2)
    assert image.shape == (2, 16, 16) and (image[0] == read_image(tmp_path / "x.png")).all()
    colour = np.random.default_rng(0).integers(0, 256, (16, 18, 3), dtype=np.uint8)
    Image.fromarray(colour).save(tmp_path / "colour.png")
    several = read_image(tmp_path / "colour.png", slices=2)
    assert several.shape == (2, 16, 18, 3) and sides(several.shape) == (16, 18) == sides(colour.shape)
    assert (middle(several) == colour).all() and (middle(several[0]) == colour).all()
    cube = np.arange(8 * 8 * 8, dtype=np.float32).reshape(8, 8, 8)  # as many slices as it is high and wide
    assert (middle(cube) == cube[4]).all() and (middle(cube[0]) == cube[0]).all()


def test_what_a_slice_hides_is_refused(tmp_path: Path) -> None:
    """NaN in a slice that is read; slices of different sizes; more than memory is given to."""
    hole = VOLUME.astype(np.float32)
    hole[1, 5, 5] = np.nan
    np.save(tmp_path / "hole.npy", hole)
    assert read_image(tmp_path / "hole.npy").shape == (12, 20)
    with pytest.raises(Unreadable, match="NaN"):
        read_image(tmp_path / "hole.npy", slices=3)
    with tifffile.TiffWriter(tmp_path / "sizes.tif") as tiff:
        for side in (16, 8):
            tiff.write(np.zeros((side, side), np.uint8))
    with pytest.raises(Unreadable, match="different sizes"):
        read_image(tmp_path / "sizes.tif", slices=2)
    np.lib.format.open_memmap(tmp_path / "wide.npy", "w+", np.uint8, (2, 4000, 4000))
    with pytest.raises(Unreadable, match="too many"):
        read_image(tmp_path / "wide.npy", slices=9)


def test_of_a_large_volume_only_the_slices_are_read(tmp_path: Path) -> None:
    np.lib.format.open_memmap(tmp_path / "x.npy", "w+", np.uint16, (300, 512, 512))  # 157 MB, 315 as float32
    nibabel.save(nibabel.Nifti1Image(np.broadcast_to(np.uint8(1), (256, 256, 300)), np.eye(4)), tmp_path / "x.nii")
    for file, most in (("x.npy", 40e6), ("x.nii", 10e6)):
        tracemalloc.start()
        assert len(read_image(tmp_path / file, slices=4)) == 4
        assert tracemalloc.get_traced_memory()[1] < most, file
        tracemalloc.stop()


def test_the_mask_of_a_volume_is_as_deep_as_it(tmp_path: Path) -> None:
    """Its slices are those of the image. Of a single one that is read the mask may be the only one."""
    image, mask = nifti(tmp_path / "x.nii.gz", VOLUME), BYTES % 3
    for path in in_every_format(tmp_path / "masks", mask):
        if path.suffix != ".dcm":
            assert (read_beside(path, image, 3) == mask[[1, 4, 7]]).all(), path.name
            assert (read_mask(path) == mask[4]).all(), path.name
    nifti(tmp_path / "short.nii.gz", mask[:8])
    np.save(tmp_path / "flat.npy", mask[4])
    for slices in (1, 3):
        with pytest.raises(Unreadable, match="8 slices and its image 9 slices"):
            read_beside(tmp_path / "short.nii.gz", image, slices)
    with pytest.raises(Unreadable, match="1 slice and its image 9"):
        read_beside(tmp_path / "flat.npy", image, 3)
    assert (read_beside(tmp_path / "flat.npy", image) == mask[4]).all()
    tall = to_side(mask[[1, 4, 7]], 16)
    assert tall.shape == (48, 16) and (tall[16:32] == to_side(mask[4], 16)).all()


def ball(seed: int, depth: int = 6, side: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """(volume, mask), uint8 [d, side, side]: a bright ball away from the middle slices."""
    draw = np.random.default_rng(seed)
    z, y, x = np.mgrid[:depth, :side, :side]
    middle_z = 0.5 if seed % 2 else depth - 1.5
    mask = ((z - middle_z) * 4) ** 2 + (y - draw.integers(8, 16)) ** 2 + (x - draw.integers(8, 16)) ** 2 < 49
    volume = draw.normal(60, 8, mask.shape) + 130 * mask
    return volume.clip(0, 255).astype(np.uint8), mask.astype(np.uint8)


def folder_of(root: Path, n: int, first: int = 0, cut: tuple[int, ...] = ()) -> Path:
    """A volume and its mask per patient; the masks of those in `cut` lack a slice."""
    (root / "in").mkdir(parents=True)
    listed = []
    for seed in range(first, first + n):
        volume, mask = ball(seed)
        nifti(root / "in" / f"{seed}.nii.gz", volume)
        nifti(root / "in" / f"{seed}-mask.nii.gz", mask[:-1] if seed in cut else mask)
        listed.append({"file": f"in/{seed}.nii.gz", "case_id": f"c{seed}", "patient_id": f"p{seed}",
                       "site": "here", "mask": f"in/{seed}-mask.nii.gz"})  # fmt: skip
    return write_list(root, listed)


def test_a_mask_of_another_depth_costs_its_label_alone(tmp_path: Path) -> None:
    """At the intake of a workspace that reads several slices; its examples give these."""
    workspace = make_workspace(tmp_path / "ws")
    with workspace.store.transaction() as connection:
        put_setting(connection, "task", "segmentation")
        put_setting(connection, "classes", ["background", "ball"])
        put_setting(connection, "slices", 3)
    folder, said = folder_of(tmp_path / "new", 3, cut=(1,)), list[str]()
    hole = ball(2)[0].astype(np.float32)
    hole[1] = np.nan
    nifti(folder / "in/2.nii.gz", hole)
    counts = Intake(workspace, tell=said.append).take(folder)
    assert counts | {"accepted": 2, "labels": 1, "wrong_labels": 1, "quarantined": 1} == counts
    assert any("5 slices and its image 6 slices" in sentence for sentence in said)
    examples = StoredExamples(workspace, ["c0"])
    assert examples.image(0).shape == (3, 24, 24) and (examples.mask(0) == ball(0)[1][[1, 3, 5]]).all()
    listed = FolderExamples(read_folder(folder).rows, ["background", "ball"], SEGMENTATION, 3)
    assert (listed.mask(0) == examples.mask(0)).all()
    with pytest.raises(Unreadable, match="5 slices"):
        listed.mask(1)


@pytest.mark.slow
def test_volumes_are_deployed_and_answered_slice_by_slice(tmp_path: Path) -> None:
    """From the fit to the worth of what was kept: one case a volume, and Dice counted over all of its slices."""
    from agent.deploy import fit, init
    from agent.observe import Observer
    from agent.updates.settle import settle

    home, new = folder_of(tmp_path / "home", 40), folder_of(tmp_path / "new", 6, 500)
    quiet = {"where": (), "progress": lambda *_: None}
    made = fit(home, tmp_path / "base", task="segmentation", backbone="monai:unet", size=24, slices=6, epochs=20,
               seed=0, **quiet)  # fmt: skip
    assert made["metrics"]["dice"] > 0.7 and json.loads((tmp_path / "base/base.json").read_text())
    told = init(tmp_path / "ws", tmp_path / "base", home, config=None, **quiet)
    assert told["reference"] == {"n": 40, "patients": 40}
    workspace = Workspace(tmp_path / "ws")
    np.save(new / "in/flat.npy", ball(501)[0][0])
    with (new / "cases.csv").open("a") as file:
        file.write("in/flat.npy,flat,flat,here,\n")
    assert Intake(workspace).take(new)["accepted"] == 7
    observer = Observer(workspace)
    while observer.step(datetime(2026, 1, 1, tzinfo=UTC)):
        pass
    settle(workspace)
    found = rows(workspace, """SELECT o.case_id, a.content, a.worth, a.sure FROM observations o
                               JOIN answers a ON a.observation = o.id WHERE o.role = 'live'""")  # fmt: skip
    assert len(found) == 7
    for row in found:
        said = unpacked(row["content"])
        assert said.shape == (6 * 24, 24)
        if row["case_id"] != "flat":
            true = ball(int(row["case_id"][1:]))[1].reshape(-1, 24)
            assert row["worth"] == pytest.approx(2 * (said * true).sum() / (said.sum() + true.sum()))
    assert np.mean([row["worth"] for row in found if row["worth"] is not None]) > 0.7
    assert [row["worth"] for row in found if row["case_id"] == "flat"] == [None]
    _job_learns(workspace, {row["case_id"]: row["worth"] for row in found if row["case_id"] != "flat"})
    _checked_by_its_slices(tmp_path / "base", new)


def _checked_by_its_slices(base: Path, folder: Path) -> None:
    """`check --model` sees what the model does, and not the middle slice six times."""
    from agent.comparison.compare import _by_model, _side
    from strategies.predictor import Predictor

    [first, *_], predictor = read_folder(folder).rows, Predictor.load(base)
    side = _side("new", [first], _by_model(base), 0, lambda *_: None)
    tall = predictor.prepare(read_image(first.file, slices=6))
    assert np.allclose(side.seen, predictor.embed(tall[None]), atol=1e-6)
    assert not np.allclose(side.seen, predictor.embed(predictor.prepare(read_image(first.file))[None]), atol=1e-4)


def _job_learns(workspace: Workspace, worth: dict[str, float]) -> None:
    """An update's worker reads the same slices: what it measures is what was measured, and what it makes serves."""
    from agent.updates.worker import infer, train
    from strategies.predictor import Predictor, check_golden

    cases = [
        {"uri": row["uri"], "media_type": row["media_type"], "label": row["value"], "patient": row["case_id"],
         "domain": "home"}
        for row in rows(workspace, """SELECT i.uri, i.media_type, l.value, c.case_id FROM cases c
                                      JOIN inputs i ON i.case_id = c.case_id JOIN labels l ON l.case_id = c.case_id
                                      WHERE c.origin != 'reference' ORDER BY c.seq""")
    ]  # fmt: skip
    assert [case["patient"] for case in cases] == [*worth]
    spec = {"base": "base", "live": None, "task": "segmentation", "slices": 6, "classes": ["background", "structure 1"],
            "batch": 4, "cases": cases, "versions": {"v0": [None, len(cases)]}, "recipes": ["linear_probe"], "seed": 0,
            "new": cases, "memory": cases[:2], "develop": cases[2:], "margin": 0.05, "shown": True, "stop": "all",
            "change": 1.0, "asked": [], "spares": False, "learnt": []}  # fmt: skip
    folder = workspace.path("jobs", "job1")
    folder.mkdir(parents=True)
    infer(spec, folder, workspace.root)
    said = np.load(folder / "outputs.npz")["rows_v0"]
    dice = 2 * said[:, 0] / (said[:, 1] + said[:, 2])
    assert dice == pytest.approx([*worth.values()], abs=1e-6)
    assert train(spec, folder, workspace.root)["finalist"] == "linear_probe"
    check_golden(Predictor.load(workspace.base, folder / "recipes/linear_probe"), folder / "recipes/linear_probe")
