"""What a mechanism is told of its cases: several examples as one, and what a version sees and says of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from strategies.augmentation import mirror
from strategies.base import Chosen
from strategies.inputs import Images
from strategies.predictor import Predictor
from strategies.preprocessing import Pixels, normalise
from strategies.protocols import Examples, Learner, Lesson, Masked, Sample
from strategies.tasks import Task, task_of
from strategies.training import CLASSIFICATION


class Joined:
    """Several examples as one, in order; their masks, where those have masks."""

    def __init__(self, *several: Examples) -> None:
        self._several = several
        self._begins = np.cumsum([0, *(len(one) for one in several)])
        self.label = np.concatenate([np.asarray(one.label, dtype=np.int64) for one in several])
        self.patient = np.concatenate([np.asarray(one.patient, dtype=str) for one in several])
        self.domain = np.concatenate([np.asarray(one.domain, dtype=str) for one in several])

    def __len__(self) -> int:
        return int(self._begins[-1])

    def image(self, i: int) -> NDArray[np.float32]:
        one, row = self._at(i)
        return one.image(row)

    def mask(self, i: int) -> NDArray[np.uint8]:
        one, row = self._at(i)
        return cast(Masked, one).mask(row)

    def _at(self, i: int) -> tuple[Examples, int]:
        which = int(np.searchsorted(self._begins, i, side="right")) - 1
        return self._several[which], i - int(self._begins[which])


def as_served(
    base: Path, parts: Path, held: Joined, images: Pixels, new: Examples, unlabelled: Examples | None
) -> tuple[Lesson, Learner]:
    """The held cases and those without a label, and what the version so far says of them as it will be served."""
    predictor = Predictor.load(base, parts)
    site = int(np.isin(held.domain, _site(new, unlabelled)).sum())
    known = len(held)
    if unlabelled is not None and len(unlabelled):
        held = Joined(held, unlabelled)
        images = Pixels(held, images.preprocessing)
    lesson = _lesson(held, images, site, known - site, predictor, predictor.features)
    served = predictor.served
    return lesson, Learner(encoder=served.backbone, head=served.head, moving=(), inputs=Images(images, mirror))


def as_sensed(base: Path, new: Examples, memory: Examples, develop: Examples, unlabelled: Examples | None) -> Lesson:
    """Every case there is, and what the pinned base sees and says of it."""
    predictor = Predictor.load(base)
    known = site_first(Joined(new, memory, develop), new, unlabelled)
    site = int(np.isin(known.domain, _site(new, unlabelled)).sum())
    cases = known if unlabelled is None else Joined(known, unlabelled)
    images = Pixels(cases, predictor.preprocessing)
    return _lesson(cases, images, site, len(known) - site, predictor, predictor.embed)


def site_first(held: Joined, new: Examples, unlabelled: Examples | None) -> Joined:
    """The held cases, those of the domains that are learnt first."""
    others = ~np.isin(held.domain, _site(new, unlabelled))
    return Joined(Chosen(held, np.argsort(others, kind="stable")))


def _site(new: Examples, unlabelled: Examples | None) -> list[str]:
    names = {*new.domain.tolist(), *(() if unlabelled is None else unlabelled.domain.tolist())}
    return sorted(names)


def _lesson(
    cases: Joined,
    images: Pixels,
    new: int,
    remembered: int,
    predictor: Predictor,
    features: Callable[[torch.Tensor], NDArray[np.float32]],
) -> Lesson:
    task = task_of(predictor.task)
    starts = range(0, len(images), task.at_once)
    batches = [range(start, min(start + task.at_once, len(images))) for start in starts]

    def each(answer: Callable[[torch.Tensor], NDArray[np.float32]]) -> NDArray[np.float32]:
        return np.concatenate([answer(normalise(images.preprocessing, images[rows])) for rows in batches])

    return Lesson(
        label=cases.label,
        domain=cases.domain,
        patient=cases.patient,
        new=new,
        remembered=remembered,
        features=cache(lambda: each(features)),
        logits=cache(lambda: each(predictor.logits)) if task is CLASSIFICATION else no_logits,
        task=task.name,
        pixels=None if task is CLASSIFICATION else cache(lambda: sampled(cases, images, task, predictor)),
    )


def no_logits() -> NDArray[np.float32]:
    """Those of a segmentation: of every pixel of every case they would not fit in memory. Raises ValueError."""
    raise ValueError("The scores of a segmentation are those of its pixels; a sample of them is there, and not all.")


def sampled(cases: Examples, images: Pixels, task: Task, predictor: Predictor, per_case: int = 256) -> Sample:
    """Pixels of every case with a mask: of each class in it as many, drawn from a fixed seed, so that a small structure
    is seen; a pixel weighs by how many of its class it stands for."""
    generator = torch.Generator().manual_seed(0)
    logits, label, row, weight = [], [], [], []
    known = np.flatnonzero(np.asarray(cases.label) >= 0)
    for some in np.array_split(known, max(1, -(-len(known) // task.at_once))):
        truth = task.target(Chosen(cases, some), images.preprocessing).flatten(1)
        said = predictor.logits(normalise(images.preprocessing, images[some.tolist()]))
        for i, of_case, scores in zip(some.tolist(), truth, torch.from_numpy(said).flatten(2), strict=True):
            present = of_case.unique()
            for c in present:
                places = (of_case == c).nonzero()[:, 0]
                drawn = places[torch.randperm(len(places), generator=generator)[: per_case // len(present)]]
                logits.append(scores[:, drawn].T.clone())
                label.append(of_case[drawn].long())
                row += [i] * len(drawn)
                weight += [len(places) / len(of_case) / len(drawn)] * len(drawn)
    return Sample(torch.cat(logits).numpy(), torch.cat(label).numpy(), np.array(row), np.array(weight))
