"""An objective that needs no label: two random views of one image belong together. For continued pretraining."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from strategies.protocols import Learner, Lesson, Loss, Step


class Contrastive:
    """NT-Xent (Chen and others 2020): of all other views in the batch, find the one of the same image.

    On the pooled features themselves: a projector of its own would have to be learnt from a few hundred cases.
    """

    name = "contrastive"
    labelled = False

    def __init__(self, temperature: float = 0.2) -> None:
        self.temperature = temperature

    def prepare(self, lesson: Lesson, learner: Learner) -> Loss:
        """The mean over both views; a batch of one case teaches nothing and costs 0."""

        def loss(step: Step) -> Tensor:
            views = functional.normalize(torch.cat([step.features, step.again()]), dim=1)
            n = len(step.features)
            alike = (views @ views.T / self.temperature).masked_fill(torch.eye(2 * n, dtype=torch.bool), -torch.inf)
            return functional.cross_entropy(alike, torch.arange(2 * n).roll(n))

        return loss
