"""The loss of a detector: which places answer for which box, and how well they do."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional
from torchvision.ops import generalized_box_iou_loss

from strategies.boxes import CORNERS, NONE, UNCOUNTED, Assigning, centres
from strategies.protocols import Learner, Lesson, Loss, Step

RADIUS = 1.5  # places from the middle of a box, within which a place answers for it


class CrossEntropyGIoU:
    """Cross-entropy of each class at every place, plus one less the generalised overlap of the boxes of those that
    answer for one (Rezatofighi and others 2019), both by the number of these. Which do is the head's own to say, where
    it is `Assigning`, else `answered` tells it.

    Not the focal loss, whose scores are drawn towards a half: counts and gates read them as chances. On blood cells it
    found as much, and the squared error of its scores was nearly twice as large.
    """

    name = "cross_entropy_giou"
    labelled = True
    tasks = ("detection",)

    def prepare(self, lesson: Lesson, learner: Learner) -> Loss:
        """Raises ValueError on a new or remembered case without boxes, which is not one with none to find."""
        known = lesson.label[: lesson.new + lesson.remembered]
        if (known < 0).any():
            raise ValueError(f"{int((known < 0).sum())} of {len(known)} cases to learn from have no boxes.")
        return self.loss(learner.head)

    def loss(self, head: nn.Module | None = None) -> Loss:
        """Of steps that have boxes."""
        assigned = head.answered if isinstance(head, Assigning) else dense

        def loss(step: Step) -> Tensor:
            if step.target is None:
                raise ValueError("A detector learns from boxes, and these cases have none.")
            classes = step.logits.shape[1] - CORNERS
            said, places = step.logits[:, :classes], step.logits[:, classes:]
            which = assigned(step.logits.detach(), step.target)
            case, row, column = (which >= 0).nonzero(as_tuple=True)
            label, true = step.target[case, which[case, row, column]].split([1, CORNERS], dim=1)
            wanted = torch.zeros_like(said)
            wanted[case, label[:, 0].long(), row, column] = 1
            places = places[case, :, row, column]
            counted = (which != UNCOUNTED)[:, None].expand_as(said)
            told = functional.binary_cross_entropy_with_logits(said[counted], wanted[counted], reduction="sum")
            return (told + generalized_box_iou_loss(places, true, reduction="sum")) / max(1, len(true))

        return loss


def dense(said: Tensor, target: Tensor) -> Tensor:
    """As `Assigning` has it, of a map whose places know no more than where they lie."""
    return answered(target, *said.shape[-2:])


def answered(target: Tensor, height: int, width: int) -> Tensor:
    """[b, h, w]: which of the true boxes, [b, m, 5], each place answers for, -1 where it is none.

    A place does within RADIUS of a box's middle and inside the box, and the one next to the middle always; of several
    boxes it takes the smallest (Tian and others 2019).
    """
    if not target.shape[1]:
        return torch.full((len(target), height, width), NONE)
    label, low, high = target[..., 0], target[..., 1:3], target[..., 3:]
    sides = torch.tensor([width, height])
    at = centres(height, width).view(1, 1, 2, height, width)
    inside = ((at > low[..., None, None]) & (at < high[..., None, None])).all(dim=2)
    middle = (low + high) / 2
    near = ((at - middle[..., None, None]).abs() * sides.view(2, 1, 1) < RADIUS).all(dim=2)
    own = (middle * sides).floor().clamp_min(0).minimum(sides - 1).long()
    nearest = functional.one_hot(own[..., 1] * width + own[..., 0], height * width).view_as(inside).bool()
    mine = ((inside & near) | nearest) & (label >= 0)[..., None, None]
    area = (high - low).prod(dim=-1)[..., None, None].expand_as(inside).where(mine, torch.inf)
    smallest, which = area.min(dim=1)
    return which.where(smallest.isfinite(), NONE)
