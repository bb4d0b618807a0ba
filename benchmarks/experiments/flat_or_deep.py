"""A network that reads each slice by itself beside one of volumes, on drawn volumes: no real ones are at hand.

In one data set a slice tells all that is asked, bright balls among noise. In the other rods run through all slices
beside the balls: in a slice both are discs, and only the neighbouring slices tell them apart.
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from benchmarks.tasks import FROZEN, Change, Job, Progress, perform

NETWORKS = {"slice by slice": "monai:unet", "the volume": "monai:unet3d"}
SHAPE = (16, 32, 32)
EPOCHS = 30
PATIENTS = (48, 24)
LIGHT = {"soft": (60.0, 150.0, 12.0), "hard": (80.0, 200.0, 24.0)}  # by site: of the ground, of what is seen, noise


def changes(scratch: Path, seed: int) -> list[Change]:
    """Two folders of volumes with masks, each of two sites, of which the second is in another light."""
    made = []
    for name, rods in (("balls", 0), ("balls_and_rods", 2)):
        _draw(scratch / name, rods, np.random.default_rng(seed))
        made.append(Change(name, scratch / name, "site=soft", "site=hard", size=SHAPE[1], epochs=EPOCHS,
                           slices=SHAPE[0]))  # fmt: skip
    return made


def ask(played: Sequence[Change], seed: int, scratch: Path, progress: Progress) -> list[dict[str, Any]]:
    """A row per data set and network: the Dice of a base fitted at the first site, over all voxels of a case and a mean
    over cases, on patients that it has not seen, there and at the other site, which nobody adapted it to."""
    rows = []
    for number, change in enumerate(played):
        for more, (reads, backbone) in enumerate(NETWORKS.items(), 1):
            one = replace(change, backbone=backbone)
            found = perform(Job(one, seed, FROZEN, scratch / f"{change.name}-{more}-{seed}"))
            row = {"data": f"{change.name}, drawn", "reads": reads, "network": backbone}
            row |= {"n": found["n_home"], "quality": round(found["home"], 4)}
            row |= {"n_new": found["n_new"], "new": round(found["new"], 4)}
            rows.append(row | {"cpu_seconds": round(found["cpu_seconds"], 1)})
            progress(f"{change.name}: {reads}", number * len(NETWORKS) + more, len(played) * len(NETWORKS))
    return rows


def _draw(folder: Path, rods: int, rng: np.random.Generator) -> None:
    """One case a patient, NPY [d, h, w]."""
    (folder / "images").mkdir(parents=True)
    (folder / "masks").mkdir()
    with (folder / "cases.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "case_id", "patient_id", "site", "mask"])
        for (site, (ground, light, noise)), n in zip(LIGHT.items(), PATIENTS, strict=True):
            for i in range(n):
                ball, seen = _shapes(rods, rng)
                volume = np.where(seen, light, ground) + rng.normal(0, noise, SHAPE)
                name = f"{site}{i:03}"
                np.save(folder / "images" / f"{name}.npy", volume.clip(0, 255).astype(np.uint8))
                np.save(folder / "masks" / f"{name}.npy", ball.astype(np.uint8))
                writer.writerow([f"images/{name}.npy", name, name, site, f"masks/{name}.npy"])


def _shapes(rods: int, rng: np.random.Generator) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """(the ball, all that is bright) of a volume; a rod is as wide as a ball somewhere is."""
    z, y, x = np.mgrid[: SHAPE[0], : SHAPE[1], : SHAPE[2]]
    middle, radius = rng.uniform(6, [SHAPE[0] - 6, SHAPE[1] - 6, SHAPE[2] - 6]), rng.uniform(4, 6)
    ball = (z - middle[0]) ** 2 + (y - middle[1]) ** 2 + (x - middle[2]) ** 2 < radius**2
    seen = ball.copy()
    for _ in range(rods):
        place, width = rng.uniform(5, SHAPE[1] - 5, 2), rng.uniform(2, 5)
        seen |= (y - place[0]) ** 2 + (x - place[1]) ** 2 < width**2
    return ball, seen
