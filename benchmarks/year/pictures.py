"""The year's images: real ones of three sites under each condition, or generated ones; who teaches, who is held."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy.ndimage import gaussian_filter

from agent.cases.datafolder import Row, read_folder
from agent.cases.images import read_image
from agent.errors import HomeostatError
from benchmarks.year.schedule import FAR_OUT, HARMLESS, HOME, LEVELS, SCANNER, THIRD, creep

SIDE = 96  # pixels a side of the images: all pass through it, so that no one differs by it
HELD = {HOME: 120, SCANNER: 60, THIRD: 60}  # patients that only the benchmark itself looks at
FITTED = 480  # home patients that the base is fitted and deployed with

Pixels = NDArray[np.float32]


@dataclass(frozen=True)
class Sites:
    """Rows by place, with one image per patient; far-out: images of another kind altogether."""

    classes: tuple[str, ...]
    rows: Mapping[str, Mapping[str, Row]]  # place -> patient -> row
    far_out: Mapping[str, Row]

    def by_class(self, place: str, patients: Sequence[str]) -> dict[str, list[str]]:
        found: dict[str, list[str]] = {}
        for patient in patients:
            found.setdefault(self.rows[place][patient].label or "", []).append(patient)
        return found


@dataclass(frozen=True)
class Cast:
    """Who plays which part: fitted (home), seen in the year (per place), held back for the truth (per place)."""

    fitted: Sequence[str]
    year: Mapping[str, Sequence[str]]
    held: Mapping[str, Sequence[str]]


def real_sites(folder: Path, far: Path | None) -> Sites:
    """The three largest sites of a data folder. Raises HomeostatError where it has fewer, or no site column."""
    rows = [row for row in read_folder(folder).rows if row.label and row.site]
    count = {site: sum(row.site == site for row in rows) for site in {row.site for row in rows}}
    largest = sorted(count, key=lambda site: (-count[site], site or ""))[:3]
    if len(largest) < 3:
        raise HomeostatError(f"{folder} has labelled cases of {len(largest)} sites; a year is played over three")
    places = dict(zip((HOME, SCANNER, THIRD), (largest[0], largest[2], largest[1]), strict=True))
    by_place = {place: {row.patient_id: row for row in rows if row.site == site} for place, site in places.items()}
    others = {} if far is None or not far.is_dir() else {row.patient_id: row for row in read_folder(far).rows}
    classes = tuple(sorted({row.label for row in by_place[HOME].values() if row.label}))
    known = {
        place: {name: row for name, row in some.items() if row.label in classes} for place, some in by_place.items()
    }
    return Sites(classes, known, others)


def generated_sites(scratch: Path, seed: int, patients: int) -> Sites:
    """Heads of two scanners, and of the first one with much noise."""
    from agent.demo.scanners import KINDS, A, B, generate

    machines = {
        HOME: (A, patients),
        SCANNER: (B, patients // 2),
        THIRD: (replace(A, name="C", blur=1.6), patients // 2),
    }
    start = datetime(2026, 1, 5, tzinfo=UTC)
    by_place = {}
    for place, (scanner, n) in machines.items():
        folder = generate(scratch / place, scanner=scanner, patients=n, seed=seed, start=start, size=64)
        by_place[place] = {row.patient_id: row for row in reversed(read_folder(folder).rows)}
    return Sites(tuple(sorted(KINDS)), by_place, {})


def cast(sites: Sites, seed: int, fitted: int = FITTED, held: Mapping[str, int] = HELD) -> Cast:
    """Gives every patient one part, at random within the classes; a small place holds back two fifths at most."""
    rng = random.Random(seed)
    kept, year, base = {}, {}, []
    for place in (HOME, SCANNER, THIRD):
        queue = _interleaved(sites.by_class(place, sorted(sites.rows[place])), rng)
        n = min(held[place], len(queue) * 2 // 5)
        kept[place], queue = queue[:n], queue[n:]
        if place == HOME:
            n = min(fitted, len(queue) * 7 // 10)
            base, queue = queue[:n], queue[n:]
        year[place] = queue
    return Cast(base, year, kept)


def _interleaved(groups: Mapping[str, Sequence[str]], rng: random.Random) -> list[str]:
    """All patients in an order in which every stretch has the classes in proportion."""
    placed = []
    for name in sorted(groups):
        some = list(groups[name])
        rng.shuffle(some)
        placed += [((i + rng.random()) / len(some), patient) for i, patient in enumerate(some)]
    return [patient for _, patient in sorted(placed)]


class Pictures:
    """Writes images under `folder` when they are asked for; the same image has the same name."""

    def __init__(self, sites: Sites, folder: Path) -> None:
        self.sites, self.folder = sites, folder
        folder.mkdir(parents=True, exist_ok=True)
        self._read: dict[str, Pixels] = {}

    def file(self, condition: str, patient: str, view: int) -> Path:
        """PNG of SIDE pixels; `view` 0 is the image itself, the others are mirrored or framed closer."""
        name = hashlib.sha256(f"{condition}\0{patient}\0{view}".encode()).hexdigest()[:24]
        path = self.folder / f"{name}.png"
        if not path.exists():
            image = LOOKS.get(condition, _as_it_is)(self._original(condition, patient))
            Image.fromarray(_viewed(image, view).round().clip(0, 255).astype(np.uint8)).save(path, compress_level=1)
        return path

    def _original(self, condition: str, patient: str) -> Pixels:
        if patient not in self._read:
            if condition == FAR_OUT and not self.sites.far_out:
                self._read[patient] = _noise(patient)
            else:
                rows = self.sites.far_out if condition == FAR_OUT else self.sites.rows[place_of(condition)]
                self._read[patient] = _small(read_image(rows[patient].file))
        return self._read[patient]


def place_of(condition: str) -> str:
    """The site that a condition's images come from."""
    return condition if condition in (SCANNER, THIRD) else HOME


def _small(image: Pixels) -> Pixels:
    """[h, w] or [h, w, 3] -> float32 [SIDE, SIDE, 3], 0..255."""
    colour = image if image.ndim == 3 else np.repeat(image[..., None], 3, axis=2)
    if colour.max() > 255:
        colour = colour * (255 / colour.max())
    resized = Image.fromarray(colour.clip(0, 255).astype(np.uint8)).resize((SIDE, SIDE), Image.Resampling.LANCZOS)
    return np.asarray(resized, np.float32)


def _viewed(image: Pixels, view: int) -> Pixels:
    if view >= 2:
        edge = SIDE // 24
        inner = Image.fromarray(image.clip(0, 255).astype(np.uint8)[edge:-edge, edge:-edge])
        image = np.asarray(inner.resize((SIDE, SIDE), Image.Resampling.BICUBIC), np.float32)
    return image[:, ::-1] if view % 2 else image


def _as_it_is(image: Pixels) -> Pixels:
    return image


def _other_export(image: Pixels) -> Pixels:
    """A new release of the scanner's software: a little more contrast, and darker."""
    return (image - 128) * 1.1 + 118


def _faded(strength: float) -> Callable[[Pixels], Pixels]:
    """A stain (or a tube) that ages: colours fade, each at its own pace, and the focus goes."""

    def fade(image: Pixels) -> Pixels:
        kept = 1 - strength * np.array([0.45, 0.7, 0.3], np.float32)
        return gaussian_filter(255 - (255 - image) * kept, (1.6 * strength, 1.6 * strength, 0))

    return fade


LOOKS: Mapping[str, Callable[[Pixels], Pixels]] = {
    HARMLESS: _other_export,
    **{creep(level): _faded(level / LEVELS) for level in range(1, LEVELS + 1)},
}


def _noise(patient: str) -> Pixels:
    """Smooth noise, for a year without images of another kind."""
    draw = np.random.default_rng(int(hashlib.sha256(patient.encode()).hexdigest()[:8], 16))
    coarse = gaussian_filter(draw.normal(size=(SIDE, SIDE)), 6)
    return np.repeat((128 + 900 * coarse)[..., None], 3, axis=2).clip(0, 255).astype(np.float32)
