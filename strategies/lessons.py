"""What a mechanism is told of its cases: several examples as one, and what a version sees and says of them."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import cast

import numpy as np
import torch
from numpy.typing import NDArray

from strategies import boxes
from strategies.augmentation import mirror
from strategies.base import Chosen
from strategies.inputs import Images
from strategies.predictor import Predictor
from strategies.preprocessing import Pixels, normalise
from strategies.protocols import Boxed, Examples, Learner, Lesson, Masked, Sample
from strategies.slices import fewer
from strategies.tasks import Task, task_of


class Joined:
    """Several examples as one, in order; their masks or boxes, where those have them."""

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

    def boxes(self, i: int) -> NDArray[np.float32]:
        one, row = self._at(i)
        return cast(Boxed, one).boxes(row)

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
    size = fewer(task.at_once, images.preprocessing.slices)
    batches = [range(start, min(start + size, len(images))) for start in range(0, len(images), size)]

    def each(answer: Callable[[torch.Tensor], NDArray[np.float32]]) -> NDArray[np.float32]:
        return np.concatenate([answer(normalise(images.preprocessing, images[rows])) for rows in batches])

    return Lesson(
        label=cases.label,
        domain=cases.domain,
        patient=cases.patient,
        new=new,
        remembered=remembered,
        features=cache(lambda: each(features)),
        logits=no_logits if task.dense else cache(lambda: each(predictor.logits)),
        task=task.name,
        pixels=cache(lambda: sampled(cases, images, task, predictor)) if task.dense else None,
    )


def no_logits() -> NDArray[np.float32]:
    """Those of a segmentation: of every pixel of every case they would not fit in memory. Raises ValueError."""
    raise ValueError(
        "The scores of a segmentation are those of its pixels, of a detection those of its boxes; a sample of them is "
        "there, and not all."
    )


Some = tuple[torch.Tensor, torch.Tensor, torch.Tensor]  # of one case: logits [m, k], class [m], weights [m]


def sampled(cases: Examples, images: Pixels, task: Task, predictor: Predictor) -> Sample:
    """Pixels, or boxes, of every case whose truth is known, drawn from a fixed seed."""
    generator = torch.Generator().manual_seed(0)
    found: list[Some] = []
    row: list[int] = []
    known = np.flatnonzero(np.asarray(cases.label) >= 0)
    for some in np.array_split(known, max(1, -(-len(known) // fewer(task.at_once, images.preprocessing.slices)))):
        truth = task.target(Chosen(cases, some), images.preprocessing)
        said = torch.from_numpy(predictor.logits(normalise(images.preprocessing, images[some.tolist()])))
        for i, of_case, logits in zip(some.tolist(), truth, said, strict=True):
            found.append(SAMPLES[task.name](of_case, logits, generator))
            row += [i] * len(found[-1][1])
    logits, label, weight = (torch.cat(parts).numpy() for parts in zip(*found, strict=True))
    return Sample(logits, label, np.array(row, dtype=int), weight)


def pixels_of(truth: torch.Tensor, logits: torch.Tensor, generator: torch.Generator, most: int = 256) -> Some:
    """Of each class in a case as many, so that a small structure is seen; a pixel weighs by how many of its class it
    stands for."""
    truth, logits = truth.flatten(), logits.flatten(1)
    drawn, weight = [], []
    present = truth.unique()
    for c in present:
        places = (truth == c).nonzero()[:, 0]
        some = places[torch.randperm(len(places), generator=generator)[: most // len(present)]]
        drawn.append(some)
        weight.append(torch.full((len(some),), len(places) / len(truth) / len(some), dtype=torch.float64))
    places = torch.cat(drawn)
    return logits[:, places].T.clone(), truth[places].long(), torch.cat(weight)


def boxes_of(truth: torch.Tensor, logits: torch.Tensor, _: torch.Generator) -> Some:
    """All that are said of a case, each its class where it found a true box of it at an overlap of a half; what is true
    and was not said has no score. Of other classes the logits are too small to count."""
    classes = len(logits) - boxes.CORNERS
    said = boxes.found(task_of("detection").probabilities(logits[None])[0])
    hit = torch.from_numpy(boxes.matched(said, boxes.real(truth))[:, 0])
    scores = torch.full((len(hit), classes + 1), NEVER)
    scores[range(len(hit)), said.labels] = torch.logit(said.scores, eps=1e-6)
    scores[:, classes] = 0
    weight = torch.full((len(hit),), 1 / max(1, len(hit)), dtype=torch.float64)
    return scores, said.labels.where(hit, classes), weight


NEVER = -1e6  # a logit
SAMPLES: dict[str, Callable[[torch.Tensor, torch.Tensor, torch.Generator], Some]] = {
    "segmentation": pixels_of,
    "detection": boxes_of,
}
