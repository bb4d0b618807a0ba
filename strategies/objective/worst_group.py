"""Worst-group weighting: group distributionally robust optimisation (Sagawa and others 2020)."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from strategies.objective.cross_entropy import CrossEntropy, weighted_mean
from strategies.protocols import Learner, Lesson, Loss, Step


class WorstGroup:
    """sum_g q_g loss_g, where a step multiplies q_g by exp(rate loss_g): the worst group counts ever more.

    Groups are the lesson's domains, in which cases are weighed as by `CrossEntropy`, or, `by_class`, the classes of
    each domain. A group that is not in a batch has no loss there.
    """

    name = "worst_group"
    labelled = True

    def __init__(self, rate: float = 0.01, by_class: bool = False) -> None:
        self.rate, self.by_class = rate, by_class

    def prepare(self, lesson: Lesson, learner: Learner) -> Loss:
        """Raises ValueError on a new or remembered case without a label."""
        target, weight = CrossEntropy().cases(lesson)
        known = zip(lesson.domain[: len(target)].tolist(), target.tolist(), strict=True)
        names, group = np.unique(
            [f"{domain}, class {label}" if self.by_class else domain for domain, label in known], return_inverse=True
        )
        return _Robust(target, weight, torch.from_numpy(group), names.tolist(), self.rate)


class _Robust:
    """The loss, and the groups' weights as they have become."""

    def __init__(self, target: Tensor, weight: Tensor, group: Tensor, names: list[str], rate: float) -> None:
        self.target, self.weight, self.group, self.names, self.rate = target, weight, group, names, rate
        self.q = torch.full((len(names),), 1 / len(names))

    def __call__(self, step: Step) -> Tensor:
        losses = functional.cross_entropy(step.logits, self.target[step.rows], reduction="none")
        weight, group = self.weight[step.rows], self.group[step.rows]
        of_group = torch.stack([weighted_mean(losses, weight * (group == g)) for g in range(len(self.names))])
        self.q = torch.softmax(self.q.log() + self.rate * of_group.detach(), dim=0)
        return torch.dot(self.q, of_group)

    def record(self) -> dict[str, Any]:
        """The weights of the groups after the last step; they sum to 1."""
        return {"group_weights": dict(zip(self.names, self.q.tolist(), strict=True))}
