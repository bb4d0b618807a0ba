"""timm's encoders: a local folder in timm's own form, an architecture's name, or `NAME:WEIGHTS`."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import nn

from strategies.families.backbone import ChainedBackbone, ClassToken, Encoder, width_of
from strategies.families.weights import load_exactly, read_json, read_weights
from strategies.model import head_from
from strategies.protocols import Preprocessing

# The side that names are built for where the architecture leaves a choice, as in torchvision's family.
SIZE = 128


class Step(nn.Module):
    """A function of a network that is no module there, with the modules and parameters that it uses."""

    def __init__(self, run: Callable[[torch.Tensor], torch.Tensor], *owned: nn.Module | nn.Parameter | None) -> None:
        super().__init__()
        self._run = run
        self.modules_used = nn.ModuleList(item for item in owned if isinstance(item, nn.Module))
        self.parameters_used = nn.ParameterList(item for item in owned if isinstance(item, nn.Parameter))

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self._run(images)


def _transformer(network: Any) -> list[nn.Module]:
    def embed(images: torch.Tensor) -> torch.Tensor:
        return network.norm_pre(network.patch_drop(network._pos_embed(network.patch_embed(images))))

    owned = (network.patch_embed, network.patch_drop, network.norm_pre)
    tokens = (network.cls_token, network.reg_token, network.pos_embed)
    if network.global_pool == "token" and network.attn_pool is None:
        pool: nn.Module = nn.Sequential(network.norm, ClassToken(), network.fc_norm, network.head_drop)
    else:
        pool = Step(lambda x: network.forward_head(network.norm(x), pre_logits=True), network.norm, network.fc_norm)
    return [Step(embed, *owned, *tokens), *network.blocks, pool]


def _residual(network: Any) -> list[nn.Module]:
    stem = nn.Sequential(network.conv1, network.bn1, network.act1, network.maxpool)
    stages = (network.layer1, network.layer2, network.layer3, network.layer4)
    return [stem, *(block for stage in stages for block in stage), network.global_pool]


def _whole(network: Any) -> list[nn.Module]:
    """Any other architecture of timm: its features as one block, its pooling as another."""
    return [
        Step(network.forward_features, *network.children()),
        Step(lambda x: network.forward_head(x, pre_logits=True)),
    ]


CHAINS: dict[str, Callable[[Any], list[nn.Module]]] = {"VisionTransformer": _transformer, "ResNet": _residual}


class TimmFamily:
    """`path/to/folder`, `vit_tiny_patch16_224`, `timm/vit_tiny_patch16_224`, `resnet10t:weights.safetensors`."""

    name = "timm"

    def claims(self, spec: str) -> bool:
        if Path(spec).is_dir():
            config = read_json(Path(spec) / "config.json")
            return "architecture" in config and "library" not in config
        return _is_name(_name(spec.partition(":")[0]))

    def load(self, spec: str, *, pretrained: bool = True) -> ChainedBackbone:
        """Raises ValueError where the folder or file does not hold exactly the architecture's weights."""
        import timm

        folder, (name, _, file) = Path(spec), spec.partition(":")
        if not folder.is_dir() and not file:
            return _backbone(_published(_name(name))) if pretrained else _backbone(_small(_name(name)), SIZE)
        if folder.is_dir():
            config = read_json(folder / "config.json")
            if not _is_name(str(config["architecture"])):
                raise ValueError(f"timm has no architecture {config['architecture']!r}.")
            network = timm.create_model(
                config["architecture"],
                pretrained_cfg=config.get("pretrained_cfg"),
                **config.get("model_args", {}) | {"num_classes": 0},
            )
            weights = read_weights(folder / "model.safetensors")
        else:
            network = timm.create_model(_name(name), num_classes=0)
            weights = read_weights(Path(file))
        body = {key: tensor for key, tensor in weights.items() if not key.startswith(_head_prefix(network))}
        load_exactly(network, body, f"The model {Path(file or spec).name}")
        return _backbone(network)

    def head(self, spec: str) -> nn.Module:
        """The linear classifier of a folder or weights file. Raises ValueError where there is none."""
        name, _, file = spec.partition(":")
        folder = Path(spec)
        architecture = read_json(folder / "config.json")["architecture"] if folder.is_dir() else _name(name)
        weights = read_weights(folder / "model.safetensors" if folder.is_dir() else Path(file))
        prefix = _head_prefix(_small(str(architecture)))
        head = {key.removeprefix(prefix): tensor for key, tensor in weights.items() if key.startswith(prefix)}
        if not head:
            raise ValueError(f"{Path(file or spec).name} holds an encoder without a head.")
        return head_from(["linear"], head)


def _backbone(network: Any, size: int | None = None) -> ChainedBackbone:
    """`size` is the images' side where neither the architecture nor what came with the weights fixes it."""
    config = network.pretrained_cfg
    fixed = getattr(getattr(network, "patch_embed", None), "img_size", None)
    size = fixed[0] if fixed else size or config["input_size"][-1]
    preprocessing = Preprocessing(size=size, mean=tuple(config["mean"]), std=tuple(config["std"]))
    module = Encoder(network, CHAINS.get(type(network).__name__, _whole))
    return ChainedBackbone(module, width_of(module, size), preprocessing, _write)


def _write(network: Any, preprocessing: Preprocessing, folder: Path) -> None:
    from timm.models import save_for_hf

    shape = (3, preprocessing.size, preprocessing.size)
    data = {"input_size": shape, "mean": preprocessing.mean, "std": preprocessing.std}
    save_for_hf(network, str(folder), data_config=data, safe_serialization=True)


def _small(name: str) -> Any:
    """The architecture with random weights, for images of SIZE pixels where it is built for one size."""
    import timm

    try:
        return timm.create_model(name, num_classes=0, img_size=SIZE)
    except TypeError:  # convolutional networks take any size and no such argument
        return timm.create_model(name, num_classes=0)


def _published(name: str) -> Any:
    import timm

    return timm.create_model(name, pretrained=True, num_classes=0)


def _name(spec: str) -> str:
    return spec.removeprefix("timm/")


def _is_name(name: str) -> bool:
    import timm

    return timm.is_model(name.partition(".")[0])


def _head_prefix(network: Any) -> str:
    return f"{network.pretrained_cfg.get('classifier', 'head')}."
