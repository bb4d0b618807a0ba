"""Elastic weight consolidation (Kirkpatrick and others 2017)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional

from strategies.protocols import Learner, Lesson, Loss, Step


class EWC:
    """1/2 sum_i F_i (w_i - w0_i)^2 over the weights that move: what remembered answers hang on stays where it was.

    F is the diagonal Fisher information of the model as the training begins, a mean over at most `cases` remembered
    cases. Of each the label is drawn from what the model itself says: with the true labels F would be the empirical
    Fisher (avalanche's), which is near zero wherever the model fits its memory. Its weight in a `Sum` is lambda.
    """

    name = "ewc"
    labelled = False

    def __init__(self, cases: int = 128) -> None:
        self.cases = cases

    def fisher(self, lesson: Lesson, learner: Learner) -> list[Tensor]:
        """One tensor per moving weight, in its shape; zeros where nothing is remembered."""
        generator = torch.Generator().manual_seed(0)
        some = lesson.new + torch.randperm(lesson.remembered, generator=generator)[: self.cases]
        found = [torch.zeros_like(weight) for weight in learner.moving]
        learner.encoder.eval()
        learner.head.eval()
        for row in some.tolist():
            logits = learner.head(learner.encoder(learner.inputs.plain([row])))
            said = torch.multinomial(torch.softmax(logits.detach(), dim=1), 1, generator=generator)[0]
            slopes = torch.autograd.grad(functional.cross_entropy(logits, said), learner.moving, allow_unused=True)
            for total, slope in zip(found, slopes, strict=True):
                if slope is not None:
                    total.addcmul_(slope, slope, value=1 / len(some))
        return found

    def prepare(self, lesson: Lesson, learner: Learner) -> Loss:
        fisher = self.fisher(lesson, learner)
        before = [weight.detach().clone() for weight in learner.moving]

        def loss(step: Step) -> Tensor:
            moved = zip(fisher, learner.moving, before, strict=True)
            return torch.stack([torch.sum(important * (now - was) ** 2) for important, now, was in moved]).sum() / 2

        return loss
