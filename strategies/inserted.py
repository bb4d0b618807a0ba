"""Small modules that run on what a block of an encoder puts out: [b, c, h, w] of convolutions, [b, t, d] of tokens.

They are no part of the ecosystem's network and can't be merged into it. In a file their tensors are named by block and
kind, as in "7.bottleneck.down": what a file holds says what is to be built.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from strategies.protocols import Backbone


class Bottleneck(nn.Module):
    """y + up(relu(down(norm(y)) + bias)) per token or pixel (Houlsby and others 2019; Rebuffi and others 2017).

    down [r, d], bias [r], up [d, r]; `norm` is to mean 0 and variance 1 over the channels, without weights. up begins
    at zero, so a fresh one changes nothing.
    """

    def __init__(self, down: torch.Tensor, bias: torch.Tensor, up: torch.Tensor) -> None:
        super().__init__()
        self.down, self.bias, self.up = nn.Parameter(down), nn.Parameter(bias), nn.Parameter(up)

    @classmethod
    def fresh(cls, width: int, size: int) -> Bottleneck:
        """A new one for outputs of `width` channels, through `size` of them."""
        down = nn.init.kaiming_uniform_(torch.empty(size, width), nonlinearity="relu")
        return cls(down, torch.zeros(size), torch.zeros(width, size))

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        tokens = y.movedim(1, -1) if y.ndim == 4 else y  # pixels as tokens: a view where they lie channels last
        hidden = functional.linear(functional.layer_norm(tokens, tokens.shape[-1:]), self.down, self.bias)
        added = functional.linear(functional.relu(hidden), self.up)
        return y + (added.movedim(-1, 1) if y.ndim == 4 else added)


class Prefix(nn.Module):
    """y + softmax(norm(y) keys / sqrt(d)) values: p learnt tokens that every token attends to.

    Prefix tuning (Li and Liang 2021) in the form of He and others 2022 (equation 7), with attention of its own as in
    LLaMA-Adapter (Zhang and others 2023). keys, values [p, d]; values begin at zero, so a fresh one changes nothing.
    """

    def __init__(self, keys: torch.Tensor, values: torch.Tensor) -> None:
        super().__init__()
        self.keys, self.values = nn.Parameter(keys), nn.Parameter(values)

    @classmethod
    def fresh(cls, width: int, size: int) -> Prefix:
        """`size` new tokens of `width` features."""
        return cls(torch.randn(size, width), torch.zeros(size, width))

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        asked = functional.linear(functional.layer_norm(y, y.shape[-1:]), self.keys) / y.shape[-1] ** 0.5
        return y + torch.softmax(asked, dim=-1) @ self.values


class Prompt(nn.Module):
    """y + dense, [c, h, w]: beside what stands for no prompt, what a mask given as a prompt would be encoded to."""

    def __init__(self, dense: torch.Tensor) -> None:
        super().__init__()
        self.dense = nn.Parameter(dense)

    def forward(self, y: torch.Tensor) -> torch.Tensor:
        return y + self.dense


KINDS: dict[str, Callable[..., nn.Module]] = {"bottleneck": Bottleneck, "prefix": Prefix, "prompt": Prompt}


def insert(encoder: Any, tensors: Mapping[str, torch.Tensor], part: str = "inserted.safetensors") -> None:
    """Builds the modules that `tensors`, of that `part`, are of into the Encoder. A prompt takes the place of another.

    Raises ValueError where it has no place for them.
    """
    found: dict[tuple[str, str], dict[str, torch.Tensor]] = {}
    for name, tensor in sorted(tensors.items()):
        block, _, rest = name.partition(".")
        kind, _, own = rest.partition(".")
        if kind not in KINDS or not block.isdecimal() or int(block) >= len(encoder.blocks()):
            raise ValueError(f"The part {part} has the odd tensor {name!r}: it belongs to another model.")
        found.setdefault((block, kind), {})[own] = tensor
    for (block, kind), own_tensors in found.items():
        if kind == "prompt" and block in encoder.inserted:
            encoder.inserted[block]._modules.pop(kind, None)
        try:
            put(encoder, int(block), kind, KINDS[kind](**own_tensors))
        except TypeError as error:
            raise ValueError(f"The part {part} is not whole at block {block}: {kind}.") from error


def put(encoder: Any, block: int, kind: str, module: nn.Module) -> None:
    """Puts one module behind a block's output. Raises ValueError where one of its kind stands there already."""
    there = encoder.inserted[str(block)]._modules if str(block) in encoder.inserted else {}
    if kind in there:
        raise ValueError(f"Block {block} has a {kind} already; a recipe inserts one.")
    encoder.inserted[str(block)] = nn.Sequential(OrderedDict([*there.items(), (kind, module)]))


@torch.inference_mode()
def outputs(origin: Backbone) -> list[torch.Size]:
    """The shape of each block's output for one image: (1, c, h, w), (1, t, d) or, pooled, (1, d)."""
    shapes, passed = [], torch.zeros(1, 3, origin.preprocessing.size, origin.preprocessing.size)
    for cut in range(origin.depth):
        block = origin.split(cut + 1)[0][cut]
        passed = block.eval()(passed)
        shapes.append(passed.shape)
    return shapes
