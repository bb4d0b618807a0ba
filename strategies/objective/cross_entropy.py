"""Cross-entropy in which every class of every domain weighs the same."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from strategies.protocols import Learner, Lesson, Loss, Step


class CrossEntropy:
    """Class-balanced cross-entropy; the weights are per domain, as the class balance itself is what differs of sites.

    Without that a network learns "this stain, hence neutrophil": the rehearsed site is balanced and the new one is not.
    A class weighs at most `at_most` times the commonest of its domain, so that one odd case can't steer the training.
    """

    name = "cross_entropy"
    labelled = True

    def __init__(self, at_most: float = 5.0) -> None:
        self.at_most = at_most

    def weights(self, label: NDArray[np.integer], domain: NDArray[np.str_]) -> NDArray[np.float32]:
        """[n] -> one weight per case, of mean 1 in each domain. Raises ValueError on a case without a label."""
        refuse_unlabelled(label)
        weight = np.ones(len(label))
        for name in np.unique(domain):
            here = domain == name
            counts = np.bincount(label[here])[label[here]]
            weight[here] = np.minimum(counts.max() / counts, self.at_most)
            weight[here] /= weight[here].mean()
        return weight.astype(np.float32)

    def cases(self, lesson: Lesson) -> tuple[Tensor, Tensor]:
        """(label, weight) of the new and the remembered cases, each [n].

        Raises ValueError on a case among them without a label.
        """
        known = lesson.new + lesson.remembered
        target = torch.from_numpy(np.asarray(lesson.label[:known], dtype=np.int64))
        return target, torch.from_numpy(self.weights(lesson.label[:known], lesson.domain[:known]))

    def prepare(self, lesson: Lesson, learner: Learner) -> Loss:
        """The weighted mean over a batch. Raises ValueError on a new or remembered case without a label."""
        target, weight = self.cases(lesson)

        def loss(step: Step) -> Tensor:
            losses = functional.cross_entropy(step.logits, target[step.rows], reduction="none")
            return weighted_mean(losses, weight[step.rows])

        return loss


def refuse_unlabelled(label: NDArray[np.integer]) -> None:
    """Raises ValueError where a case [n] has no label."""
    if missing := int((label < 0).sum()):
        raise ValueError(f"{missing} of {len(label)} cases to learn from have no label: leave them out")


def weighted_mean(losses: Tensor, weight: Tensor) -> Tensor:
    """losses [b], weight [b] of zero or more -> scalar; zero where all weights are."""
    return torch.dot(losses, weight) / weight.sum().clamp(min=1e-6)
