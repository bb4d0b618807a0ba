"""A classifier: an encoder, a head and the classes; and the two corrections of its outputs that need no weights."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from strategies.boxes import Corners
from strategies.detectors import Anchored, Queried
from strategies.protocols import Backbone
from strategies.slices import apart, slices_in, stacked


class Head(nn.Sequential):
    """The layers of a head. Of maps that stand one below the other, [b, d, n h, h], it reads each by itself."""

    def forward(self, features: torch.Tensor) -> torch.Tensor:
        n = slices_in(features) if features.ndim == 4 else 1
        return stacked(super().forward(apart(features, n)), n)


class Classifier(nn.Module):
    """Images [b, 3, h, w] -> logits, one per class in the order of `classes`: [b, k], or [b, k, h, w] where the `task`
    is a class for every pixel; of a detection the four corners of a box beside them.

    `origin` is the Backbone that the encoder came from: its blocks, adaptable layers and preprocessing. `adapter` is
    what peft's adapter_config.json says of the adapter that was merged into the encoder, empty where none was.
    """

    def __init__(self, origin: Backbone, head: nn.Module, classes: Sequence[str], task: str = "classification") -> None:
        super().__init__()
        self.origin = origin
        self.backbone = origin.module
        self.head = head
        self.classes = tuple(classes)
        self.task = task
        self.adapter: Mapping[str, Any] = {}

    def features(self, images: torch.Tensor) -> torch.Tensor:
        """[b, 3, h, w] -> pooled features [b, d], or dense ones [b, d, h, w]."""
        return self.backbone(images)

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.head(self.features(images))


_FINER = "finer"  # and how many times, as in "finer4"

# A head is a chain of these, and of layers with weights; its record is the list of their names, and its sizes are
# those of its weights.
_PLAIN_LAYERS: dict[str, type[nn.Module]] = {
    "hardswish": nn.Hardswish,
    "relu": nn.ReLU,
    "gelu": nn.GELU,
    "tanh": nn.Tanh,
    "corners": Corners,
}

# Heads of one kind each, which build themselves from their weights.
_WHOLE: dict[str, type[Anchored] | type[Queried]] = {"anchored": Anchored, "queried": Queried}


def head_from(layers: Sequence[str], weights: dict[str, torch.Tensor]) -> nn.Module:
    """The head of `layers` ("linear", "conv", "finer4" or an activation), `weights` named "weight" or "0.weight", ...

    A single layer with weights is that layer, several are a Head; a detector's own head ("anchored", "queried") stands
    alone. Raises ValueError where the two don't fit.
    """
    if len(layers) == 1 and layers[0] in _WHOLE:
        try:
            return _WHOLE[layers[0]].of(weights)
        except (KeyError, RuntimeError) as error:
            raise ValueError(f"The weights are not those of a head that is {layers[0]}: {error}.") from error
    if len(layers) == 1 and layers[0] in _WEIGHED:
        return _weighed(layers[0], weights, "")
    return Head(
        *(_weighed(layer, weights, f"{i}.") if layer in _WEIGHED else _plain(layer) for i, layer in enumerate(layers))
    )


def head_layers(head: nn.Module) -> list[str]:
    """The record of a head that `head_from` can build again. Raises ValueError for layers that it can't."""
    names: dict[type[nn.Module], str] = {kind: name for name, kind in (_PLAIN_LAYERS | _WHOLE).items()} | {
        nn.Linear: "linear",
        nn.Conv2d: "conv",
        nn.Upsample: _FINER,
    }
    chain = list(head) if isinstance(head, nn.Sequential) else [head]
    unknown = [type(layer).__name__ for layer in chain if type(layer) not in names | {nn.Upsample: ""}]
    if unknown:
        raise ValueError(f"A head of {', '.join(unknown)} can't be stored; linear layers and activations can.")
    return [
        names[type(layer)] + (f"{layer.scale_factor:g}" if isinstance(layer, nn.Upsample) else "") for layer in chain
    ]


def head_sizes(head: nn.Module) -> tuple[int, int]:
    """How many features it takes, and for how many classes it answers."""
    if isinstance(head, Anchored | Queried):
        return head.width, head.outputs
    first, *_, last = [layer.weight for layer in head.modules() if isinstance(layer, nn.Linear | nn.Conv2d)] * 2
    return first.shape[1], last.shape[0]


def _plain(layer: str) -> nn.Module:
    """Without weights. Raises ValueError for one that is not known."""
    if layer in _PLAIN_LAYERS:
        return _PLAIN_LAYERS[layer]()
    if layer.startswith(_FINER) and layer.removeprefix(_FINER).isdecimal():
        return nn.Upsample(scale_factor=int(layer.removeprefix(_FINER)), mode="bilinear")
    raise ValueError(f"A head has no layer {layer!r}; it has linear layers, convolutions and activations.")


def _linear(weight: torch.Tensor, bias: bool) -> nn.Module:
    return nn.Linear(weight.shape[1], weight.shape[0], bias=bias)


def _conv(weight: torch.Tensor, bias: bool) -> nn.Module:
    """Of one group, and as large as what it reads."""
    return nn.Conv2d(weight.shape[1], weight.shape[0], weight.shape[2], padding="same", bias=bias)


_WEIGHED: dict[str, Callable[[torch.Tensor, bool], nn.Module]] = {"linear": _linear, "conv": _conv}


def _weighed(kind: str, weights: dict[str, torch.Tensor], prefix: str) -> nn.Module:
    try:
        weight = weights[f"{prefix}weight"]
    except KeyError:
        raise ValueError(f"The head lacks the tensor '{prefix}weight'.") from None
    layer = _WEIGHED[kind](weight, f"{prefix}bias" in weights)
    layer.load_state_dict({name: weights[prefix + name] for name in layer.state_dict()})
    return layer


@dataclass(frozen=True)
class Recalibrator:
    """probabilities = softmax(logits / temperature + bias).

    Temperature scaling (Guo and others 2017) with a bias vector: bias [k] moves the classes' priors; empty means none.
    Where classes don't exclude each other it is a sigmoid of the same.
    Dense logits are corrected alike in every pixel.
    """

    temperature: float = 1.0
    bias: tuple[float, ...] = ()

    def __call__(self, logits: torch.Tensor) -> torch.Tensor:
        """[b, k] -> probabilities float32 [b, k], or [b, k, h, w] -> [b, k, h, w]."""
        return torch.softmax(self.scaled(logits), dim=1)

    def scaled(self, logits: torch.Tensor) -> torch.Tensor:
        """logits / temperature + bias, float32: where classes don't exclude each other, a sigmoid takes these."""
        scaled = logits.float() / self.temperature
        return scaled + torch.tensor(self.bias).view(-1, *[1] * (logits.ndim - 2)) if self.bias else scaled

    def write(self, file: Path) -> None:
        record = {"temperature": self.temperature, "bias": list(self.bias)}
        file.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, file: Path, classes: int) -> Recalibrator:
        """Raises ValueError where the file holds no positive temperature or a bias that is not one number per class."""
        record = _record(file)
        temperature, bias = float(record.get("temperature", 1.0)), tuple(map(float, record.get("bias", ())))
        if not (np.isfinite(temperature) and temperature > 0) or len(bias) not in (0, classes):
            raise ValueError(f"{file.name} needs a temperature above 0 and a bias of {classes} numbers, or none.")
        return cls(temperature, bias)


@dataclass(frozen=True)
class Thresholds:
    """The class decided for is the one with the largest probability / threshold; empty means the largest probability.

    For two classes with thresholds (1 - t, t) this is "the second class where its probability is at least t".
    """

    per_class: tuple[float, ...] = ()

    def each(self, probabilities: NDArray[np.float32]) -> NDArray[np.bool_]:
        """[b, k] -> which findings are answered with yes, where they don't exclude each other: those whose probability
        reaches the threshold, a half where none is set."""
        return probabilities >= (np.array(self.per_class) if self.per_class else 0.5)

    def __call__(self, probabilities: NDArray[np.float32]) -> NDArray[np.int64]:
        """[b, k] -> the class's index, int64 [b]; of every pixel, [b, k, h, w] -> int64 [b, h, w]."""
        if not self.per_class:
            return np.argmax(probabilities, axis=1)
        return np.argmax(probabilities / np.array(self.per_class).reshape(-1, *[1] * (probabilities.ndim - 2)), axis=1)

    def write(self, file: Path) -> None:
        file.write_text(json.dumps({"per_class": list(self.per_class)}, indent=2) + "\n", encoding="utf-8")

    @classmethod
    def read(cls, file: Path, classes: int) -> Thresholds:
        """Raises ValueError where the file does not hold one positive number per class, or none."""
        per_class = tuple(map(float, _record(file).get("per_class", ())))
        if len(per_class) not in (0, classes) or any(not value > 0 for value in per_class):
            raise ValueError(f"{file.name} needs one threshold above 0 for each of the {classes} classes, or none.")
        return cls(per_class)


def _record(file: Path) -> dict:
    try:
        record = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ValueError(f"{file.name} can't be read: {error}.") from error
    if not isinstance(record, dict):
        raise ValueError(f"{file.name} holds no JSON object.")
    return record
