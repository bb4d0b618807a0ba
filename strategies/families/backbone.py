"""An encoder as a chain of blocks over a network that keeps its ecosystem's names.

The chain is built anew at each call from the network's own children, so a layer that an adapter library replaced is
the one that runs, and no weight has two names.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from strategies.protocols import Preprocessing
from strategies.slices import Prefix, Suffix, Whole, apart, slices_in, together

Chain = Callable[[nn.Module], list[nn.Module]]
Deepest = Callable[[Any, torch.Tensor], torch.Tensor]


def pointwise(layer: nn.Module) -> bool:
    """Linear layers, and convolutions of one pixel and one group."""
    if isinstance(layer, nn.Conv2d):
        return layer.kernel_size == (1, 1) and layer.groups == 1
    return isinstance(layer, nn.Linear)


def ungrouped(layer: nn.Module) -> bool:
    """Linear layers, and convolutions of one group, flat or of volumes: all that peft's LoRA merges exactly.

    Of volumes, pointwise ones are left out: peft merges them as if they were flat.
    """
    if isinstance(layer, nn.Conv3d):
        return layer.groups == 1 and layer.kernel_size[:2] != (1, 1)
    return isinstance(layer, nn.Linear) or (isinstance(layer, nn.Conv2d) and layer.groups == 1)


class ClassToken(nn.Module):
    """[b, tokens, d] -> [b, d], the first token: a pooling that reads no other."""

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return tokens[:, 0]


class Encoder(nn.Module):
    """[b, 3, h, w] -> pooled features [b, d]: the blocks of `chain(network)`, one after the other.

    Of several slices, one below the other, each is read by itself (`strategies/slices.py`), unless the network is one
    of `volumes`, whose blocks take and give all of them.

    `inserted` holds small modules beside the network, by number of the block whose output they run on.
    """

    def __init__(self, network: nn.Module, chain: Chain, volumes: bool = False) -> None:
        super().__init__()
        self.network = network
        self.inserted = nn.ModuleDict()
        self.chain, self.volumes = chain, volumes

    def blocks(self) -> list[nn.Module]:
        chain = self.chain(self.network)
        behind = {int(i): module for i, module in self.inserted.items()}
        return [nn.Sequential(block, behind[i]) if i in behind else block for i, block in enumerate(chain)]

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        n = 1 if self.volumes else slices_in(images)
        images = apart(images, n)
        for block in self.blocks():
            images = block(images)
        return together(images, n)


class Pooled(nn.Module):
    """[b, 3, h, w] -> [b, d]: the mean over places of maps of a network, its deepest mostly.

    Of several slices it is the mean over them too, unless the network is one of `volumes`.
    """

    def __init__(self, network: nn.Module, deepest: Deepest, volumes: bool = False) -> None:
        super().__init__()
        self.network, self.volumes = network, volumes
        self._deepest = deepest

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        n = 1 if self.volumes else slices_in(images)
        return together(self._deepest(self.network, apart(images, n)).mean(dim=(2, 3)), n)


@dataclass(frozen=True)
class ChainedBackbone:
    """The Backbone of every family; `write(network, preprocessing, folder)` is how its ecosystem saves.

    Dense ones have a `stride`, and `sense(network)` is their sensor. `adapted` says of a layer whether low-rank
    adapters may touch it. `decoder` counts the last blocks that are one, apart from the encoder before them. `sealed`:
    no weight of it can move. `detector` makes a fresh head of so many classes, where the network was built to find
    things.
    """

    module: Encoder
    width: int
    preprocessing: Preprocessing
    write: Callable[[nn.Module, Preprocessing, Path], None]
    stride: int | None = None
    sense: Callable[[nn.Module], nn.Module] | None = None
    adapted: Callable[[nn.Module], bool] = pointwise
    decoder: int = 0
    sealed: bool = False
    detector: Callable[[int], nn.Module] | None = None

    def fed(self, preprocessing: Preprocessing) -> ChainedBackbone:
        """The same encoder behind another preprocessing."""
        return replace(self, preprocessing=preprocessing)

    @property
    def sensor(self) -> nn.Module:
        """The encoder itself where its features are pooled."""
        return self.module if self.sense is None else self.sense(self.module.network)

    def split(self, cut: int) -> tuple[nn.Sequential, nn.Sequential]:
        """(prefix, suffix), the prefix with the first `cut` blocks. Raises ValueError where there are fewer."""
        blocks = self.module.blocks()
        if not 0 <= cut <= len(blocks):
            raise ValueError(f"The backbone has {len(blocks)} blocks; it can't be cut after {cut}.")
        slices = self.preprocessing.slices
        if slices == 1 or self.module.volumes:
            return nn.Sequential(*blocks[:cut]), nn.Sequential(*blocks[cut:])
        if cut == len(blocks):
            return Whole(*blocks), nn.Sequential()
        return Prefix(*blocks[:cut]), Suffix(slices, *blocks[cut:])

    @property
    def depth(self) -> int:
        return len(self.module.blocks())

    def adaptable(self, cut: int = 0) -> list[str]:
        """Names, within `module`, of the layers after `cut` blocks that are `adapted`."""
        return [name for name, layer in self.after(cut) if self.adapted(layer)]

    def after(self, cut: int) -> list[tuple[str, nn.Module]]:
        """The network's own modules after `cut` blocks, with their names within `module`."""
        after = {layer for block in self.module.blocks()[cut:] for layer in block.modules()}
        own = self.module.network.named_modules(prefix="network")
        return [(name, layer) for name, layer in own if layer in after]

    def save(self, folder: Path) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.write(self.module.network, self.preprocessing, folder)


def unchanged(classes: int, *, dense: bool) -> nn.Module:
    """A head, [b, k] or [b, k, h, w] to the same."""
    head = nn.Conv2d(classes, classes, 1) if dense else nn.Linear(classes, classes)
    with torch.no_grad():
        weight = torch.eye(classes)
        head.weight.copy_(weight[..., None, None] if dense else weight)
        head.bias.zero_()  # type: ignore[union-attr]
    return head


def width_of(module: Encoder, size: int) -> int:
    """d, found by one forward pass of zeros."""
    training = module.training
    with torch.inference_mode():
        width = module.eval()(torch.zeros(1, 3, size, size)).shape[1]
    module.train(training)
    return int(width)
