"""MONAI's segmentation networks: `monai:NAME`, or a folder as `save` writes it. Those of volumes end in 3d.

The network's own last layer gives the features of every pixel, and the head behind it is a 1x1 convolution of ours: so
any number of classes reads the same network. Importing MONAI takes seconds, so it is imported where it is used.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from strategies.families.backbone import ChainedBackbone, Deepest, Encoder, Pooled, unchanged, ungrouped
from strategies.families.weights import load_exactly, read_json, read_weights
from strategies.preprocessing import IMAGENET_MEAN, IMAGENET_STD, from_record, to_record
from strategies.protocols import Preprocessing
from strategies.slices import Volume

SIZE = 128  # nuclei and white cells are outlined as well as at 192, for less than half the time
WIDTH = 16  # features of every pixel


def _unet(network: Any, images: torch.Tensor) -> torch.Tensor:
    """The bottom of the U: its skip connections stand one within the other."""
    level = network.model
    while isinstance(level, nn.Sequential) and hasattr(level[1], "submodule"):  # without residual units all are chains
        images, level = level[0](images), level[1].submodule
    return level(images)


def _segresnet(network: Any, images: torch.Tensor) -> torch.Tensor:
    return network.encode(images)[0]


def _swin_unetr(network: Any, images: torch.Tensor) -> torch.Tensor:
    return network.swinViT(images, network.normalize)[-1]


def _of_volume(deepest: Deepest, network: Any, tall: torch.Tensor) -> torch.Tensor:
    """[b, 3, n s, s] -> the deepest layer's volume, tall again."""
    return Volume(partial(deepest, network))(tall)


@dataclass(frozen=True)
class Design:
    """A class of MONAI by its name, its deepest layer, what it is built with unless a folder says otherwise, and
    whether it reads images or volumes: 2 or 3 dimensions."""

    network: str
    deepest: Deepest
    arguments: Mapping[str, Any] = field(default_factory=dict)
    dimensions: int = 2


# Batch norms, where the design leaves a choice: their statistics are files, which an alignment can measure again at
# another site, and they cost nothing more at serving.
UNET = {"channels": [16, 32, 64, 128], "strides": [2, 2, 2], "num_res_units": 2, "norm": "batch"}
SEGRESNET = {"init_filters": 16, "norm": "batch"}
DESIGNS = {
    "unet": Design("UNet", _unet, UNET),
    "segresnet": Design("SegResNet", _segresnet, SEGRESNET),
    "swin_unetr": Design("SwinUNETR", _swin_unetr, {"feature_size": 24, "norm_name": "batch"}),
    "unet3d": Design("UNet", _unet, UNET, dimensions=3),
    "segresnet3d": Design("SegResNet", _segresnet, SEGRESNET, dimensions=3),
}
CHANNELS = (1, 3)


class MonaiFamily:
    """`monai:unet`, `monai:segresnet`, `monai:swin_unetr`, `monai:unet3d`, `monai:segresnet3d`, or a folder of
    config.json and model.safetensors."""

    name = "monai"

    def claims(self, spec: str) -> bool:
        if Path(spec).is_dir():
            return read_json(Path(spec) / "config.json").get("library") == self.name
        return spec.startswith("monai:")

    def load(self, spec: str, *, pretrained: bool = True) -> ChainedBackbone:
        """A name gives random weights. Raises ValueError for an unknown design, other arguments or other tensors."""
        folder = Path(spec)
        if not folder.is_dir():
            name = spec.removeprefix("monai:")
            arguments = {"in_channels": 3, "out_channels": WIDTH, **_design(name).arguments}
            return backbone_of(name, arguments, built(name, arguments), _usual())
        name, arguments, preprocessing = _config(folder)
        network = built(name, arguments)
        load_exactly(network, read_weights(folder / "model.safetensors"), f"The model {folder.name}")
        return backbone_of(name, arguments, network, preprocessing)

    def head(self, spec: str) -> nn.Module:
        """A folder's network gives logits: its head is a 1x1 convolution that changes nothing. Raises ValueError for a
        name, which has random weights."""
        if not Path(spec).is_dir():
            raise ValueError(f"{spec} is a name and has no trained head; `fit` trains one.")
        return unchanged(int(_config(Path(spec))[1]["out_channels"]), dense=True)


def _design(name: str) -> Design:
    if name not in DESIGNS:
        raise ValueError(f"MONAI's {name!r} is not known here; these are: {', '.join(DESIGNS)}.")
    return DESIGNS[name]


def _config(folder: Path) -> tuple[str, dict[str, Any], Preprocessing]:
    config = read_json(folder / "config.json")
    missing = {"architecture", "arguments"} - config.keys()
    if missing:
        raise ValueError(f"The config.json of {folder.name} lacks {', '.join(sorted(missing))}.")
    preprocessing = from_record(config["preprocessing"]) if "preprocessing" in config else _usual()
    architecture = str(config["architecture"])
    dimensions = _design(architecture).dimensions
    arguments = {"in_channels": 3, **config["arguments"]}
    if arguments.pop("spatial_dims", dimensions) != dimensions or arguments["in_channels"] not in CHANNELS:
        raise ValueError(
            f"The model {folder.name} is not of {'two' if dimensions == 2 else 'three'} dimensions and one or three "
            "channels, as images are read here."
        )
    if "out_channels" not in arguments:
        raise ValueError(f"The config.json of {folder.name} lacks out_channels among its arguments.")
    return architecture, arguments, preprocessing


def built(name: str, arguments: Mapping[str, Any]) -> nn.Module:
    """The network with fresh weights. Raises ValueError for an unknown design, or arguments that it doesn't take."""
    design = _design(name)
    from monai.networks import nets

    try:
        return getattr(nets, design.network)(spatial_dims=design.dimensions, **arguments)
    except (TypeError, ValueError, KeyError, AssertionError) as error:
        raise ValueError(f"MONAI builds no {name} with these arguments: {error}.") from error


class Grey(nn.Module):
    """[b, 3, h, w] -> [b, 1, h, w]: the mean of the channels."""

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return images.mean(dim=1, keepdim=True)


def backbone_of(
    name: str, arguments: Mapping[str, Any], network: nn.Module, preprocessing: Preprocessing
) -> ChainedBackbone:
    """Dense features of a network that `built` made of the same arguments."""
    design = _design(name)
    volumes = design.dimensions == 3
    fed: nn.Module = Grey() if arguments["in_channels"] == 1 else nn.Identity()

    def write(network: nn.Module, preprocessing: Preprocessing, folder: Path) -> None:
        record = {
            "library": "monai",
            "architecture": name,
            "arguments": {"spatial_dims": design.dimensions, **arguments},
            "preprocessing": to_record(preprocessing),
        }
        (folder / "config.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        save_file(network.state_dict(), folder / "model.safetensors")

    def sense(network: nn.Module) -> nn.Module:
        deepest = partial(_of_volume, design.deepest) if volumes else design.deepest
        return Pooled(network, lambda network, images: deepest(network, fed(images)), volumes)

    # A U-shaped network is one block: what its first layers make goes on by every skip connection.
    module = Encoder(network, lambda network: [nn.Sequential(fed, Volume(network) if volumes else network)], volumes)
    return ChainedBackbone(module, int(arguments["out_channels"]), preprocessing, write, 1, sense, ungrouped)


def _usual() -> Preprocessing:
    return Preprocessing(size=SIZE, mean=IMAGENET_MEAN, std=IMAGENET_STD)
