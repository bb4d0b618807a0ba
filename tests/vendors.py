"""Models that somebody else made: frozen modules with the declaration beside them, and images that they tell apart."""

from __future__ import annotations

import csv
import json
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import nn

CLASSES = ("low", "high")
SIDE = 24
MEAN, STD = 0.5, 0.25
APART, SPREAD = 40, 7  # between the halves of an image, in grey values: of the classes, and of images of one class
TILT = 47  # what another scanner adds to the lower half


class Halves(nn.Module):
    """[b, 1, 24, 24] -> logits of `low` and `high`: which half is brighter. It needs no training."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(nn.AvgPool2d(SIDE // 2), nn.Flatten())
        self.last = nn.Linear(4, 2)
        with torch.no_grad():
            high = 4.75 / 4 * torch.tensor([1.0, 1.0, -1.0, -1.0])
            self.last.weight.copy_(2 * torch.stack([-high, high]))
            self.last.bias.zero_()

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.last(self.features(images))


def scripted(network: nn.Module, file: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.script(network.eval()).save(str(file))
    return file


def traced(network: nn.Module, file: Path, images: torch.Tensor) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.trace(network.eval(), images).save(str(file))
    return file


def exported(network: nn.Module, file: Path, images: torch.Tensor, *, any_number: bool = False) -> Path:
    shapes = ({0: torch.export.Dim("batch")},) if any_number else None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.export.save(torch.export.export(network.eval(), (images,), dynamic_shapes=shapes), file)
    return file


def declare(file: Path, **said: Any) -> Path:
    """Writes config.json beside a module, that of `Halves` but for what is `said`; answers with the folder."""
    channels = said.get("channels", 1)
    preprocessing = {"size": SIDE, "mean": [MEAN] * channels, "std": [STD] * channels, "scale": "uint8"}
    record = {"library": "black_box", "module": file.name, "task": "classification", "classes": list(CLASSES)}
    record |= {"output": "logits", "channels": channels, "preprocessing": preprocessing}
    (file.parent / "config.json").write_text(json.dumps({k: v for k, v in (record | said).items() if v is not None}))
    return file.parent


def write(folder: Path, site: str, patients: int, seed: int, *, tilt: int = 0) -> Path:
    """A data folder of `patients` grey images, one each."""
    rng = np.random.default_rng([seed, tilt])
    folder.mkdir(parents=True)
    with (folder / "cases.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["file", "case_id", "patient_id", "site", "label"])
        for i in range(patients):
            label = int(rng.integers(2))
            image = rng.normal(120, 10, (SIDE, SIDE)) + rng.normal(0, 10)
            upper = (APART if label else -APART) + rng.normal(0, SPREAD) - tilt
            image[: SIDE // 2] += upper / 2
            image[SIDE // 2 :] -= upper / 2
            name = f"{site}_{seed}_{i:04}.png"
            Image.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(folder / name)
            writer.writerow([name, f"{site}-{seed}-{i:04}", f"{site}-{seed}-patient-{i:04}", site, CLASSES[label]])
    return folder
