"""torchvision's classifiers: by architecture name, by `NAME:WEIGHTS`, by a weights file, or by a folder of ours.

torchvision has no folder form of its own, so ours is the plainest one: its state dict as `model.safetensors` and a
`config.json` that names the architecture.
"""

from __future__ import annotations

import json
import re
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models

from strategies.families.backbone import Chain, ChainedBackbone, Encoder, width_of
from strategies.families.weights import load_exactly, read_json, read_weights
from strategies.model import head_from
from strategies.preprocessing import IMAGENET_MEAN, IMAGENET_STD, from_record, to_record
from strategies.protocols import Preprocessing

# Images of one structure each keep their class at this side (white cells: recall 0.97 where 96 gave 0.93), and cost a
# third of what 224 does.
SIZE = 128


@dataclass(frozen=True)
class Layout:
    """How the classes of one architecture run: the chain of blocks, and the name of the head behind them."""

    chain: Chain
    head: str


def _features(network: nn.Module) -> list[nn.Module]:
    return [*network.features, nn.AdaptiveAvgPool2d(1), nn.Flatten()]  # type: ignore[misc]


def _dense(network: nn.Module) -> list[nn.Module]:
    return [*network.features, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]  # type: ignore[misc]


def _residual(network: nn.Module) -> list[nn.Module]:
    stem = nn.Sequential(network.conv1, network.bn1, network.relu, network.maxpool)  # type: ignore[arg-type]
    stages = (network.layer1, network.layer2, network.layer3, network.layer4)
    return [stem, *(block for stage in stages for block in stage), network.avgpool, nn.Flatten()]  # type: ignore


LAYOUTS: dict[type[nn.Module], Layout] = {
    models.MobileNetV2: Layout(_features, "classifier"),
    models.MobileNetV3: Layout(_features, "classifier"),
    models.EfficientNet: Layout(_features, "classifier"),
    models.DenseNet: Layout(_dense, "classifier"),
    models.ResNet: Layout(_residual, "fc"),
}


class TorchvisionFamily:
    """`mobilenet_v3_small`, `resnet18:weights.npz`, `weights.safetensors`, or a folder that `save` wrote."""

    name = "torchvision"

    def claims(self, spec: str) -> bool:
        path = Path(spec)
        if path.is_dir():
            return read_json(path / "config.json").get("library") == self.name
        name, _, weights = spec.partition(":")
        return name in _names() or (not weights and path.suffix in (".npz", ".safetensors"))

    def load(self, spec: str, *, pretrained: bool = True) -> ChainedBackbone:
        """Raises ValueError where the file or folder does not hold the weights of one of the known architectures."""
        path = Path(spec)
        if path.is_dir():
            config = read_json(path / "config.json")
            network = _encoder_of(_build(str(config["architecture"])))
            load_exactly(network, read_weights(path / "model.safetensors"), f"The base {path.name}")
            return _backbone(str(config["architecture"]), network, from_record(config["preprocessing"]))
        name, _, weights = spec.partition(":")
        if name in _names() and not weights:
            network = _encoder_of(_build(name, weights="DEFAULT" if pretrained else None))
        else:
            file = Path(weights or spec)
            tensors = read_weights(file)
            name = name if weights else _architecture(file, tensors)
            network = _encoder_of(_build(name))
            head = _layout(network).head
            body = {key: tensor for key, tensor in tensors.items() if not key.startswith(f"{head}.")}
            load_exactly(network, body, f"The weights file {file.name}")
        return _backbone(name, network, Preprocessing(size=SIZE, mean=IMAGENET_MEAN, std=IMAGENET_STD))

    def head(self, spec: str) -> nn.Module:
        """The head that a weights file came with: its linear layers, with Hardswish between where there are two."""
        if spec in _names():
            raise ValueError(f"{spec} is a name and has no trained head: name its weights too, {spec}:FILE.")
        file = Path(spec.partition(":")[2] or spec)
        found: dict[str, dict[str, torch.Tensor]] = {}
        for key, tensor in sorted(read_weights(file).items()):
            owner, _, kind = key.rpartition(".")
            if owner.split(".")[0] in {layout.head for layout in LAYOUTS.values()}:
                found.setdefault(owner, {})[kind] = tensor
        if not found:
            raise ValueError(f"{file.name} holds an encoder without a head.")
        layers = [layer for _ in found for layer in ("linear", "hardswish")][:-1]
        linear = {f"{2 * i}.{kind}": tensor for i, owner in enumerate(found.values()) for kind, tensor in owner.items()}
        alone = {kind: tensor for owner in found.values() for kind, tensor in owner.items()}
        return head_from(layers, linear if len(found) > 1 else alone)


def _backbone(name: str, network: nn.Module, preprocessing: Preprocessing) -> ChainedBackbone:
    def write(network: nn.Module, preprocessing: Preprocessing, folder: Path) -> None:
        record = {"library": "torchvision", "architecture": name, "preprocessing": to_record(preprocessing)}
        (folder / "config.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        save_file(network.state_dict(), folder / "model.safetensors")

    module = Encoder(network, _layout(network).chain)
    return ChainedBackbone(module, width_of(module, preprocessing.size), preprocessing, write)


def _names() -> list[str]:
    return models.list_models(module=models)


def _build(name: str, weights: str | None = None) -> nn.Module:
    if name not in _names():
        raise ValueError(f"torchvision has no architecture {name!r}.")
    network = models.get_model(name, weights=weights)
    for layer in network.modules():
        if isinstance(layer, nn.BatchNorm2d):
            # MobileNetV3's 0.01 leaves the running statistics far behind the weights after a few hundred steps.
            layer.momentum = 0.1
    return network


def _layout(network: nn.Module) -> Layout:
    try:
        return LAYOUTS[type(network)]
    except KeyError:
        known = ", ".join(kind.__name__ for kind in LAYOUTS)
        raise ValueError(f"{type(network).__name__} can't be taken apart into blocks; these can: {known}.") from None


def _encoder_of(network: nn.Module) -> nn.Module:
    setattr(network, _layout(network).head, nn.Identity())
    return network


def _architecture(file: Path, tensors: dict[str, torch.Tensor]) -> str:
    """The architecture whose tensors, but for the head's, have these names and shapes; the file's name is a hint."""
    stem, modules = _letters(file.stem), {kind.__module__ for kind in LAYOUTS}
    names = [name for name in _names() if models.get_model_builder(name).__module__ in modules]
    for name in sorted(names, key=lambda name: -len(name) if _letters(name) in stem else 0):
        with torch.device("meta"):
            network = models.get_model(name, weights=None)
        wanted = {key: tensor.shape for key, tensor in _encoder_of(network).state_dict().items()}
        if all(key in tensors and tensors[key].shape == shape for key, shape in wanted.items()):
            return name
    raise ValueError(f"The weights file {file.name} fits no known architecture of torchvision; write NAME:{file.name}.")


def _letters(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())
