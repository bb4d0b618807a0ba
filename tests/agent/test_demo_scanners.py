"""The generated scans: valid DICOM, a data folder of the contract, and a shift that can be seen."""

from __future__ import annotations

import csv
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pydicom
import pytest

from agent.cases.datafolder import read_folder
from agent.cases.images import read_image
from agent.demo.scanners import KINDS, A, B, generate

START = datetime(2026, 1, 5, tzinfo=UTC)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return generate(tmp_path_factory.mktemp("home"), scanner=A, patients=24, seed=1, start=START, size=48)


def test_every_row_reads_as_a_case_with_its_scanner_time_and_patient(home: Path) -> None:
    """The product's own reader accepts every case and finds site, scanner and time in the tags."""
    folder = read_folder(home, [])
    assert folder.refused == [] and len(folder.rows) > 24
    assert {row.site for row in folder.rows} == {A.institution}
    assert all(A.model in str(row.scanner) for row in folder.rows)
    assert {row.label for row in folder.rows} == set(KINDS)
    assert len({row.patient_id for row in folder.rows}) == 24


def test_files_are_dicom_that_others_read(home: Path) -> None:
    """Each file has the header and the tags that a viewer needs, and pixels within 12 bits."""
    for path in (home / "images").iterdir():
        image = pydicom.dcmread(path)
        assert image.Modality == "MR" and image.file_meta.MediaStorageSOPClassUID == image.SOPClassUID
        assert image.pixel_array.shape == (48, 48) and image.pixel_array.max() <= 4095


def test_patients_come_on_working_days_in_order(home: Path) -> None:
    """Nobody is scanned at a weekend, and later patients come later."""
    with (home / "cases.csv").open() as file:
        paths = [home / row["file"] for row in csv.DictReader(file)]
    times = [datetime.strptime(f"{d.StudyDate}{d.StudyTime}", "%Y%m%d%H%M%S") for d in map(pydicom.dcmread, paths)]
    assert times == sorted(times) and all(at.weekday() < 5 for at in times)


def test_the_same_arguments_give_the_same_bytes_and_another_seed_other_patients(tmp_path: Path) -> None:
    """A demonstration can be repeated exactly, and two folders never share a patient by accident."""
    one, same, other = (
        generate(tmp_path / name, scanner=B, patients=3, seed=seed, start=START, size=32)
        for name, seed in (("one", 1), ("same", 1), ("other", 2))
    )
    for path in sorted(one.rglob("*")):
        if path.is_file():
            assert path.read_bytes() == (same / path.relative_to(one)).read_bytes()
    assert not {p.name for p in (one / "images").iterdir()} & {p.name for p in (other / "images").iterdir()}


def test_the_scanners_show_one_anatomy_differently(home: Path, tmp_path: Path) -> None:
    """The second scanner is brighter in the dark tissue and noisier in the air, which is what the model stumbles on."""
    new = generate(tmp_path / "new", scanner=B, patients=8, seed=1, start=START, size=48)

    def summary(folder: Path) -> tuple[float, float]:
        images = [read_image(path, "application/dicom") for path in (folder / "images").iterdir()]
        tissue = np.median([image[20:28, 20:28].mean() for image in images])
        return float(tissue), float(np.median([image[:4, :4].std() for image in images]))

    (tissue_a, air_a), (tissue_b, air_b) = summary(home), summary(new)
    assert tissue_b > tissue_a and air_b > air_a
