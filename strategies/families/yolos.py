"""YOLOS, a vision transformer whose detection tokens each answer for one thing (Fang and others 2021): a folder of
transformers, or a hub id.

Images are resized whole to a square; its own processor keeps their shape, and its positions are interpolated either
way.
"""

from __future__ import annotations

import copy
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import nn

from strategies.boxes import CORNERS
from strategies.detectors import Queried, perceptron
from strategies.families.backbone import ChainedBackbone, Encoder, Pooled
from strategies.families.transformers import first_line, preprocessing_of, write
from strategies.families.weights import read_json
from strategies.protocols import Preprocessing

HUB = ("hustvl/yolos-tiny", "hustvl/yolos-small", "hustvl/yolos-base")


class YolosFamily:
    """`path/to/folder`, `hustvl/yolos-tiny`."""

    name = "yolos"

    def claims(self, spec: str) -> bool:
        return spec in HUB or read_json(Path(spec) / "config.json").get("model_type") == self.name

    def load(self, spec: str, *, pretrained: bool = True) -> ChainedBackbone:
        """Raises ValueError where the model is not there, or its weights are not whole."""
        network, whole = _loaded(spec)
        box = None if whole is None else whole.bbox_predictor.layers
        return _backbone(network, _preprocessing(spec, network.config), box)

    def head(self, spec: str) -> nn.Module:
        """The two perceptrons of a `YolosForObjectDetection`. Raises ValueError without them."""
        _, whole = _loaded(spec)
        if whole is None:
            raise ValueError(f"{Path(spec).name} holds a YOLOS without its last layers; `fit` trains new ones.")
        return Queried(perceptron(whole.class_labels_classifier.layers), perceptron(whole.bbox_predictor.layers))


def _loaded(spec: str) -> tuple[Any, Any]:
    """The transformer, and the detector that it is of, None where it is saved alone."""
    from transformers import YolosConfig, YolosForObjectDetection, YolosModel
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()
    try:
        config = YolosConfig.from_pretrained(spec)
        alone = "YolosModel" in (config.architectures or ())
        kind: Any = YolosModel if alone else YolosForObjectDetection
        extra = {"add_pooling_layer": False} if alone else {}
        model, found = kind.from_pretrained(
            spec, config=config, use_safetensors=True, output_loading_info=True, **extra
        )
    except (OSError, SafetensorError, RuntimeError, KeyError) as error:
        raise ValueError(f"The model {Path(spec).name} can't be loaded: {first_line(error)}") from error
    if found["missing_keys"]:
        missing = sorted(found["missing_keys"])
        raise ValueError(f"The weights of {Path(spec).name} lack {missing[0]!r} and {len(missing) - 1} more tensors.")
    return (model, None) if alone else (model.vit, model)


class Middle(nn.Module):
    """A layer, and the positions that are added behind it: those of one layer of all, brought to the image's size."""

    def __init__(self, layer: nn.Module, positions: Any, number: int) -> None:
        super().__init__()
        self.layer, self.positions, self.number = layer, positions, number

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        config = self.positions.config
        side = math.isqrt(tokens.shape[1] - config.num_detection_tokens - 1) * config.patch_size
        return self.layer(tokens) + self.positions((side, side))[self.number]


class Queries(nn.Module):
    """[b, t, d] -> [b, d, n, 1], the normalised detection tokens, which stand last."""

    def __init__(self, norm: nn.Module, count: int) -> None:
        super().__init__()
        self.norm, self.count = norm, count

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        return self.norm(tokens[:, -self.count :]).transpose(1, 2).unsqueeze(-1)


def _layers(network: Any) -> list[nn.Module]:
    encoder = network.encoder
    if encoder.interpolation is None:
        return [network.embeddings, *encoder.layer]
    *layers, last = encoder.layer
    return [network.embeddings, *(Middle(one, encoder.interpolation, i) for i, one in enumerate(layers)), last]


def _chain(network: Any) -> list[nn.Module]:
    return [*_layers(network), Queries(network.layernorm, network.config.num_detection_tokens)]


def _seen(network: Any, images: torch.Tensor) -> torch.Tensor:
    """What the patches have become, [b, d, patches, 1]."""
    tokens = network.layernorm(nn.Sequential(*_layers(network))(images))
    return tokens[:, 1 : -network.config.num_detection_tokens].transpose(1, 2).unsqueeze(-1)


def _backbone(network: Any, preprocessing: Preprocessing, box: nn.ModuleList | None) -> ChainedBackbone:
    """A fresh head keeps the `box` layers that came along: where a thing lies does not hang on its class."""
    width = network.config.hidden_size

    def fresh(classes: int) -> nn.Module:
        scores, corners = (
            perceptron([nn.Linear(width, width), nn.Linear(width, width), nn.Linear(width, last)])
            for last in (classes + 1, CORNERS)
        )
        return Queried(scores, corners if box is None else copy.deepcopy(perceptron(box)))

    return ChainedBackbone(
        Encoder(network, _chain),
        width,
        preprocessing,
        write,
        network.config.patch_size,
        lambda network: Pooled(network, _seen),
        detector=fresh,
    )


def _preprocessing(place: str, config: Any) -> Preprocessing:
    """The processor's, at a side of whole patches."""
    found = preprocessing_of(place, min(config.image_size))
    return replace(found, size=found.size // config.patch_size * config.patch_size)
