"""The focal loss (Lin and others 2017): what is answered rightly and surely counts for little."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from strategies.objective.cross_entropy import CrossEntropy, weighted_mean
from strategies.protocols import Learner, Lesson, Loss, Step


class Focal:
    """-(1 - p)^gamma log p of the true class, weighed per case as by `CrossEntropy`, which it is at gamma 0."""

    name = "focal"
    labelled = True

    def __init__(self, gamma: float = 2.0) -> None:
        self.gamma = gamma

    def prepare(self, lesson: Lesson, learner: Learner) -> Loss:
        """The weighted mean over a batch. Raises ValueError on a new or remembered case without a label."""
        target, weight = CrossEntropy().cases(lesson)

        def loss(step: Step) -> Tensor:
            losses = functional.cross_entropy(step.logits, target[step.rows], reduction="none")
            return weighted_mean((-torch.expm1(-losses)).pow(self.gamma) * losses, weight[step.rows])

        return loss
