"""Objectives that need no label, for continued pretraining: views of one image belong together, or a part of an image
is to say what the whole does."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from strategies.augmentation import hidden
from strategies.inputs import Views
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


class MaskedFeatures:
    """From an image of which squares are hidden, predict the features of the whole one: masked and predictive at once.

    In the features' space, as data2vec (Baevski and others 2022) and I-JEPA (Assran and others 2023) do, and not in
    pixels: that would take a decoder, to be learnt from a few hundred cases. What is to be said is what the model said
    as the training began (Wei and others 2022, MVP), so there is nothing that could collapse.
    """

    name = "masked_features"
    labelled = False

    def __init__(self, share: float = 0.4) -> None:
        self.share = share

    def views(self, usual: Views) -> Views:
        """The usual random views, squares of them hidden."""
        return lambda batch, generator: hidden(usual(batch, generator), generator, self.share)

    def prepare(self, lesson: Lesson, learner: Learner) -> Loss:
        """1 - cosine between features, less the mean over all cases: of positive features alone all point one way."""
        whole = torch.from_numpy(lesson.features())
        middle = whole.mean(dim=0)

        def loss(step: Step) -> Tensor:
            return (1 - functional.cosine_similarity(step.features - middle, whole[step.rows] - middle)).mean()

        return loss
