"""The heads of published detectors: RetinaNet's, which answers for anchors, and YOLOS's, which answers for queries.

Both put their answers into one column of places, [b, k + 4, n, 1]: a logit for each class, of which a sigmoid is the
chance, and the corners of a box. Which place answers for which true box is told by the assignment that they were
published with.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import cast

import torch
from torch import Tensor, nn
from torchvision.models.detection import _utils as torchvision_utils
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.ops import box_convert, box_iou

from strategies.boxes import CORNERS, NONE, real

STRIDE = 8  # pixels on a side of a place of the finest level of RetinaNet's pyramid


class Anchored(nn.Module):
    """The last layers of a RetinaNet (Lin and others 2017): [b, 2 d, n, 1] -> [b, k + 4, n a, 1].

    The places are those of all levels of a pyramid, one after the other, row by row; each holds the d features that
    scores are read from and the d of the boxes. `cells` [levels, a, 4] are the anchors around a place, in pixels; the
    image is square, its side a multiple of 32.
    """

    def __init__(self, scores: nn.Conv2d, deltas: nn.Conv2d, cells: Tensor) -> None:
        super().__init__()
        self.cls_logits, self.bbox_reg = scores, deltas
        self.cells: Tensor
        self.register_buffer("cells", cells)

    @classmethod
    def of(cls, weights: Mapping[str, Tensor]) -> Anchored:
        """Raises KeyError or RuntimeError for other tensors."""
        read = [weights[f"{name}.weight"] for name in ("cls_logits", "bbox_reg")]
        scores, deltas = (nn.Conv2d(one.shape[1], one.shape[0], 3, padding=1) for one in read)
        made = cls(scores, deltas, torch.empty_like(weights["cells"]))
        made.load_state_dict(weights)
        return made

    @property
    def width(self) -> int:
        return 2 * self.cls_logits.in_channels

    @property
    def outputs(self) -> int:
        return self.cls_logits.out_channels // self.cells.shape[1]

    def forward(self, maps: Tensor) -> Tensor:
        sides = sides_of(maps.shape[2], len(self.cells))
        scores, deltas = [], []
        for side, level in zip(sides, maps.split([side**2 for side in sides], dim=2), strict=True):
            seen, located = level.squeeze(-1).unflatten(2, (side, side)).chunk(2, dim=1)
            scores.append(self._by_anchor(self.cls_logits(seen)))
            deltas.append(self._by_anchor(self.bbox_reg(located)))
        anchors = anchors_of(self.cells, sides)
        coder = torchvision_utils.BoxCoder(weights=(1.0, 1.0, 1.0, 1.0))
        moved = torch.cat(deltas, dim=1)
        corners = coder.decode_single(moved.flatten(0, 1), anchors.repeat(len(maps), 1)).view_as(moved)
        said = torch.cat([torch.cat(scores, dim=1), corners / (STRIDE * sides[0])], dim=2)
        return said.transpose(1, 2).unsqueeze(-1)

    def _by_anchor(self, maps: Tensor) -> Tensor:
        """[b, a m, h, w] -> [b, h w a, m]."""
        return maps.unflatten(1, (self.cells.shape[1], -1)).permute(0, 3, 4, 1, 2).flatten(1, 3)

    def answered(self, said: Tensor, target: Tensor) -> Tensor:
        """See `Assigning`: anchors that overlap a box by a half, and the one next to each; torchvision's matching."""
        places = said.shape[2] // self.cells.shape[1]
        sides = sides_of(places, len(self.cells))
        anchors = anchors_of(self.cells, sides) / (STRIDE * sides[0])
        matcher = torchvision_utils.Matcher(0.5, 0.4, allow_low_quality_matches=True)
        which = torch.full((len(said), len(anchors)), NONE)
        for row, padded in zip(which, target, strict=True):
            true = real(padded)
            if len(true):
                row[:] = matcher(box_iou(true[:, 1:], anchors))
        return which.unsqueeze(-1)


def cells_of(smallest: int, levels: int) -> Tensor:
    """[levels, 9, 4]: torchvision's anchors of RetinaNet, three sizes by three ratios, twice as large at each level."""
    sides = [smallest * 2**level for level in range(levels)]
    sizes = tuple((side, int(side * 2 ** (1 / 3)), int(side * 2 ** (2 / 3))) for side in sides)
    return torch.stack(AnchorGenerator(sizes, ((0.5, 1.0, 2.0),) * levels).cell_anchors)


def anchors_of(cells: Tensor, sides: Sequence[int]) -> Tensor:
    """[n a, 4] in pixels, of maps of these sides."""
    generator = AnchorGenerator()
    generator.cell_anchors = list(cells)
    strides = [[torch.tensor(STRIDE * sides[0] // side)] * 2 for side in sides]
    return torch.cat(generator.grid_anchors([[side, side] for side in sides], strides))


def sides_of(places: int, levels: int) -> list[int]:
    """Of the square maps of a pyramid that hold so many places, each half as large as the one before.

    Raises ValueError where no pyramid does.
    """
    for first in range(math.isqrt(places), 0, -1):
        sides = [first]
        while len(sides) < levels:
            sides.append((sides[-1] + 1) // 2)
        if (held := sum(side**2 for side in sides)) == places:
            return sides
        if held < places:
            break
    raise ValueError(f"{places} places are no pyramid of {levels} square maps.")


class Queried(nn.Module):
    """The two perceptrons of a YOLOS or DETR: [b, d, n, 1] -> [b, k + 4, n, 1], a place for each query.

    `classes` ends in k + 1 logits, the last of no object, of which these networks take the softmax; the logit of a
    class here is the one whose sigmoid is its share in that. `box` gives middle and sides before a sigmoid.
    """

    def __init__(self, classes: nn.Sequential, box: nn.Sequential) -> None:
        super().__init__()
        self.classes, self.box = classes, box

    @classmethod
    def of(cls, weights: Mapping[str, Tensor]) -> Queried:
        """Raises KeyError or RuntimeError for other tensors."""
        made = cls(*(perceptron(_linear(weights[f"{name}.{i}.weight"]) for i in (0, 2, 4)) for name in _BOTH))
        made.load_state_dict(weights)
        return made

    @property
    def width(self) -> int:
        return cast(nn.Linear, self.classes[0]).in_features

    @property
    def outputs(self) -> int:
        return cast(nn.Linear, self.classes[-1]).out_features - 1

    def forward(self, maps: Tensor) -> Tensor:
        queries = maps.squeeze(-1).transpose(1, 2)
        logits = self.classes(queries)
        corners = box_convert(self.box(queries).sigmoid(), "cxcywh", "xyxy")
        return torch.cat([against_others(logits)[..., :-1], corners], dim=2).transpose(1, 2).unsqueeze(-1)

    def answered(self, said: Tensor, target: Tensor) -> Tensor:
        """See `Assigning`: each box by one query, the cheapest in all; transformers' matching (Carion and others
        2020)."""
        from transformers.loss.loss_for_object_detection import HungarianMatcher

        scores, corners = said.squeeze(-1).transpose(1, 2).split([said.shape[1] - CORNERS, CORNERS], dim=2)
        chances = scores.sigmoid()
        nothing = (1 - chances.sum(dim=2, keepdim=True)).clamp_min(torch.finfo(chances.dtype).tiny)
        true = [real(one) for one in target]
        pairs = HungarianMatcher(class_cost=1, bbox_cost=5, giou_cost=2)(
            {
                "logits": torch.cat([chances, nothing], dim=2).log(),
                "pred_boxes": box_convert(corners, "xyxy", "cxcywh"),
            },
            [{"class_labels": one[:, 0].long(), "boxes": box_convert(one[:, 1:], "xyxy", "cxcywh")} for one in true],
        )
        which = torch.full(scores.shape[:2], NONE)
        for row, (query, box) in zip(which, pairs, strict=True):
            row[query] = box
        return which.unsqueeze(-1)


def against_others(logits: Tensor) -> Tensor:
    """[..., k] of a softmax -> [..., k] whose sigmoid is that softmax: each less the logarithm of the others' sum."""
    own = torch.eye(logits.shape[-1], dtype=torch.bool)
    return logits - logits.unsqueeze(-2).masked_fill(own, -torch.inf).logsumexp(dim=-1)


_BOTH = ("classes", "box")


def _linear(weight: Tensor) -> nn.Linear:
    return nn.Linear(weight.shape[1], weight.shape[0])


def perceptron(layers: Iterable[nn.Module]) -> nn.Sequential:
    """These layers, ReLU between."""
    first, *rest = layers
    return nn.Sequential(first, *(one for layer in rest for one in (nn.ReLU(), layer)))
