"""Generated blood smears of two laboratories: a small stand-in for `wbc`, of the same form."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image
from scipy.ndimage import gaussian_filter

CLASSES = ("lymphocyte", "monocyte", "neutrophil")
HOME, NEW = "harbour", "hillside"


def cell(kind: str, rng: np.random.Generator, size: int = 48) -> np.ndarray:
    """[size, size, 3] in 0..1: a round nucleus, a kidney, or three lobes, on cytoplasm."""
    y, x = np.mgrid[:size, :size] / size - 0.5 + rng.normal(0, 0.03, 2)[:, None, None]
    angle = rng.uniform(0, 2 * np.pi)
    radius = rng.uniform(0.19, 0.23)
    body = np.hypot(x, y) < 0.4

    def disc(distance: float, turn: float, r: float) -> np.ndarray:
        return np.hypot(x - distance * np.cos(angle + turn), y - distance * np.sin(angle + turn)) < r

    nucleus = {
        "lymphocyte": disc(0, 0, radius * 1.2),
        "monocyte": disc(0, 0, radius * 1.2) & ~disc(0.2, 0, radius * 0.9),
        "neutrophil": disc(0.2, 0, 0.11) | disc(0.2, 2.1, 0.11) | disc(0.2, 4.2, 0.11),
    }[kind]
    image = np.full((size, size, 3), (0.93, 0.88, 0.86))
    image[body] = (0.8, 0.75, 0.85)
    image[nucleus] = (0.45, 0.25, 0.6)
    return gaussian_filter(image, (0.7, 0.7, 0)) + rng.normal(0, 0.02, image.shape)


def stained(image: np.ndarray, site: str, rng: np.random.Generator) -> np.ndarray:
    """The new laboratory stains pink on blue, images out of focus, and its camera is darker."""
    if site == NEW:
        image = gaussian_filter(image[..., ::-1], (1.3, 1.3, 0)) ** 1.8 * 0.8 + rng.normal(0, 0.03, image.shape)
    return (np.clip(image, 0, 1) * 255).astype(np.uint8)


def write(folder: Path, site: str, patients: int, seed: int, *, labels: bool = True, times: bool = False) -> Path:
    """A data folder of `patients` cases, one image each."""
    rng = np.random.default_rng([seed, len(site)])
    (folder / "images").mkdir(parents=True, exist_ok=True)
    with (folder / "cases.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "case_id", "patient_id", "site", "label", *(["acquired_at"] if times else [])])
        for i in range(patients):
            kind = CLASSES[rng.integers(len(CLASSES))]
            name = f"images/{site}_{seed}_{i:04}.png"
            Image.fromarray(stained(cell(kind, rng), site, rng)).save(folder / name)
            row = [name, f"{site}-{seed}-{i:04}", f"{site}-patient-{seed}-{i:04}", site, kind if labels else ""]
            writer.writerow(row + ([f"2025-03-{1 + i // 8:02}T10:{i % 60:02}:00Z"] if times else []))
    return folder
