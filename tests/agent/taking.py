"""Small data folders and workspaces for the tests of the intake."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np
from PIL import Image
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, generate_uid

from agent.cases.split import Split
from agent.workspace import Workspace, put_setting

CLASSES = ["benign", "malignant"]


def make_workspace(root: Path, split: Split | None = None) -> Workspace:
    workspace = Workspace.create(root)
    workspace.base.mkdir()
    (split or Split.draw([], 0)).write(workspace.base)
    with workspace.store.transaction() as connection:
        put_setting(connection, "classes", CLASSES)
    return workspace


def write_png(path: Path, seed: int, size: int = 16) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size, size), dtype=np.uint8)).save(path, "PNG")
    return path


def write_list(root: Path, rows: Iterable[Mapping[str, object]]) -> Path:
    rows = list(rows)
    root.mkdir(parents=True, exist_ok=True)
    with (root / "cases.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return root


def write_folder(root: Path, n: int, *, first_seed: int = 0, label: str = "benign") -> Path:
    """n cases of n patients, each with an image of its own."""
    for i in range(n):
        write_png(root / "images" / f"{i}.png", first_seed + i)
    return write_list(
        root,
        [{"file": f"images/{i}.png", "case_id": f"case-{i}", "patient_id": f"p{i}", "label": label} for i in range(n)],
    )


def write_dicom(path: Path, pixels: np.ndarray, syntax: str = ExplicitVRLittleEndian, **tags: object) -> Path:
    """A DICOM file of integer pixels [h, w], [frames, h, w] with NumberOfFrames, or [h, w, 3]."""
    meta = FileMetaDataset()
    meta.TransferSyntaxUID = syntax
    meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    meta.MediaStorageSOPInstanceUID = generate_uid()
    data = FileDataset(str(path), {}, file_meta=meta, preamble=b"\0" * 128)
    data.SOPClassUID = meta.MediaStorageSOPClassUID
    data.SOPInstanceUID = meta.MediaStorageSOPInstanceUID
    colour = pixels.ndim == 3 and pixels.shape[2] == 3
    data.Rows, data.Columns = pixels.shape[:2] if colour or pixels.ndim == 2 else pixels.shape[1:]
    data.SamplesPerPixel = 3 if colour else 1
    data.PhotometricInterpretation = "RGB" if colour else "MONOCHROME2"
    if colour:
        data.PlanarConfiguration = 0
    data.BitsAllocated = data.BitsStored = 8 * pixels.dtype.itemsize
    data.HighBit = data.BitsStored - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.PixelData = pixels.tobytes()
    for name, value in tags.items():
        setattr(data, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def rows(workspace: Workspace, query: str) -> list[dict[str, object]]:
    with workspace.store.read() as connection:
        return [dict(row) for row in connection.execute(query)]
