"""Several losses as one, each with its weight, and what each came to."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from strategies.protocols import Learner, Lesson, Loss, ObjectiveMechanism, Recorded, Step, Tasked


class Terms:
    """The weighted sum of named losses; it keeps the mean of each over the steps for the candidate's record."""

    def __init__(self, terms: Mapping[str, tuple[float, Loss]]) -> None:
        self.terms = dict(terms)
        self._steps = 0
        self._totals = torch.zeros(len(terms))

    def __call__(self, step: Step) -> Tensor:
        values = torch.stack([loss(step) for _, loss in self.terms.values()])
        self._steps += 1
        self._totals += values.detach()
        return torch.dot(values, torch.tensor([weight for weight, _ in self.terms.values()]))

    def record(self) -> dict[str, Any]:
        """{name: its weight, its mean before it is weighed, and its own record where it has one}."""
        means = (self._totals / max(1, self._steps)).tolist()
        return {
            name: {"weight": weight, "mean": mean} | (loss.record() if isinstance(loss, Recorded) else {})
            for (name, (weight, loss)), mean in zip(self.terms.items(), means, strict=True)
        }


class Sum:
    """Objectives added up: `Sum((CrossEntropy(), 1.0), (EWC(), 100.0))`.

    It needs labels where one of them does.
    """

    def __init__(self, *parts: tuple[ObjectiveMechanism, float]) -> None:
        self.parts = parts
        self.name = "+".join(objective.name for objective, _ in parts)
        self.labelled = any(objective.labelled for objective, _ in parts)
        served = [one.tasks if isinstance(one, Tasked) else ("classification",) for one, _ in parts]
        self.tasks = tuple(task for task in served[0] if all(task in of_part for of_part in served))

    def prepare(self, lesson: Lesson, learner: Learner) -> Loss:
        """Raises ValueError on a new or remembered case without a label, where a part needs one."""
        return Terms({part.name: (weight, part.prepare(lesson, learner)) for part, weight in self.parts})
