"""Lessons for tests: what a mechanism is told of the cases that it learns from."""

from __future__ import annotations

import numpy as np
from torch import nn

from strategies.lessons import Joined
from strategies.protocols import Examples, Learner, Lesson


def never() -> np.ndarray:
    raise AssertionError("the model was asked, and nothing here needs its answer")


def lesson(new: Examples, memory: Examples) -> Lesson:
    cases = Joined(new, memory)
    return Lesson(
        label=cases.label,
        domain=cases.domain,
        patient=cases.patient,
        new=len(new),
        remembered=len(memory),
        features=never,
        logits=never,
    )


class Unasked:
    """Inputs that nobody reads."""

    def __len__(self) -> int:
        return 0

    drawn = plain = lambda *_: never()


def unasked() -> Learner:
    """A model that a mechanism needs no answer of."""
    return Learner(encoder=nn.Identity(), head=nn.Identity(), moving=(), inputs=Unasked())
