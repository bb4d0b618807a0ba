"""Boxes of a detector: how it says where they lie, how they move with a view, and what they found.

Corners x0, y0, x1, y1 are shares of the image's width and height, so that they hold at any size; the overlap of two
boxes is the same in shares as in pixels. A case's true boxes are rows of class and corners, [m, 5], of class -1 where
a case has fewer than another.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torchvision.ops import batched_nms, box_iou

MOST = 100  # boxes of an image
CANDIDATES = 5000  # places of an image that may become one: as many as torchvision lets five levels of a pyramid have
LEAST_SCORE = 0.05
SAME = 0.5  # overlap from which two boxes of a class are of one thing
IOUS = np.linspace(0.5, 0.95, 10)
CORNERS = 4
NONE, UNCOUNTED = -1, -2  # of a place: it answers for no box; it is so near to one that neither answer is wrong
BOUNDS = (-4.0, 6.0)  # of the logarithm of a distance in places: beyond any image, so that no box is infinite


class Found(NamedTuple):
    """Boxes of one image, the surest first: corners [m, 4], scores [m], labels [m]."""

    corners: Tensor
    scores: Tensor
    labels: Tensor


def centres(height: int, width: int) -> Tensor:
    """[2, h, w]: x and y of the middle of each place of a map."""
    y, x = ((torch.arange(n) + 0.5) / n for n in (height, width))
    return torch.stack(torch.meshgrid(x, y, indexing="xy"))


def corners(distances: Tensor) -> Tensor:
    """What a place says of the distances to left, top, right and bottom, logarithms in places, [b, 4, h, w] -> corners
    [b, 4, h, w] of its box."""
    height, width = distances.shape[-2:]
    apart = distances.clamp(*BOUNDS).exp() / torch.tensor([width, height, width, height]).view(1, CORNERS, 1, 1)
    middle = centres(height, width)
    return torch.cat([middle - apart[:, :2], middle + apart[:, 2:]], dim=1)


class Corners(nn.Module):
    """The last layer of a dense head, without weights: [b, k + 4, h, w], the last four the logarithms of distances ->
    the same with the corners of every place's box in their stead."""

    def forward(self, said: Tensor) -> Tensor:
        return torch.cat([said[:, :-CORNERS], corners(said[:, -CORNERS:].float())], dim=1)


@runtime_checkable
class Assigning(Protocol):
    """A detector's head that says itself which true box each of its places answers for."""

    def answered(self, said: Tensor, target: Tensor) -> Tensor:
        """Scores as logits and corners, [b, k + 4, h, w], beside true boxes, [b, m, 5] -> [b, h, w]: the number of the
        box, or NONE, or UNCOUNTED."""
        ...


def found(answer: Tensor) -> Found:
    """Scores and corners of every place, [k + 4, h, w] -> at most MOST boxes of at least LEAST_SCORE, after the weaker
    of two that overlap by more than SAME in a class was dropped; within the image. Ties fall by place."""
    scores, places = answer[:-CORNERS].flatten(1), answer[-CORNERS:].flatten(1).T.clamp(0, 1)
    label, place = (scores >= LEAST_SCORE).nonzero(as_tuple=True)
    score, box = scores[label, place], places[place]
    order = score.argsort(descending=True, stable=True)[:CANDIDATES]
    label, score, box = label[order], score[order], box[order]
    kept = batched_nms(box, score, label, SAME)[:MOST]
    return Found(box[kept], score[kept], label[kept])


def matched(said: Found, true: Tensor) -> NDArray[np.bool_]:
    """[m, 10]: whether each box found a true one, [t, 5], of its class at each of IOUS, as COCO has it (Lin and others
    2014): the surest first, each takes the free true box of largest overlap, if that reaches the threshold."""
    hit = np.zeros((len(said.scores), len(IOUS)), dtype=bool)
    if not len(said.scores) or not len(true):
        return hit
    overlap = box_iou(said.corners.double(), true[:, 1:].double()).nan_to_num()
    overlap = overlap.where(said.labels[:, None] == true[:, 0], -1.0).numpy()
    free = np.ones((len(IOUS), len(true)), dtype=bool)
    for box, of in enumerate(overlap):
        left = np.where(free, of, -1.0)
        best = len(true) - 1 - left[:, ::-1].argmax(axis=1)
        reached = np.flatnonzero(left.max(axis=1) >= IOUS)
        hit[box, reached] = True
        free[reached, best[reached]] = False
    return hit


def of_image(boxes: NDArray[np.floating], shape: Sequence[int]) -> Tensor:
    """Class and corners in pixels, [t, 5] -> in shares of an image of this shape (height, width), within it.

    Raises ValueError where a box has no area within the image, or a corner more than a pixel outside.
    """
    height, width = shape[:2]
    true = torch.as_tensor(np.asarray(boxes, dtype=np.float32).reshape(-1, 1 + CORNERS)).clone()
    outside = (true[:, 1:3] < -1).any() or (true[:, 3] > width + 1).any() or (true[:, 4] > height + 1).any()
    true[:, 1:] = (true[:, 1:] / torch.tensor([width, height, width, height])).clamp(0, 1)
    if outside or (true[:, 1:3] >= true[:, 3:]).any():
        raise ValueError(f"a box lies outside its image of {height} x {width} pixels, or has no area in it")
    return true


def padded(several: Sequence[Tensor]) -> Tensor:
    """True boxes [t, 5] of n cases -> [n, most, 5]."""
    most = max((len(one) for one in several), default=0)
    together = torch.full((len(several), most, 1 + CORNERS), -1.0)
    for row, one in zip(together, several, strict=True):
        row[: len(one)] = one
    return together


def real(true: Tensor) -> Tensor:
    """[most, 5] -> [t, 5], without those that only fill up."""
    return true[true[:, 0] >= 0]


def turned(true: Tensor, x: Tensor, y: Tensor) -> Tensor:
    """True boxes [b, m, 5] as a view shows them: x and y [b, 2, 2] are what its four corners showed before."""
    begin = torch.stack([x[:, 0, 0], y[:, 0, 0]], dim=1)
    across = torch.stack([x[:, 0, 1], y[:, 0, 1]], dim=1) - begin
    down = torch.stack([x[:, 1, 0], y[:, 1, 0]], dim=1) - begin
    # A symmetry of the square: the inverse of its matrix is the transposed one.
    way = torch.stack([across, down], dim=1)
    low, high = (torch.einsum("bij,bmj->bmi", way, end - begin[:, None]) for end in (true[..., 1:3], true[..., 3:]))
    return torch.cat([true[..., :1], torch.minimum(low, high), torch.maximum(low, high)], dim=2)


def mirrored(true: Tensor) -> Tensor:
    """True boxes [b, m, 5], the left being the right."""
    return torch.cat([true[..., :1], 1 - true[..., 3:4], true[..., 2:3], 1 - true[..., 1:2], true[..., 4:]], dim=-1)
