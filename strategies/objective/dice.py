"""Dice and cross-entropy of every pixel, MONAI's own, which is imported where it is used: that takes seconds."""

from __future__ import annotations

from torch import Tensor

from strategies.protocols import Learner, Lesson, Loss, Step


class DiceCrossEntropy:
    """1 - the soft Dice of each class over a batch, the mean over classes, plus the mean cross-entropy over pixels.

    Dice weighs a structure of a few pixels like one of many (Milletari and others 2016), and cross-entropy has a slope
    where Dice has none. Of a whole batch, as a case without the structure has no Dice of it (so have it Isensee and
    others 2021 in two dimensions).
    """

    name = "dice_cross_entropy"
    labelled = True
    tasks = ("segmentation",)

    def prepare(self, lesson: Lesson, learner: Learner) -> Loss:
        """Raises ValueError on a new or remembered case without a mask."""
        known = lesson.label[: lesson.new + lesson.remembered]
        if (known < 0).any():
            raise ValueError(f"{int((known < 0).sum())} of {len(known)} cases to learn from have no mask.")
        return self.loss()

    def loss(self) -> Loss:
        """Of steps that have masks."""
        from monai.losses import DiceCELoss

        both = DiceCELoss(softmax=True, to_onehot_y=True, batch=True)

        def loss(step: Step) -> Tensor:
            if step.target is None:
                raise ValueError("Dice is of masks, and these cases have none.")
            return both(step.logits, step.target[:, None].long())

        return loss
