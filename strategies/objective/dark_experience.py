"""Dark experience replay (Buzzega and others 2020), DER++."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from strategies.objective.cross_entropy import CrossEntropy, weighted_mean
from strategies.objective.sum import Terms
from strategies.protocols import Learner, Lesson, Loss, Step


class DarkExperience:
    """Cross-entropy on new cases, alpha times the squared distance to stored logits and beta times the cross-entropy
    on remembered ones.

    The logits that are stored are those of the model as the training begins: the memory outlives many versions, and
    the last one that was approved is what is to be kept. The two cross-entropies are weighed as by `CrossEntropy`.
    """

    name = "dark_experience"
    labelled = True

    def __init__(self, alpha: float = 0.1, beta: float = 0.5) -> None:
        self.alpha, self.beta = alpha, beta

    def prepare(self, lesson: Lesson, learner: Learner) -> Loss:
        """Raises ValueError on a new or remembered case without a label."""
        target, weight = CrossEntropy().cases(lesson)
        stored = torch.from_numpy(lesson.logits())
        old = torch.zeros(len(target))
        old[lesson.new :] = 1

        def new(step: Step) -> Tensor:
            losses = functional.cross_entropy(step.logits, target[step.rows], reduction="none")
            return weighted_mean(losses, (weight * (1 - old))[step.rows])

        def remembered(step: Step) -> Tensor:
            losses = functional.cross_entropy(step.logits, target[step.rows], reduction="none")
            return weighted_mean(losses, (weight * old)[step.rows])

        def moved(step: Step) -> Tensor:
            apart = (step.logits - stored[step.rows]).square().mean(dim=1)
            return weighted_mean(apart, old[step.rows])

        return Terms({"new": (1.0, new), "stored_logits": (self.alpha, moved), "remembered": (self.beta, remembered)})
