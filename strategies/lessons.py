"""What a mechanism is told of its cases: several examples as one, and what a version sees and says of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from strategies.augmentation import mirror
from strategies.base import Chosen
from strategies.inputs import Images
from strategies.predictor import Predictor
from strategies.preprocessing import Pixels, normalise
from strategies.protocols import Examples, Learner, Lesson


class Joined:
    """Several examples as one, in order."""

    def __init__(self, *several: Examples) -> None:
        self._several = several
        self._begins = np.cumsum([0, *(len(one) for one in several)])
        self.label = np.concatenate([np.asarray(one.label, dtype=np.int64) for one in several])
        self.patient = np.concatenate([np.asarray(one.patient, dtype=str) for one in several])
        self.domain = np.concatenate([np.asarray(one.domain, dtype=str) for one in several])

    def __len__(self) -> int:
        return int(self._begins[-1])

    def image(self, i: int) -> NDArray[np.float32]:
        which = int(np.searchsorted(self._begins, i, side="right")) - 1
        return self._several[which].image(i - int(self._begins[which]))


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
    lesson = _lesson(held, images, site, known - site, predictor.features, predictor.logits)
    served = predictor.served
    return lesson, Learner(encoder=served.backbone, head=served.head, moving=(), inputs=Images(images, mirror))


def as_sensed(base: Path, new: Examples, memory: Examples, develop: Examples, unlabelled: Examples | None) -> Lesson:
    """Every case there is, and what the pinned base sees and says of it."""
    predictor = Predictor.load(base)
    known = site_first(Joined(new, memory, develop), new, unlabelled)
    site = int(np.isin(known.domain, _site(new, unlabelled)).sum())
    cases = known if unlabelled is None else Joined(known, unlabelled)
    images = Pixels(cases, predictor.preprocessing)
    return _lesson(cases, images, site, len(known) - site, predictor.embed, predictor.logits)


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
    features: Callable[[torch.Tensor], NDArray[np.float32]],
    logits: Callable[[torch.Tensor], NDArray[np.float32]],
    batch_size: int = 64,
) -> Lesson:
    starts = range(0, len(images), batch_size)
    batches = [range(start, min(start + batch_size, len(images))) for start in starts]

    def each(answer: Callable[[torch.Tensor], NDArray[np.float32]]) -> NDArray[np.float32]:
        return np.concatenate([answer(normalise(images.preprocessing, images[rows])) for rows in batches])

    return Lesson(
        label=cases.label,
        domain=cases.domain,
        patient=cases.patient,
        new=new,
        remembered=remembered,
        features=cache(lambda: each(features)),
        logits=cache(lambda: each(logits)),
    )
