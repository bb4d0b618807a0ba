"""The maps of a network that pools its features, side by side, and the head by which a detector reads them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import nn
from torch.nn import functional

from strategies.boxes import Corners
from strategies.families.backbone import ChainedBackbone, Encoder, Pooled, width_of
from strategies.protocols import Backbone

STRIDE = 8  # pixels on a side of the places that a detector answers for
HIDDEN = 64  # features of a detector's head
UNSURE = -3.0  # a fresh detector's score of every place, as a logit: few places hold what is looked for
POOLS = (nn.AdaptiveAvgPool2d, nn.Flatten)


class Columns(nn.Module):
    """[b, c, h, w] -> what `blocks` make of it, all that they have at the `taps`, side by side at its own size.

    The hypercolumns of Hariharan and others (2015): a place is told by what lies around it as well, near and far.
    """

    def __init__(self, blocks: Sequence[nn.Module], taps: Sequence[int]) -> None:
        super().__init__()
        self.blocks, self.taps = nn.ModuleList(blocks), set(taps)

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        size, kept = maps.shape[-2:], [maps]
        for number, block in enumerate(self.blocks):
            maps = block(maps)
            if number in self.taps:
                kept.append(functional.interpolate(maps, size=size, mode="bilinear", align_corners=False))
        return torch.cat(kept, dim=1)


def columns(origin: Backbone) -> Backbone:
    """A convolutional network that pools its features, before it does: its last maps of each size from STRIDE on.

    No weight is added, so the network is saved as it came. Its sensor sees the means of all of these maps: those of the
    deepest alone are skewed by what is rare, and a handful of home's images may look like a change. Raises ValueError
    where it has no such maps.
    """
    unfit = ValueError(
        "This network has no maps of several sizes that it pools at last: for detection take a convolutional network "
        "of torchvision, as mobilenet_v3_small, a RetinaNet or a YOLOS."
    )
    if not isinstance(origin, ChainedBackbone) or origin.stride is not None:
        raise unfit
    chain, network = origin.module.chain, origin.module.network
    strides = _strides(Encoder(network, lambda network: _maps(chain(network))))
    last = {stride: number for number, stride in enumerate(strides)}
    if not strides or STRIDE not in last or sorted(strides) != strides:
        raise unfit
    first = last[STRIDE] + 1

    def dense(network: nn.Module) -> list[nn.Module]:
        blocks = _maps(chain(network))
        taps = [number - first for stride, number in last.items() if stride > STRIDE]
        return [*blocks[:first], Columns(blocks[first:], taps)]

    def seen(network: nn.Module, images: torch.Tensor) -> torch.Tensor:
        return nn.Sequential(*dense(network))(images)

    module = Encoder(network, dense)
    width = width_of(module, origin.preprocessing.size)
    return replace(origin, module=module, width=width, stride=STRIDE, sense=lambda network: Pooled(network, seen))


def detector(origin: Backbone, classes: int) -> nn.Module:
    """A fresh head, [b, d, h, w] -> [b, k + 4, h, w]: a logit for each class, and the corners of a box."""
    last = nn.Conv2d(HIDDEN, classes + 4, 1)
    with torch.no_grad():
        last.weight.mul_(0.1)
        cast(torch.Tensor, last.bias)[:classes] = UNSURE
        cast(torch.Tensor, last.bias)[classes:] = 1.0
    return nn.Sequential(
        nn.Conv2d(origin.width, HIDDEN, 1),
        nn.ReLU(),
        nn.Conv2d(HIDDEN, HIDDEN, 3, padding="same"),
        nn.ReLU(),
        last,
        Corners(),
    )


def _maps(blocks: list[nn.Module]) -> list[nn.Module]:
    """Without the pooling at their end; none where they end otherwise."""
    end = len(blocks)
    while end and isinstance(blocks[end - 1], POOLS):
        end -= 1
    return blocks[:end] if end < len(blocks) else []


def _strides(encoder: Encoder, side: int = 64) -> list[int]:
    """Of what each block gives."""
    images, found = torch.zeros(1, 3, side, side), []
    training = encoder.training
    encoder.eval()
    with torch.inference_mode():
        for block in encoder.blocks():
            images = block(images)
            found.append(side // images.shape[-1])
    encoder.train(training)
    return found
