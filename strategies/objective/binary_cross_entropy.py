"""Binary cross-entropy of every finding, in which having it and not having it weigh the same within a domain."""

from __future__ import annotations

from functools import cache

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from strategies.findings import members
from strategies.objective.cross_entropy import CrossEntropy, refuse_unlabelled
from strategies.protocols import Learner, Lesson, Loss, Step


class BinaryCrossEntropy:
    """`CrossEntropy` of each finding by itself: the cases that have it weigh as much as those that don't, per domain.

    A rare finding would else be learnt as never there; the rarer side weighs at most `at_most` times the commoner, so
    that one odd case can't steer the training. So a finding is answered from a probability of a half on by what the
    image says, and less by how common it is.
    """

    name = "binary_cross_entropy"
    labelled = True
    tasks = ("multilabel",)

    def __init__(self, at_most: float = 5.0) -> None:
        self.at_most = at_most

    def prepare(self, lesson: Lesson, learner: Learner) -> Loss:
        """The weighted mean over a batch. Raises ValueError on a new or remembered case without a label."""
        known = lesson.new + lesson.remembered
        label, domain, balance = lesson.label[:known], lesson.domain[:known], CrossEntropy(self.at_most)
        refuse_unlabelled(label)

        @cache
        def taught(findings: int) -> tuple[Tensor, Tensor]:
            truth = members(label, findings)
            weights = [balance.weights(truth[:, i].astype(np.int64), domain) for i in range(findings)]
            return torch.from_numpy(truth.astype(np.float32)), torch.from_numpy(np.stack(weights, axis=1))

        def loss(step: Step) -> Tensor:
            target, weight = (one[step.rows] for one in taught(step.logits.shape[1]))
            losses = functional.binary_cross_entropy_with_logits(step.logits, target, reduction="none")
            return (losses * weight).sum() / weight.sum()

        return loss
