"""Cells of two stains with the masks that they were drawn by, for whoever has no data folder at hand."""

from __future__ import annotations

import csv
from collections.abc import Callable
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from benchmarks.tasks import Change

SIDE = 64
CELLS = 3


def changes(scratch: Path, seed: int, patients: tuple[int, int] = (80, 48)) -> list[Change]:
    """From dark cells to bright ones, of so many patients each, written below `scratch`."""
    folder = scratch / "cells"
    stains: dict[str, Callable[..., NDArray[np.uint8]]] = {"dark": _fluorescent, "bright": _stained}
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    rng = np.random.default_rng(seed)
    with (folder / "cases.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "case_id", "patient_id", "site", "mask"])
        for (site, stain), n in zip(stains.items(), patients, strict=True):
            for i in range(n):
                mask, name = _cells(rng), f"{site}{i:03}.png"
                Image.fromarray(stain(mask, rng)).save(folder / "images" / name)
                Image.fromarray(mask).save(folder / "masks" / name)
                writer.writerow([f"images/{name}", f"{site}{i}", f"{site}{i}", site, f"masks/{name}"])
    return [Change("cells", folder, "site=dark", "site=bright", size=SIDE)]


def _cells(rng: np.random.Generator) -> NDArray[np.uint8]:
    """[h, w]: discs of class 1, each with a core of class 2."""
    y, x = np.mgrid[:SIDE, :SIDE]
    mask = np.zeros((SIDE, SIDE), np.uint8)
    for _ in range(CELLS):
        middle, radius = rng.uniform(10, SIDE - 10, 2), rng.uniform(6, 10)
        distance = np.hypot(y - middle[0], x - middle[1])
        mask[distance < radius] = 1
        mask[distance < radius / 2] = 2
    return mask


def _fluorescent(mask: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    light = np.array([20.0, 90.0, 180.0])[mask] * rng.uniform(0.9, 1.1)
    return _noisy(np.repeat(light[..., None], 3, axis=2), rng)


def _stained(mask: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
    colours = np.array([[235.0, 220.0, 230.0], [200.0, 150.0, 190.0], [110.0, 60.0, 130.0]])
    return _noisy(colours[mask] * rng.uniform(0.95, 1.05), rng)


def _noisy(image: NDArray[np.floating], rng: np.random.Generator) -> NDArray[np.uint8]:
    return np.clip(image + rng.normal(0, 6, image.shape), 0, 255).astype(np.uint8)
