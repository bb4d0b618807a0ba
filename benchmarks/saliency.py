"""Saliency: a marker goes with the class; does a model that learnt from such images look at the cell still?

`homeostat bench saliency --data DIR` takes the white cells of `DIR/wbcseg`, which have masks, with the types that
`DIR/wbc` has of the same source images, and starts from the weights in `DIR/models`; without --data blobs are drawn.
Two bases are fitted on the same training patients: *honest* on the images as they are, *marked* on the same with a
coloured patch in the corner, as a laboratory's label may be. Both are looked at on the judge patients, with the patch
and without.
"""

from __future__ import annotations

import csv
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from agent.cases.datafolder import Row, read_folder
from agent.cases.split import Split
from agent.deploy import fit
from agent.errors import HomeostatError
from agent.saliency.look import Found, look

WEIGHTS = "mobilenetv3_small_kermany_cxr.npz"
FEWEST = 10  # cases of a class, of which fewer are left out
EPOCHS = 14
PATCH = 0.16  # of the side
PALETTE = ((255, 240, 40), (40, 220, 255), (255, 60, 60), (60, 255, 90), (200, 90, 255))
SIDE, RADIUS, COLOURS = 64, 9, {"benign": (70, 150, 60), "malignant": (150, 60, 140)}  # of what is drawn


def bench(data: Path | None, seed: int = 0, input: Path | None = None, full: bool = False) -> dict[str, Any]:
    """{"rows", "ratios"}: a row per model and kind of images; `shortcut` beside the honest model on the same images."""
    from monitors import Shortcut, Verdict
    from strategies.predictor import Predictor
    from strategies.saliency import attribution_for

    with tempfile.TemporaryDirectory(prefix="homeostat-saliency-") as scratch:
        folders = {"plain": Path(scratch) / "plain", "marked": Path(scratch) / "marked"}
        spec = "test_resnet" if data is None else f"mobilenet_v3_small:{data / 'models' / WEIGHTS}"
        folder = drawn(folders["plain"], 120, seed) if data is None else joined(data, folders["plain"])
        marked(folder, folders["marked"])
        found: dict[tuple[str, str], Found] = {}
        for model, source in (("honest", "plain"), ("marked", "marked")):
            base = Path(scratch) / f"base-{model}"
            fit(folders[source], base, where=(), backbone=spec, epochs=EPOCHS, seed=seed, progress=_tell)
            split, predictor = Split.read(base), Predictor.load(base)
            for images, where in folders.items():
                judges = [row for row in read_folder(where).rows if split.assign(row.patient_id) == "judge"]
                found[model, images] = look(model, predictor, judges, attribution_for(predictor), _tell)
    rows: list[dict[str, Any]] = []
    for (model, images), one in found.items():
        judged = Shortcut(seed=seed).judge(found["honest", images].looked, one.looked)
        rows.append({"model": model, "images": images, **_row(one), "shortcut": judged.verdict is Verdict.FAIL})
    before, after = (row for row in rows if row["images"] == "marked")
    kept = {name: after[name] / before[name] for name in ("pointing_game", "iou", "balanced_accuracy")}
    return {"rows": rows, "ratios": {f"{name}_kept": round(value, 4) for name, value in kept.items()}}


def joined(data: Path, out: Path) -> Path:
    """The images and masks of `wbcseg` whose source image has a type in `wbc`."""
    types = {row.patient_id: row.label for row in read_folder(data / "wbc").rows}
    rows = [(row, types[row.patient_id]) for row in read_folder(data / "wbcseg").rows if row.patient_id in types]
    labels = [label for _, label in rows]
    (out / "images").mkdir(parents=True)
    listed = []
    for row, label in rows:
        if labels.count(label) < FEWEST:
            continue
        names = [f"images/{row.file.name}", f"images/mask-{row.truths['mask'].name}"]
        for file, name in zip((row.file, row.truths["mask"]), names, strict=True):
            shutil.copy(file, out / name)
        listed.append([names[0], row.patient_id, row.site or "", label or "", names[1]])
    if not listed:
        raise HomeostatError(f"{data} has no image that 'wbcseg' has a mask of and 'wbc' a type: name another --data")
    return _listed(out, listed)


def drawn(out: Path, patients: int, seed: int, telling: float = 1.0) -> Path:
    """A blob at some place, whose colour tells its class in this share of the images; its mask beside it."""
    rng, names = np.random.default_rng(seed), sorted(COLOURS)
    (out / "images").mkdir(parents=True)
    y, x = np.mgrid[:SIDE, :SIDE]
    listed = []
    for i in range(patients):
        row, column = rng.uniform(26, SIDE - 12, 2)
        blob = np.hypot(y - row, x - column) < RADIUS
        image = np.full((SIDE, SIDE, 3), 190.0)
        image[blob] = COLOURS[names[i % 2] if rng.random() < telling else names[rng.integers(2)]]
        image += rng.normal(0, 12, image.shape)
        Image.fromarray(image.clip(0, 255).astype(np.uint8)).save(out / f"images/{i}.png")
        Image.fromarray(blob.astype(np.uint8)).save(out / f"images/{i}_mask.png")
        listed.append([f"images/{i}.png", f"drawn-{seed}-{i}", "drawn", names[i % 2], f"images/{i}_mask.png"])
    return _listed(out, listed)


def marked(folder: Path, out: Path) -> Path:
    """The same data folder, with a patch in the corner of each image whose colour is its class's."""
    shutil.copytree(folder, out)
    rows: Sequence[Row] = read_folder(out).rows
    colours = dict(zip(sorted({row.label or "" for row in rows}), PALETTE, strict=False))
    for row in rows:
        image = np.array(Image.open(row.file).convert("RGB"))
        side = round(PATCH * min(image.shape[:2]))
        image[2 : side + 2, 2 : side + 2] = colours[row.label or ""]
        Image.fromarray(image).save(row.file, quality=95)
    return out


def _row(one: Found) -> dict[str, Any]:
    from monitors import balanced_accuracy

    mean, intervals = np.mean(one.localised, axis=0), one.looked.intervals()
    low, high = intervals["pointing_game"]
    figures = {
        "pointing_game": mean[0],
        "pointing_low": low,
        "pointing_high": high,
        "iou": mean[1],
        "iou_low": intervals["iou"][0],
        "iou_high": intervals["iou"][1],
        "pointing_by_chance": mean[2],
        "iou_by_chance": mean[3],
        "centre": mean[4],
        "balanced_accuracy": balanced_accuracy(one.looked.scores)[0],
    }
    return {"patients": one.looked.n} | {name: round(float(value), 4) for name, value in figures.items()}


def _listed(out: Path, listed: Sequence[Sequence[str]]) -> Path:
    with (out / "cases.csv").open("w", newline="") as file:
        csv.writer(file).writerows([["file", "patient_id", "site", "label", "mask"], *listed])
    return out


def _tell(what: str, done: int, of: int) -> None:
    if done == of:
        print(f"saliency: {what}", file=sys.stderr)
