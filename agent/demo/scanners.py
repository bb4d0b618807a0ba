"""Generated head scans of invented patients, seen through two scanners and written as DICOM data folders.

Every image is an anatomy (head, skull, cortex, ventricles, tissue texture) with one lesion of three kinds, then an
acquisition: contrast, blur, bias field and Rician noise of one scanner. The kinds are told apart by the lesion's
inside and rim, so what blurs and flattens them is a shift that hurts. Nothing here shows or stems from a person.
"""

from __future__ import annotations

import csv
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import ExplicitVRLittleEndian, MRImageStorage, generate_uid
from scipy.ndimage import gaussian_filter

KINDS = ("cyst", "ring", "solid")
AIR = 0.08  # signal of air and bone at most, dark in every protocol
WHITE_LEVEL = 3000.0  # stored value of the brightest tissue, of the 4095 that 12 bits hold

Image = NDArray[np.float64]


@dataclass(frozen=True, kw_only=True)
class Scanner:
    """How one machine shows what lies before it.

    blur is a standard deviation in pixels, gamma the exponent of the contrast curve, bias the relative amplitude of the
    smooth receive field, noise the deviation of each of the two receive channels; intensities are in units of the
    brightest tissue. `t2` says that the protocol is T2-weighted: what is dark in a T1-weighted image is bright, fluid
    above all.
    """

    name: str
    manufacturer: str
    model: str
    institution: str
    blur: float
    gamma: float
    bias: float
    noise: float
    t2: bool = False

    def acquire(self, anatomy: Image, rng: np.random.Generator) -> Image:
        """[h, w] in 0..1 -> [h, w] >= 0, magnitude of a noisy signal (Gudbjartsson and Patz 1995)."""
        signal = anatomy**self.gamma
        if self.t2:
            signal = np.where(anatomy > AIR, 0.95 - 0.9 * signal, 0.0)
        seen = gaussian_filter(signal, self.blur)
        seen = seen * np.exp(self.bias * _smooth_noise(anatomy.shape[0], anatomy.shape[0] / 3, rng))
        real, imaginary = rng.normal(0, self.noise, (2, *anatomy.shape))
        return np.hypot(seen + real, imaginary)


A = Scanner(
    name="A", manufacturer="Northwind Imaging", model="NW 30", institution="Harbour Hospital",
    blur=0.4, gamma=1.0, bias=0.06, noise=0.02,
)  # fmt: skip
B = Scanner(
    name="B", manufacturer="Meridian Medical", model="Vela 15", institution="Hillside Clinic",
    blur=0.7, gamma=1.0, bias=0.1, noise=0.025, t2=True,
)  # fmt: skip


def generate(
    folder: Path,
    *,
    scanner: Scanner,
    patients: int,
    seed: int,
    start: datetime,
    size: int = 96,
    per_day: int = 10,
) -> Path:
    """Writes a data folder of the contract: `images/*.dcm` and `cases.csv`; returns `folder`.

    Two patients in three have one image, the others two or three of one study; all images of a patient show the same
    head and kind of lesion. About `per_day` patients come on a working day from `start` (UTC) on, none at weekends. The
    same arguments give the same bytes; ids hold scanner and seed, so folders of different ones never share a patient.
    """
    rng = np.random.default_rng([seed, *scanner.name.encode()])
    (folder / "images").mkdir(parents=True, exist_ok=True)
    rows: list[tuple[str, str, str, str]] = []
    times = _working_times(patients, per_day, start, rng)
    for number, at in enumerate(times):
        patient = f"{scanner.name}{seed:03d}-{number:04d}"
        kind = KINDS[int(rng.integers(len(KINDS)))]
        head = Head.draw(rng)
        study = _patient_and_study(patient, scanner, at, rng)
        for slice_number in range(1 + int(rng.choice(3, p=(0.67, 0.24, 0.09)))):
            case = f"{patient}-{slice_number}"
            pixels = scanner.acquire(head.slice(kind, size, rng), rng)
            _write(folder / "images" / f"{case}.dcm", study, case, slice_number, pixels)
            rows.append((f"images/{case}.dcm", case, patient, kind))
    with (folder / "cases.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([("file", "case_id", "patient_id", "label"), *rows])
    return folder


@dataclass(frozen=True, kw_only=True)
class Head:
    """One invented head; lengths are in halves of the image's side, angles in radians."""

    width: float
    height: float
    tilt: float
    cortex: float
    ventricle: float
    white: float
    lesion_angle: float
    lesion_distance: float
    lesion_radius: float

    @classmethod
    def draw(cls, rng: np.random.Generator) -> Head:
        side = rng.choice((0.0, np.pi))
        return cls(
            width=rng.uniform(0.68, 0.76),
            height=rng.uniform(0.84, 0.92),
            tilt=rng.normal(0, 0.08),
            cortex=rng.uniform(0.13, 0.18),
            ventricle=rng.uniform(0.75, 1.25),
            white=rng.uniform(0.56, 0.64),
            lesion_angle=side + rng.uniform(-1.0, 1.0),
            lesion_distance=rng.uniform(0.42, 0.56),
            lesion_radius=rng.uniform(0.21, 0.3),
        )

    def slice(self, kind: str, size: int, rng: np.random.Generator) -> Image:
        """One slice through head and lesion, [size, size] in 0..1; the slices of a head differ in level and texture."""
        y, x = np.mgrid[-1 : 1 : size * 1j, -1 : 1 : size * 1j]
        tilt = self.tilt + rng.normal(0, 0.02)
        x, y = x * np.cos(tilt) + y * np.sin(tilt), y * np.cos(tilt) - x * np.sin(tilt)
        radius = np.hypot(x / self.width, y / self.height)
        image = self._tissue(x, y, radius, size, rng)
        image = self._lesion(image, kind, x, y, size, rng)
        skull, scalp = _band(radius, 0.91, 0.97, size), _band(radius, 0.97, 1.06, size)
        return np.clip(image * (1 - skull - scalp) * (radius < 1.06) + 0.05 * skull + 0.8 * scalp, 0, 1)

    def _tissue(self, x: Image, y: Image, radius: Image, size: int, rng: np.random.Generator) -> Image:
        """White matter, a folded grey cortex, two ventricles, the midline; 0 outside the brain."""
        folds = 0.06 * _smooth_noise(size, size / 22, rng) + 0.03 * np.sin(14 * np.arctan2(y, x) + rng.uniform(0, 6))
        grey = _step(radius + folds - (0.91 - self.cortex), 0.03)
        image = self.white * (1 - grey) + 0.72 * self.white * grey
        bend = np.abs(x) - 0.09 - 0.35 * y**2
        ventricles = _step(1 - np.hypot(bend / 0.07, y / 0.34) / self.ventricle, 0.15)
        midline = np.exp(-((x / 0.012) ** 2)) * _step(np.abs(y) - 0.42, 0.05)
        image = image * (1 - ventricles) + 0.12 * ventricles
        image = image * (1 - 0.45 * midline) + 0.03 * _smooth_noise(size, size / 48, rng)
        return image * _step(0.92 - radius, 0.02)

    def _lesion(self, image: Image, kind: str, x: Image, y: Image, size: int, rng: np.random.Generator) -> Image:
        """A cyst is dark throughout, a ring dark within a bright rim, a solid lesion bright; each may have oedema."""
        x = x - self.lesion_distance * self.width * np.cos(self.lesion_angle)
        y = y - self.lesion_distance * self.height * np.sin(self.lesion_angle)
        angle = np.arctan2(y, x)
        edge = np.full_like(x, self.lesion_radius * rng.uniform(0.85, 1.1))
        for lobe in (2, 3, 5):
            edge = edge * (1 + rng.normal(0, 0.1 / lobe) * np.cos(lobe * angle + rng.uniform(0, 6)))
        inside = np.hypot(x, y) / edge
        oedema = rng.uniform(0.0, 0.3) * _step(1.6 - inside, 0.3)
        core = _step(1 - inside, 0.08)
        texture = 0.05 * _smooth_noise(size, size / 40, rng)
        level = {"cyst": rng.uniform(0.14, 0.3), "ring": rng.uniform(0.3, 0.5), "solid": rng.uniform(0.74, 0.95)}[kind]
        image = image * (1 - oedema)
        image = image * (1 - core) + (level + texture) * core
        if kind == "ring":
            rim = np.exp(-(((inside - 0.9) / rng.uniform(0.14, 0.22)) ** 2))
            image = image * (1 - rim) + rng.uniform(0.74, 0.95) * rim
        return image


def _smooth_noise(size: int, length: float, rng: np.random.Generator) -> Image:
    """A periodic Gaussian field of unit variance, correlated over about `length` pixels."""
    waves = np.hypot(np.fft.fftfreq(size)[:, None], np.fft.rfftfreq(size))
    blur = np.exp(-((np.pi * length * waves) ** 2) / 2)  # a Gaussian of deviation length / 2, in frequencies
    field = np.fft.irfft2(np.fft.rfft2(rng.normal(0, 1, (size, size))) * blur, s=(size, size))
    return (field - field.mean()) / field.std()


def _step(x: Image, width: float) -> Image:
    """A smooth 0 to 1 step at x = 0."""
    return 1 / (1 + np.exp(-np.clip(4 * x / width, -40, 40)))


def _band(radius: Image, inner: float, outer: float, size: int) -> Image:
    return _step(radius - inner, 2.5 / size) * _step(outer - radius, 2.5 / size)


def _working_times(patients: int, per_day: int, start: datetime, rng: np.random.Generator) -> list[datetime]:
    """Times of acquisition in order: Monday to Friday, 8 to 17 o'clock, about as many on each day."""
    days = max(1, round(patients / per_day))
    ends = np.rint(np.linspace(0, patients, days + 1)).astype(int)
    ends[1:-1] += rng.integers(-1, 2, days - 1)  # one patient more or less, and never a nearly empty last day
    ends = np.maximum.accumulate(ends)
    times: list[datetime] = []
    day = start.replace(hour=0, minute=0, second=0, microsecond=0)
    for count in np.diff(ends):
        while day.weekday() > 4:
            day += timedelta(days=1)
        seconds = np.sort(rng.choice(9 * 3600, size=int(count), replace=False))
        times += [day + timedelta(hours=8, seconds=int(s)) for s in seconds]
        day += timedelta(days=1)
    return times


def _patient_and_study(patient: str, scanner: Scanner, at: datetime, rng: np.random.Generator) -> Dataset:
    """The tags that all images of one study share."""
    tags = Dataset()
    tags.SOPClassUID = MRImageStorage
    tags.Modality = "MR"
    tags.Manufacturer = scanner.manufacturer
    tags.ManufacturerModelName = scanner.model
    tags.StationName = f"MR-{scanner.name}"
    tags.InstitutionName = scanner.institution
    tags.PatientID = patient
    tags.PatientName = "Generated^Patient"
    tags.PatientSex = "FM"[int(rng.integers(2))]
    tags.PatientAge = f"{int(np.clip(rng.normal(58, 14), 18, 95)):03d}Y"
    tags.StudyInstanceUID = generate_uid(entropy_srcs=[patient, "study"])
    tags.SeriesInstanceUID = generate_uid(entropy_srcs=[patient, "series"])
    tags.StudyID, tags.SeriesNumber, tags.AccessionNumber = "1", 1, ""
    tags.StudyDate = tags.SeriesDate = tags.AcquisitionDate = at.strftime("%Y%m%d")
    tags.StudyTime = tags.SeriesTime = tags.AcquisitionTime = at.strftime("%H%M%S")
    tags.TimezoneOffsetFromUTC = "+0000"
    tags.BodyPartExamined = "HEAD"
    tags.ScanningSequence, tags.SequenceVariant, tags.ScanOptions = "SE", "NONE", ""
    tags.MRAcquisitionType, tags.ImageType = "2D", ["DERIVED", "SECONDARY", "SYNTHETIC"]
    return tags


def _write(path: Path, study: Dataset, case: str, number: int, pixels: Image) -> None:
    """One MR image file: 12 bits in 16, windowed to the tissue."""
    image = Dataset()
    image.update(study)
    image.SOPInstanceUID = generate_uid(entropy_srcs=[case, "image"])
    image.InstanceNumber = number + 1
    image.Rows, image.Columns = pixels.shape
    image.SamplesPerPixel, image.PhotometricInterpretation = 1, "MONOCHROME2"
    image.BitsAllocated, image.BitsStored, image.HighBit, image.PixelRepresentation = 16, 12, 11, 0
    image.PixelSpacing, image.SliceThickness = [round(230 / pixels.shape[0], 4)] * 2, "5"
    image.ImagePositionPatient, image.ImageOrientationPatient = [-115, -115, 5 * number], [1, 0, 0, 0, 1, 0]
    image.WindowCenter, image.WindowWidth = WHITE_LEVEL / 2, WHITE_LEVEL
    image.PixelData = np.clip(np.rint(pixels * WHITE_LEVEL), 0, 4095).astype("<u2").tobytes()
    image.file_meta = FileMetaDataset()
    image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    image.save_as(path, enforce_file_format=True)
