"""Bottleneck adapters behind the blocks (Houlsby and others 2019) and a head; peft has no form for them."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from strategies.inserted import Bottleneck, outputs
from strategies.model import Classifier
from strategies.parameter.insertion import put_behind, write_inserted


class Bottlenecks:
    """One `Bottleneck` of `size` channels behind each block after the frozen ones, fresh on the base.

    Being nonlinear it can't be merged, so it is run at every answer: the file is ours, and so is the cost.
    """

    name = "bottleneck"
    tasks = ("classification", "segmentation")
    continues = False
    whole = False

    def __init__(self, size: int = 8, learning_rate: float = 3e-3, frozen: float = 0.3) -> None:
        self.size, self.learning_rate, self.frozen = size, learning_rate, frozen

    def attach(self, model: Classifier) -> list[nn.Parameter]:
        """Raises ValueError where no block behind the frozen ones puts out a map or tokens."""
        return bottlenecks_behind(model, range(int(self.frozen * model.origin.depth), model.origin.depth), self.size)

    def training(self, model: nn.Module) -> None:
        model.eval()

    def write(self, model: Classifier, folder: Path) -> dict[str, str]:
        return write_inserted(model, folder)


def bottlenecks_behind(model: Classifier, blocks: range, size: int) -> list[nn.Parameter]:
    """A fresh `Bottleneck` of `size` channels behind each of `blocks`; returns what moves: these and the head.

    Raises ValueError where none of the blocks puts out a map or tokens.
    """
    widths = {
        i: shape[1] if len(shape) == 4 else shape[2]
        for i, shape in enumerate(outputs(model.origin))
        if i in blocks and len(shape) in (3, 4)
    }
    if not widths:
        raise ValueError("Bottleneck adapters can't be put into this network: it is not in blocks.")
    return put_behind(model, "bottleneck", {i: Bottleneck.fresh(width, size) for i, width in widths.items()})
