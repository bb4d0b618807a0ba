"""The W-Net of Galdran and others 2020 for retinal vessels: two small U-Nets in series, by file or folder.

The second sees the image beside what the first says of it. What its last convolution reads are the features of every
pixel here, and that convolution is the head: the vessel's logit beside 0 for the background, whose softmax is its
sigmoid.
"""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from strategies.families.backbone import ChainedBackbone, Encoder, Pooled, ungrouped
from strategies.families.weights import load_exactly, read_json, read_weights, tensor_names
from strategies.preprocessing import from_record, to_record
from strategies.protocols import Preprocessing

SIZE = 512
CHANNELS = (8, 16, 32)
FIRST, HEAD = "unet1.first.block.0.weight", "unet2.final."


class LwnetFamily:
    """`lwnet_wnet_drive.npz`, or a folder of config.json and model.safetensors."""

    name = "lwnet"

    def claims(self, spec: str) -> bool:
        path = Path(spec)
        if path.is_dir():
            return read_json(path / "config.json").get("library") == self.name
        return path.is_file() and FIRST in tensor_names(path)

    def load(self, spec: str, *, pretrained: bool = True) -> ChainedBackbone:
        """Raises ValueError for other tensors than the network's."""
        path, network = Path(spec), WNet()
        preprocessing = Preprocessing(size=SIZE, mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0))
        if path.is_dir():
            preprocessing = from_record(read_json(path / "config.json").get("preprocessing", to_record(preprocessing)))
            load_exactly(network, read_weights(path / "model.safetensors"), f"The model {path.name}")
        else:
            body = {name: tensor for name, tensor in read_weights(path).items() if not name.startswith(HEAD)}
            load_exactly(network, body, f"The weights file {path.name}")
        module = Encoder(network, lambda network: [network.unet1, network.unet2])  # type: ignore[list-item]
        return ChainedBackbone(module, CHANNELS[0], preprocessing, _write, 1, _sensor, ungrouped)

    def head(self, spec: str) -> nn.Module:
        """A 1x1 convolution to background and vessel. Raises ValueError where the file has none."""
        path = Path(spec)
        weights = {} if path.is_dir() else read_weights(path)
        if not {f"{HEAD}weight", f"{HEAD}bias"} <= weights.keys():
            raise ValueError(f"{path.name} holds a W-Net without its last layer.")
        head = nn.Conv2d(CHANNELS[0], 2, 1)
        with torch.no_grad():
            for own, name in ((head.weight, "weight"), (head.bias, "bias")):
                own.zero_()  # type: ignore[union-attr]
                own[1:] = weights[HEAD + name]  # type: ignore[index]
        return head


# ReLU, and not the leaky one of other versions of the authors' code: the published statistics hold channels of variance
# 0, which were 0 throughout.
def _convolved(before: int, after: int) -> list[nn.Module]:
    return [nn.Conv2d(before, after, 3, padding=1), nn.ReLU(), nn.BatchNorm2d(after)]


class Residual(nn.Module):
    """[b, before, h, w] -> [b, after, h, w]: two convolutions beside one of a pixel."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.shortcut = nn.Sequential(nn.Conv2d(before, after, 1, bias=False), nn.BatchNorm2d(after))
        self.block = nn.Sequential(*_convolved(before, after), *_convolved(after, after))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x) + self.shortcut(x)


class Layers(nn.Module):
    """Some layers by the name `block`, as the authors have them."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.block = nn.Sequential(*layers)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x)


class Up(nn.Module):
    """Twice as large, beside the skip connection, which is convolved on its way."""

    def __init__(self, before: int, after: int) -> None:
        super().__init__()
        self.up_layer = Layers(nn.ConvTranspose2d(before, after, 2, stride=2))
        self.conv_layer = Residual(2 * after, after)
        self.conv_bridge_layer = Layers(*_convolved(after, after))

    def forward(self, x: torch.Tensor, skip: torch.Tensor) -> torch.Tensor:
        return self.conv_layer(torch.cat([self.up_layer(x), self.conv_bridge_layer(skip)], dim=1))


class UNet(nn.Module):
    """[b, channels, h, w] -> the features of every pixel [b, 8, h, w]; h and w are multiples of 4."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        steps = list(pairwise(CHANNELS))
        self.first = Residual(channels, CHANNELS[0])
        self.down_path = nn.ModuleList(Residual(*step) for step in steps)
        self.up_path = nn.ModuleList(Up(after, before) for before, after in reversed(steps))

    def down(self, x: torch.Tensor) -> list[torch.Tensor]:
        """The levels, the deepest last."""
        levels = [self.first(x)]
        for step in self.down_path:
            levels.append(step(nn.functional.max_pool2d(levels[-1], 2)))
        return levels

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        *skips, x = self.down(x)
        for step, skip in zip(self.up_path, reversed(skips), strict=True):
            x = step(x, skip)
        return x


class Said(UNet):
    """The image [b, 3, h, w] with what the network says of it as a fourth channel."""

    def __init__(self) -> None:
        super().__init__(3)
        self.final = nn.Conv2d(CHANNELS[0], 1, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return torch.cat([x, self.final(super().forward(x))], dim=1)


class WNet(nn.Module):
    """Both, by the authors' names."""

    def __init__(self) -> None:
        super().__init__()
        self.unet1, self.unet2 = Said(), UNet(4)


def _sensor(network: nn.Module) -> nn.Module:
    return Pooled(network, _deepest)


def _deepest(network: Any, images: torch.Tensor) -> torch.Tensor:
    return network.unet2.down(network.unet1(images))[-1]


def _write(network: nn.Module, preprocessing: Preprocessing, folder: Path) -> None:
    record = {"library": "lwnet", "architecture": "wnet", "preprocessing": to_record(preprocessing)}
    (folder / "config.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
    save_file(network.state_dict(), folder / "model.safetensors")
