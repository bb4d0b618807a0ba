"""torchvision's RetinaNet over a ResNet: `retinanet_resnet50_fpn[_v2]`, by name, by `NAME:WEIGHTS`, by a weights file,
or a folder of ours; and a small one for machines without an accelerator.

The towers of its two heads are the encoder's last layers here, because they are as large as the pyramid; what is
called the head are the two convolutions behind them. Images are resized whole to a square, as everywhere here;
torchvision keeps their shape.
"""

from __future__ import annotations

import copy
import json
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any
from urllib.error import URLError

import torch
from safetensors.torch import save_file
from torch import nn
from torchvision import models
from torchvision.models.detection import RetinaNet
from torchvision.models.detection.anchor_utils import AnchorGenerator
from torchvision.models.detection.backbone_utils import BackboneWithFPN
from torchvision.models.detection.retinanet import RetinaNetHead
from torchvision.ops import FrozenBatchNorm2d
from torchvision.ops.feature_pyramid_network import LastLevelP6P7

from strategies.detectors import STRIDE, Anchored, cells_of
from strategies.families.backbone import ChainedBackbone, Encoder, Pooled, ungrouped
from strategies.families.columns import Columns
from strategies.families.weights import load_exactly, read_json, read_weights, tensor_names
from strategies.preprocessing import IMAGENET_MEAN, IMAGENET_STD, from_record, to_record
from strategies.protocols import Preprocessing

SIZE = 800  # the shorter side that torchvision feeds
LEVELS, ANCHORS, COARSEST = 5, 9, 32
SCORES = "head.classification_head.cls_logits."


@dataclass(frozen=True)
class Design:
    """What differs between RetinaNets: the ResNet; channels of the pyramid; whether the towers have group norms;
    whether the sixth level is read from the ResNet's maps, and not from the pyramid's; whether the ResNet's batch norms
    are constants; and the side of the smallest anchor, in pixels."""

    backbone: str
    channels: int = 256
    grouped: bool = False
    deep: bool = False
    constant: bool = False
    smallest: int = 32


DESIGNS = {
    "retinanet_resnet50_fpn": Design("resnet50"),
    "retinanet_resnet50_fpn_v2": Design("resnet50", grouped=True, deep=True),
    # torchvision has none as small: cells are a few dozen pixels wide where images are 256, and 64 channels take a
    # sixteenth of the time.
    "retinanet_resnet18_fpn": Design("resnet18", channels=64, grouped=True, deep=True, smallest=16),
}


class RetinanetFamily:
    """`retinanet_resnet50_fpn_v2`, `retinanet_resnet50_fpn:weights.safetensors`, a weights file, or a folder of ours.

    Anchors are no weights: a file's are torchvision's. Output 0 is the background there, for which no box is trained;
    here it is left out, so that a file of k + 1 outputs has k classes.
    """

    name = "retinanet"

    def claims(self, spec: str) -> bool:
        path = Path(spec)
        if path.is_dir():
            return read_json(path / "config.json").get("library") == self.name
        return spec.partition(":")[0] in DESIGNS or (path.is_file() and f"{SCORES}weight" in tensor_names(path))

    def load(self, spec: str, *, pretrained: bool = True) -> ChainedBackbone:
        """Raises ValueError for other tensors than such a network's."""
        path = Path(spec)
        if path.is_dir():
            config = read_json(path / "config.json")
            try:
                design = Design(**config["architecture"])
                network = _headless(_built(design, 1))
            except (KeyError, TypeError, ValueError) as error:
                raise ValueError(f"The config.json of {path.name} tells no RetinaNet: {error}.") from error
            load_exactly(network, read_weights(path / "model.safetensors"), f"The base {path.name}")
            return _backbone(design, network, from_record(config["preprocessing"]))
        if spec in DESIGNS and not pretrained:
            design, network = DESIGNS[spec], _built(DESIGNS[spec], 1)
        else:
            design, network = _published(spec)
        _, deltas = _last(network)
        preprocessing = Preprocessing(size=SIZE, mean=IMAGENET_MEAN, std=IMAGENET_STD)
        return _backbone(design, _headless(network), preprocessing, deltas)

    def head(self, spec: str) -> nn.Module:
        """The last convolutions of a weights file, without the background. Raises ValueError for a folder."""
        if Path(spec).is_dir():
            raise ValueError(f"{Path(spec).name} holds a RetinaNet without its last layers; `fit` trains new ones.")
        design, network = _published(spec)
        scores, deltas = _last(network)
        outputs = scores.out_channels // ANCHORS
        if outputs < 2:
            raise ValueError(f"{Path(spec).name} has one output, torchvision's background, and so no class.")
        kept = nn.Conv2d(scores.in_channels, ANCHORS * (outputs - 1), 3, padding=1)
        weights = {name: tensor.unflatten(0, (ANCHORS, -1))[:, 1:] for name, tensor in scores.state_dict().items()}
        kept.load_state_dict({name: tensor.flatten(0, 1) for name, tensor in weights.items()})
        return Anchored(kept, deltas, cells_of(design.smallest, LEVELS))


class Pyramid(nn.Module):
    """The third level of the ResNet, [b, c, h, h] -> what the towers make of all levels of the pyramid, one after the
    other, [b, 2 d, n, 1]."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        body = network.backbone.body
        self.fourth, self.fifth, self.fpn = body.layer3, body.layer4, network.backbone.fpn
        self.towers = nn.ModuleList([network.head.classification_head.conv, network.head.regression_head.conv])

    def forward(self, maps: torch.Tensor) -> torch.Tensor:
        if maps.shape[-1] % (COARSEST // STRIDE):
            raise ValueError(f"The images of a RetinaNet have a side that is a multiple of {COARSEST} pixels.")
        fourth = self.fourth(maps)
        levels = self.fpn(OrderedDict(c3=maps, c4=fourth, c5=self.fifth(fourth)))
        seen = [torch.cat([tower(level) for tower in self.towers], dim=1) for level in levels.values()]
        return torch.cat([level.flatten(2) for level in seen], dim=2).unsqueeze(-1)


def _first(network: Any) -> list[nn.Module]:
    body = network.backbone.body
    return [nn.Sequential(body.conv1, body.bn1, body.relu, body.maxpool), *body.layer1, *body.layer2]


def _chain(network: nn.Module) -> list[nn.Module]:
    return [*_first(network), Pyramid(network)]


def _sensed(network: Any, images: torch.Tensor) -> torch.Tensor:
    """The ResNet's maps of three sizes, side by side, as `columns` has them."""
    body = network.backbone.body
    return nn.Sequential(*_first(network), Columns([body.layer3, body.layer4], [0, 1]))(images)


def _backbone(
    design: Design, network: nn.Module, preprocessing: Preprocessing, deltas: nn.Conv2d | None = None
) -> ChainedBackbone:
    """A fresh head keeps the `deltas` that came along: where a thing lies does not hang on its class."""

    def write(network: nn.Module, preprocessing: Preprocessing, folder: Path) -> None:
        record = {
            "library": "retinanet",
            "architecture": asdict(design),
            "preprocessing": to_record(preprocessing),
        }
        (folder / "config.json").write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")
        save_file(network.state_dict(), folder / "model.safetensors")

    def fresh(classes: int) -> nn.Module:
        head = RetinaNetHead(design.channels, ANCHORS, classes)
        moved = head.regression_head.bbox_reg if deltas is None else copy.deepcopy(deltas)
        return Anchored(head.classification_head.cls_logits, moved, cells_of(design.smallest, LEVELS))

    return ChainedBackbone(
        Encoder(network, _chain),
        2 * design.channels,
        preprocessing,
        write,
        STRIDE,
        lambda network: Pooled(network, _sensed),
        ungrouped,
        detector=fresh,
    )


def _built(design: Design, outputs: int) -> RetinaNet:
    """By torchvision's own classes, with random weights. Raises ValueError for a backbone that it has not."""
    if design.backbone not in _resnets():
        raise ValueError(f"torchvision has no ResNet {design.backbone!r}")
    # Weights with constant batch norms were published when those had no epsilon, and torchvision serves them so.
    norm = partial(FrozenBatchNorm2d, eps=0.0) if design.constant else nn.BatchNorm2d
    resnet = models.get_model(design.backbone, weights=None, norm_layer=norm)
    wide = [resnet.inplanes // 4, resnet.inplanes // 2, resnet.inplanes]
    beyond = LastLevelP6P7(wide[-1] if design.deep else design.channels, design.channels)
    returned = {"layer2": "0", "layer3": "1", "layer4": "2"}
    backbone = BackboneWithFPN(resnet, returned, wide, design.channels, beyond)
    grouped = partial(nn.GroupNorm, 32) if design.grouped else None
    head = RetinaNetHead(design.channels, ANCHORS, outputs, norm_layer=grouped)
    # Not served: `Anchored` has the anchors. torchvision only checks that there are as many of them.
    anchors = AnchorGenerator(((32, 40, 50),) * LEVELS, ((0.5, 1.0, 2.0),) * LEVELS)
    return RetinaNet(backbone, outputs, head=head, anchor_generator=anchors)


def _published(spec: str) -> tuple[Design, RetinaNet]:
    """The whole network of a weights file, or of a name of torchvision's that the machine may fetch."""
    name, _, file = spec.partition(":")
    if name in DESIGNS and not file:
        weights, what = _fetched(name), f"The published {name}"
    else:
        path = Path(file or spec)
        weights, what = read_weights(path), f"The weights file {path.name}"
    weights = _today(weights)
    design = _design_of(weights, what)
    if name in DESIGNS:
        design = replace(design, smallest=DESIGNS[name].smallest)
    network = _built(design, weights[f"{SCORES}weight"].shape[0] // ANCHORS)
    load_exactly(network, weights, what)
    return design, network


def _fetched(name: str) -> Mapping[str, torch.Tensor]:
    try:
        return models.get_model_weights(name).DEFAULT.get_state_dict(progress=False, check_hash=True)
    except (ValueError, URLError) as error:
        raise ValueError(f"The published weights of {name} can't be had: name {name}:FILE instead.") from error


def _design_of(weights: Mapping[str, torch.Tensor], what: str) -> Design:
    """Of a whole RetinaNet's tensors: the ResNet whose names and shapes they have, and the rest."""
    body = {n.removeprefix("backbone.body."): t.shape for n, t in weights.items() if n.startswith("backbone.body.")}
    constant = not any(name.endswith("num_batches_tracked") for name in body)
    sixth, scores = (weights.get(name) for name in ("backbone.fpn.extra_blocks.p6.weight", f"{SCORES}weight"))
    unfit = ValueError(f"{what} is no RetinaNet of torchvision over one of its ResNets.")
    if sixth is None or scores is None:
        raise unfit
    for name in _resnets():
        with torch.device("meta"):
            norm = FrozenBatchNorm2d if constant else nn.BatchNorm2d
            network = models.get_model(name, weights=None, norm_layer=norm)
        if body == {n: t.shape for n, t in network.state_dict().items() if n[:3] != "fc."}:
            return Design(
                name,
                scores.shape[1],
                grouped="head.classification_head.conv.0.1.weight" in weights,
                deep=sixth.shape[1] == network.inplanes,
                constant=constant,
            )
    raise unfit


def _today(weights: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """By the names that torchvision gives the layers of pyramid and towers today; older files leave out a number."""

    names = {}
    for name in weights:
        parts = name.split(".")
        names[name] = name
        if len(parts) == 5 and parts[2] in ("inner_blocks", "layer_blocks"):
            names[name] = ".".join([*parts[:4], "0", parts[4]])
        elif len(parts) == 5 and parts[0] == "head" and parts[2] == "conv":  # the ReLUs between were counted
            names[name] = ".".join([*parts[:3], str(int(parts[3]) // 2), "0", parts[4]])
    return {names[name]: tensor for name, tensor in weights.items()}


def _last(network: Any) -> tuple[nn.Conv2d, nn.Conv2d]:
    return network.head.classification_head.cls_logits, network.head.regression_head.bbox_reg


def _headless(network: Any) -> nn.Module:
    network.head.classification_head.cls_logits = network.head.regression_head.bbox_reg = nn.Identity()
    return network


def _resnets() -> list[str]:
    names = models.list_models(module=models)
    return [name for name in names if models.get_model_builder(name).__module__ == models.resnet.__name__]
