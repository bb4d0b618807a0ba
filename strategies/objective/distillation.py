"""Distillation: the answers that the model gave as the training began are kept as soft targets."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from strategies.objective.cross_entropy import weighted_mean
from strategies.protocols import Learner, Lesson, Loss, Step


class Distillation:
    """T^2 KL(softmax(z0 / T) || softmax(z / T)), the mean over all cases of a batch (Hinton and others 2015).

    z0 are `lesson.logits()`: the live version's, where the parameter mechanism continues it, else the base's. It knows
    of no label, so it stands beside a loss that does, in a `Sum`.
    """

    name = "distillation"
    labelled = False

    def __init__(self, temperature: float = 2.0) -> None:
        self.temperature = temperature

    def prepare(self, lesson: Lesson, learner: Learner) -> Loss:
        return _kept(lesson, torch.ones(len(lesson)), self.temperature)


class LwF:
    """Learning without forgetting (Li and Hoiem 2017): distillation on new cases only, so that it needs no memory."""

    name = "lwf"
    labelled = False

    def __init__(self, temperature: float = 2.0) -> None:
        self.temperature = temperature

    def prepare(self, lesson: Lesson, learner: Learner) -> Loss:
        old = torch.zeros(len(lesson))
        old[lesson.new : lesson.new + lesson.remembered] = 1
        return _kept(lesson, 1 - old, self.temperature)


def _kept(lesson: Lesson, weight: Tensor, temperature: float) -> Loss:
    before = torch.log_softmax(torch.from_numpy(lesson.logits()) / temperature, dim=1)

    def loss(step: Step) -> Tensor:
        now = torch.log_softmax(step.logits / temperature, dim=1)
        apart = functional.kl_div(now, before[step.rows], reduction="none", log_target=True).sum(dim=1)
        return temperature**2 * weighted_mean(apart, weight[step.rows])

    return loss
