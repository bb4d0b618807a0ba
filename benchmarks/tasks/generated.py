"""Cells of two stains with the masks and the boxes that they were drawn by, for whoever has no data folder at hand."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.tasks import Change

SIDE = 64
CELLS = 3
EPOCHS = 60  # few images, and a network that begins at random weights


def changes(scratch: Path, seed: int, patients: tuple[int, int] = (80, 48)) -> list[Change]:
    """One of masks, and one of boxes, over the same images."""
    folder = scratch / "cells"
    stains: dict[str, Callable[..., NDArray[np.uint8]]] = {"dark": _fluorescent, "bright": _stained}
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    (folder / "boxes").mkdir()
    rng = np.random.default_rng(seed)
    with (folder / "cases.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "case_id", "patient_id", "site", "mask", "boxes"])
        for (site, stain), n in zip(stains.items(), patients, strict=True):
            for i in range(n):
                (mask, boxes), name = _cells(rng), f"{site}{i:03}.png"
                Image.fromarray(stain(mask, rng)).save(folder / "images" / name)
                Image.fromarray(mask).save(folder / "masks" / name)
                (folder / "boxes" / f"{name}.json").write_text(json.dumps(boxes))
                labels = f"masks/{name}", f"boxes/{name}.json"
                writer.writerow([f"images/{name}", f"{site}{i}", f"{site}{i}", site, *labels])
    sites = "site=dark", "site=bright"
    return [
        Change("cells", folder, *sites, size=SIDE),
        Change("boxes", folder, *sites, task="detection", size=SIDE, epochs=EPOCHS),
    ]


def _cells(rng: np.random.Generator) -> tuple[NDArray[np.uint8], list[dict[str, Any]]]:
    """[h, w]: discs of class 1, each with a core of class 2; and the box of each disc."""
    y, x = np.mgrid[:SIDE, :SIDE]
    mask, boxes = np.zeros((SIDE, SIDE), np.uint8), []
    for _ in range(CELLS):
        middle, radius = rng.uniform(10, SIDE - 10, 2), rng.uniform(6, 10)
        distance = np.hypot(y - middle[0], x - middle[1])
        mask[distance < radius] = 1
        mask[distance < radius / 2] = 2
        low, high = (np.clip(middle[::-1] + sign * radius, 0, SIDE).round(1).tolist() for sign in (-1, 1))
        boxes.append({"label": "cell", "box": [*low, *high]})
    return mask, boxes


def _fluorescent(mask: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    light = np.array([20.0, 90.0, 180.0])[mask] * rng.uniform(0.9, 1.1)
    return _noisy(np.repeat(light[..., None], 3, axis=2), rng)


def _stained(mask: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    colours = np.array([[235.0, 220.0, 230.0], [200.0, 150.0, 190.0], [110.0, 60.0, 130.0]])
    return _noisy(colours[mask] * rng.uniform(0.95, 1.05), rng)


def _noisy(image: NDArray[np.floating], rng: np.random.Generator) -> NDArray[np.uint8]:
    return np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
