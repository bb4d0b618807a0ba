"""The parts of an alignment as they are served: batch-norm statistics, and an affine map that the head takes in."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import nn

from strategies.families.weights import read_weights, same_tensors

STATISTICS = "statistics.safetensors"
ALIGNMENT = "alignment.safetensors"
MEASURED = (".running_mean", ".running_var")


def statistics_of(encoder: nn.Module) -> dict[str, torch.Tensor]:
    """The running means and variances of every batch norm, by name; empty where there is none."""
    return {name: tensor for name, tensor in encoder.state_dict().items() if name.endswith(MEASURED)}


def set_statistics(encoder: nn.Module, file: Path) -> None:
    """Raises ValueError unless the file holds just the statistics that the encoder has."""
    weights = read_weights(file)
    same_tensors(statistics_of(encoder), weights, f"The part {file.name}")
    encoder.load_state_dict(weights, strict=False)


def fold(head: nn.Module, file: Path) -> None:
    """Puts x -> A x + b before the head, by way of its first layer: V (A x + b) + c = (V A) x + (V b + c).

    `weight` is A [d, d], or its diagonal [d]; `bias` is b [d]. Raises ValueError where the head begins otherwise or the
    map is of another width.
    """
    first = head[0] if isinstance(head, nn.Sequential) else head
    if not isinstance(first, nn.Linear) or first.bias is None:
        raise ValueError("An alignment is folded into a head that begins with a linear layer with a bias.")
    weights = {name: tensor.double() for name, tensor in read_weights(file).items()}
    d = first.in_features
    square = "weight" not in weights or weights["weight"].ndim != 1
    shape = torch.empty((d, d) if square else (d,))
    same_tensors({"weight": shape, "bias": torch.empty(d)}, weights, f"The part {file.name}")
    with torch.no_grad():
        before = first.weight.double()
        first.bias.add_((before @ weights["bias"]).float())
        first.weight.copy_(before @ weights["weight"] if square else before * weights["weight"])
