"""Dense features for segmentation, and the head that brings them to a class for every pixel.

An encoder that pools is read before its pooling, without a weight of its own: what a convolutional network makes at
several strides side by side, or a transformer's patches back on their grid. So it is saved as its ecosystem does, and
all that is learnt for masks beside it is the head.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import replace
from typing import cast

import torch
from torch import nn
from torch.nn import functional

from strategies.families.backbone import Chain, ChainedBackbone, Encoder
from strategies.inserted import outputs
from strategies.model import Head
from strategies.protocols import Backbone

FINEST = 4  # the least stride whose maps are read
HIDDEN = 64  # channels of a decoder


class Carried(nn.Module):
    """A block that passes on, beside what it makes, the maps that are read behind the last block.

    All lie on the grid of the finest, coarser ones repeated: [b, c, h, w] -> [b, c', h, w]. The block reads the last
    `width` channels, at each `step`th place; `keep` says whether they are passed on too.
    """

    def __init__(self, block: nn.Module, width: int, step: int, keep: bool) -> None:
        super().__init__()
        self.block = block
        self.width, self.step, self.keep = width, step, keep

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        made = self.block(maps[:, -self.width :, :: self.step, :: self.step])
        if maps.shape[2] % made.shape[2] or maps.shape[3] % made.shape[3]:
            raise ValueError("the side must be a multiple of the network's largest stride, mostly 32")
        made = functional.interpolate(made, size=maps.shape[2:], mode="nearest")
        return torch.cat([maps if self.keep else maps[:, : -self.width], made], dim=1)


class Grid(nn.Module):
    """[b, t, d] -> [b, d, g, g]: the normalised tokens of patches, without those that stand for no place."""

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.norm = norm

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        side = math.isqrt(tokens.shape[1])
        return self.norm(tokens[:, -(side**2) :]).transpose(1, 2).unflatten(2, (side, side))


def dense_from(origin: Backbone) -> Backbone:
    """A backbone whose features are those of places; its sensor is the pooling encoder that it was.

    Raises ValueError where it can't be taken apart into maps or tokens.
    """
    if origin.stride is not None:
        return origin
    origin = cast(ChainedBackbone, origin)
    encoder, shapes = origin.module, outputs(origin)
    maps = [shape for shape, block in zip(shapes, encoder.blocks(), strict=True) if _is_map(shape, block)]
    if maps:
        chain, width, stride = _pyramid(encoder.chain, maps, origin.preprocessing.size)
    else:
        chain, width, stride = _patches(encoder, shapes, origin.preprocessing.size)
    dense = Encoder(encoder.network, chain)
    return replace(
        origin, module=dense, width=width, stride=stride, sense=lambda network: Encoder(network, encoder.chain)
    )


def decoder(origin: Backbone, classes: int) -> nn.Module:
    """A fresh head, [b, d, s / stride, s / stride] -> logits [b, k, s, s]; one layer where features are of pixels, or
    the network has a decoder of its own."""
    stride = origin.stride or 1
    if stride == 1:
        return nn.Conv2d(origin.width, classes, 1)
    if origin.decoder:
        return Head(nn.Conv2d(origin.width, classes, 1), _finer(stride))
    first = 2 if stride > FINEST and stride % 2 == 0 else 1
    finer = [_finer(first)] if first > 1 else []
    return Head(
        nn.Conv2d(origin.width, HIDDEN, 1),
        nn.ReLU(),
        *finer,
        nn.Conv2d(HIDDEN, HIDDEN, 3, padding="same"),
        nn.ReLU(),
        nn.Conv2d(HIDDEN, classes, 1),
        _finer(stride // first),
    )


def _finer(times: int) -> nn.Module:
    return nn.Upsample(scale_factor=times, mode="bilinear")


def _is_map(shape: torch.Size, block: nn.Module) -> bool:
    return len(shape) == 4 and not isinstance(block, nn.AdaptiveAvgPool2d)


def _pyramid(chain: Chain, maps: Sequence[torch.Size], size: int) -> tuple[Chain, int, int]:
    """The chain that reads the last map of each stride, its width and its finest stride."""
    strides = [2 ** round(math.log2(size / shape[2])) for shape in maps]
    last = {stride: i for i, stride in enumerate(strides) if stride >= FINEST}
    first = min(last.values())

    def dense(network: nn.Module) -> list[nn.Module]:
        blocks = chain(network)[: len(maps)]
        carried = [
            Carried(blocks[i], maps[i - 1][1], strides[i - 1] // strides[first], i - 1 in last.values())
            for i in range(first + 1, len(maps))
        ]
        return [*blocks[: first + 1], *carried]

    return dense, sum(maps[i][1] for i in last.values()), strides[first]


def _patches(encoder: Encoder, shapes: Sequence[torch.Size], size: int) -> tuple[Chain, int, int]:
    *_, tokens, pooled = shapes
    pool = encoder.blocks()[-1]
    if len(tokens) != 3 or len(pooled) != 2 or not isinstance(pool, nn.Sequential):
        raise ValueError("This network's features can't be read before its pooling: take another, as monai:unet.")
    side = math.isqrt(tokens[1])
    if side < FINEST or size % side:
        raise ValueError(f"Images of {size} pixels a side are no whole number of patches, or too few, for masks.")

    def dense(network: nn.Module) -> list[nn.Module]:
        *blocks, pool = encoder.chain(network)
        return [*blocks, Grid(cast(nn.Sequential, pool)[0])]

    return dense, tokens[2], size // side
