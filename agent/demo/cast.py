"""Who plays: the data folders that the story feeds from, generated or cut out of one's own images."""

from __future__ import annotations

import csv
import random
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from agent.cases.datafolder import Row, read_folder
from agent.demo.scanners import A, B, Scanner, generate
from agent.errors import HomeostatError

START = datetime(2025, 1, 6, tzinfo=UTC)  # a Monday
LATER = ("later-1", "later-2", "later-3")
COLUMNS = ("file", "case_id", "patient_id", "site", "scanner", "sex", "age", "label")
FEWEST = 40  # patients on either side; with fewer no part of the story can be told


@dataclass(frozen=True, kw_only=True)
class Cast:
    """Data folders below `folder`, no patient in two of them, and how the two sides are called.

    home: the base model and its reference; quiet: more of the same; arrival: the change; later-1..3: what follows;
    test-home and test-new: patients whom nothing else sees. pixels: the side of all images, where they have one.
    """

    folder: Path
    home_name: str
    new_name: str
    described: str
    pixels: int | None = None

    def __getitem__(self, part: str) -> Path:
        return self.folder / part


@dataclass(frozen=True, kw_only=True)
class Size:
    """Numbers of generated patients, pixels on a side, and epochs of the base model (None: the product's default)."""

    home: int = 380
    quiet: int = 50
    arrival: int = 150
    later: int = 8
    test: int = 60
    pixels: int = 96
    epochs: int | None = 10


def generated(folder: Path, size: Size, seed: int) -> Cast:
    """Head scans of two invented scanners, one working day after the other."""
    last = START - timedelta(days=3)
    parts: list[tuple[str, Scanner, int]] = [
        ("home", A, size.home), ("quiet", A, size.quiet), ("arrival", B, size.arrival),
        *((name, B, size.later) for name in LATER), ("test-home", A, size.test), ("test-new", B, size.test),
    ]  # fmt: skip
    for number, (name, scanner, patients) in enumerate(parts):
        start = last + timedelta(days=1)
        generate(
            folder / name, scanner=scanner, patients=patients, seed=10 * seed + number, start=start, size=size.pixels
        )
        last = max(datetime.fromisoformat(row.acquired_at or "") for row in read_folder(folder / name).rows)
    total = sum(patients for _, _, patients in parts)
    return Cast(
        folder=folder,
        home_name=f"scanner {A.name}",
        new_name=f"scanner {B.name}",
        described=f"Generated head scans of {total} invented patients, in DICOM, from two scanners.",
        pixels=size.pixels,
    )


def cut_out(folder: Path, data: Path, home: str, new: str, seed: int) -> Cast:
    """One's own labelled images: those where `home` holds are what the model was made for, those of `new` come after.

    Patients go in the order of acquisition where that is known, else in a shuffled one. Raises HomeostatError where one
    side has too few labelled patients.
    """
    shares = {
        home: {"home": 0.7, "quiet": 0.12, "test-home": 0.18},
        new: {"arrival": 0.64, **dict.fromkeys(LATER, 0.04), "test-new": 0.24},
    }
    seen: set[str] = set()
    for where, parts in shares.items():
        rows = [row for row in read_folder(data, [where]).rows if row.label and row.patient_id not in seen]
        patients = _in_order(rows, seed)
        if len(patients) < FEWEST:
            raise HomeostatError(
                f"{data} has {len(patients)} labelled patients where {where}, and the story needs {FEWEST}: "
                "name a larger part with --home and --new"
            )
        seen.update(patients)
        begin = 0.0
        for name, share in parts.items():
            first, last = round(begin * len(patients)), round((begin + share) * len(patients))
            _copy(folder / name, rows, set(patients[first:last]))
            begin += share
    return Cast(
        folder=folder,
        home_name=home.partition("=")[2] or home,
        new_name=new.partition("=")[2] or new,
        described=f"Images of {len(seen)} patients from {data.name}.",
    )


def _in_order(rows: Sequence[Row], seed: int) -> list[str]:
    """The patients of these rows by their first acquisition; shuffled where no time is known."""
    first: dict[str, str] = {}
    for row in rows:
        first[row.patient_id] = min(first.get(row.patient_id, "~"), row.acquired_at or "~")
    patients = sorted(first)
    random.Random(seed).shuffle(patients)  # noqa: S311  an order, not a secret
    return sorted(patients, key=first.__getitem__)


def _copy(folder: Path, rows: Sequence[Row], patients: set[str]) -> None:
    (folder / "images").mkdir(parents=True)
    lines = []
    for number, row in enumerate(row for row in rows if row.patient_id in patients):
        name = f"images/{number:05d}{row.file.suffix}"
        shutil.copyfile(row.file, folder / name)
        sex, age = row.facts.get("sex", ""), row.facts.get("age", "")
        lines.append((name, row.case_id, row.patient_id, row.site, row.scanner, sex, age, row.label))
    with (folder / "cases.csv").open("w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows([COLUMNS, *lines])
