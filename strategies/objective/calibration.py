"""A calibration error that can be minimised (Kumar, Sarawagi and Jain 2018)."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from strategies.protocols import Learner, Lesson, Loss, Step


class MMCE:
    """The maximum mean calibration error of a batch: zero where answers of confidence r are right in r of cases.

    sqrt(sum_ij (c_i - r_i) (c_j - r_j) exp(-|r_i - r_j| / width)) / b, with r the largest probability and c whether it
    is the true class's. It says nothing of which class is right, so it stands beside a loss that does, in a `Sum`.
    """

    name = "mmce"
    labelled = True

    def __init__(self, width: float = 0.4) -> None:
        self.width = width

    def prepare(self, lesson: Lesson, learner: Learner) -> Loss:
        """Raises ValueError on a new or remembered case without a label."""
        label = lesson.label[: lesson.new + lesson.remembered]
        if (label < 0).any():
            raise ValueError(f"{int((label < 0).sum())} of {len(label)} cases have no label to be calibrated on.")
        target = torch.from_numpy(np.asarray(label, dtype=np.int64))

        def loss(step: Step) -> Tensor:
            sure, said = torch.softmax(step.logits, dim=1).max(dim=1)
            apart = (said == target[step.rows]).float() - sure
            near = torch.exp(-(sure[:, None] - sure).abs() / self.width)
            # The root's slope is infinite at zero.
            return (apart @ near @ apart).clamp(min=1e-8).sqrt() / len(sure)

        return loss
