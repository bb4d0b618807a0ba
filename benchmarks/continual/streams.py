"""Streams of three sites that come one after the other, and the parts that each site's patients fall into."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

import numpy as np

from agent.cases.datafolder import read_folder, sharing_bytes
from agent.cases.examples import FolderExamples
from agent.cases.split import Split

LABELLED = 120  # training patients of each new site, at most: labels are few
HELD = 3  # held cases without which a class isn't measured at a site: one case would be half of its recall
WEIGHTS = "mobilenetv3_small_kermany_cxr.npz"
WEB = ("site=radiopaedia_web", "site=journals_web", "site=eurorad_web", "site=sirm_it")


@dataclass(frozen=True)
class Site:
    """The part of a data folder that is one hospital, under a short name."""

    name: str
    folder: Path
    where: tuple[str, ...] = ()


@dataclass(frozen=True)
class Stream:
    """The first site's model is fitted from `backbone` on images of `size` pixels a side; the others come in turn."""

    name: str
    sites: tuple[Site, ...]
    backbone: str
    classes: tuple[str, ...]
    size: int
    epochs: int = 15  # of the fit at the first site


@dataclass(frozen=True)
class Parts:
    """The labelled cases of one site: to train on, to develop on, and of held patients to judge on."""

    train: FolderExamples
    develop: FolderExamples
    judge: FolderExamples


def real(data: Path) -> list[Stream]:
    """White cells of three laboratories; chest films of children, of adults, and of the web, which shows findings."""
    weights = f"mobilenet_v3_small:{data / 'models' / WEIGHTS}"
    return [
        Stream(
            name="wbc",
            sites=(
                Site("Barcelona", data / "wbc", ("site=pbc_barcelona",)),
                Site("Jiangxi", data / "wbc", ("site=jiangxi_tecom",)),
                Site("BCCD", data / "wbc", ("site=bccd",)),
            ),
            backbone=weights,
            classes=("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil"),
            size=64,
        ),
        Stream(
            name="cxr",
            sites=(
                Site("Guangzhou", data / "cxr", ("site=kermany_guangzhou",)),
                Site("Bethesda", data / "cxr", ("site=nih_bethesda",)),
                Site("web", data / "cxr", WEB),
            ),
            backbone=weights,
            classes=("normal", "pneumonia"),
            size=64,
        ),
    ]


def generated(scratch: Path, seed: int, patients: int = 120, size: int = 64, epochs: int = 15) -> Stream:
    """Heads of three invented scanners; the third is the second in a noisier, softer room."""
    from agent.demo.scanners import KINDS, A, B, generate

    third = replace(B, name="C", blur=1.2, gamma=1.6, noise=0.04, t2=False)
    start = datetime(2026, 1, 5, tzinfo=UTC)
    sites = tuple(
        Site(
            scanner.name,
            generate(
                scratch / scanner.name,
                scanner=scanner,
                patients=patients if number else 2 * patients,
                seed=seed,
                start=start,
                size=size,
            ),
        )
        for number, scanner in enumerate((A, B, third))
    )
    return Stream("generated", sites, "mobilenet_v3_small", tuple(sorted(KINDS)), size, epochs)


def divide(stream: Stream, seed: int) -> list[Parts]:
    """One entry per site. The split is drawn at the first site as `fit` does; later patients fall where they hash.

    The domain of a case is its site's name. Classes with fewer than HELD held cases at a site are not judged there.
    Raises ValueError where a part of a site is empty.
    """
    rows = [[row for row in read_folder(s.folder, s.where).rows if row.label in stream.classes] for s in stream.sites]
    split = Split.draw((row.patient_id for row in rows[0]), seed, together=sharing_bytes(rows[0]))
    return [
        _parts(site, some, split, stream.classes, order(seed) if number else None)
        for number, (site, some) in enumerate(zip(stream.sites, rows, strict=True))
    ]


def _parts(
    site: Site, rows: Sequence, split: Split, classes: Sequence[str], rank: Callable[[str], str] | None
) -> Parts:
    of = {part: [r for r in rows if split.assign(r.patient_id) == part] for part in ("train", "develop", "judge")}
    if rank is not None:
        labelled = set(sorted({row.patient_id for row in of["train"]}, key=rank)[:LABELLED])
        of["train"] = [row for row in of["train"] if row.patient_id in labelled]
    counts = Counter(row.label for row in of["judge"])
    of["judge"] = [row for row in of["judge"] if counts[row.label] >= HELD]
    empty = [part for part, some in of.items() if not some]
    if empty:
        raise ValueError(f"the site {site.name} has too few patients: none are left for {', '.join(empty)}")
    examples = {part: FolderExamples(some, classes) for part, some in of.items()}
    for one in examples.values():
        one.domain = np.full(len(one), site.name)
        one.patient = np.array([row.patient_id for row in one.rows], dtype=np.str_)
    return Parts(**examples)


def order(seed: int) -> Callable[[str], str]:
    """A random order of patients that depends on nothing but the seed and their ids."""
    return lambda patient: sha256(f"{seed} {patient}".encode()).hexdigest()
