"""What the mechanisms share that move some of the network's own weights, as they are."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from strategies.families.weights import read_weights
from strategies.model import Classifier


def tune(model: Classifier, weights: Iterable[nn.Parameter]) -> list[nn.Parameter]:
    """Lets `weights` of the network and the head move, and nothing else; returns what moves.

    Raises ValueError where the network carries an adapter unmerged: its names are no longer the base's.
    """
    if hasattr(model.backbone.network, "peft_config"):
        raise ValueError("The encoder carries an adapter of this recipe already; weights can't be tuned below it.")
    model.requires_grad_(False)
    model.head.requires_grad_(True)
    for weight in weights:
        weight.requires_grad_(True)
    return [weight for weight in model.parameters() if weight.requires_grad]


def write_tuned(model: Classifier, folder: Path) -> dict[str, str]:
    """Writes what moved, by the names that it has in the base's own file, and the head; answers with the parts.

    They are values and no differences: they take the place of those of the file that was carried along from the live
    version, and the others of that file stay. Of a network with an adapter they are those beside it.
    """
    network: Any = model.backbone.network
    if hasattr(network, "peft_config"):
        network = network.get_base_model()
    file = folder / "tuned.safetensors"
    before = read_weights(file) if file.is_file() else {}
    moving = [(name, weight) for name, weight in network.named_parameters() if weight.requires_grad]
    save_file(before | {name: weight.detach() for name, weight in moving if ".lora_" not in name}, file)
    save_file(model.head.state_dict(), folder / "head.safetensors")
    return {"tuned": file.name, "head": "head.safetensors"}
