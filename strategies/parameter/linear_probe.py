"""Only the head moves: the floor that every deeper step has to beat (Kumar and others 2022)."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file
from torch import nn

from strategies.model import Classifier
from strategies.protocols import EVERY_TASK


class LinearProbe:
    """Trains the head on the features of the live version, whose encoder stays as it is, batch norm included."""

    name = "linear_probe"
    tasks = EVERY_TASK
    continues = True
    frozen = 1.0
    whole = False

    def __init__(self, learning_rate: float = 1e-2) -> None:
        self.learning_rate = learning_rate

    def attach(self, model: Classifier) -> list[nn.Parameter]:
        model.requires_grad_(False)
        model.head.requires_grad_(True)
        return list(model.head.parameters())

    def training(self, model: nn.Module) -> None:
        model.eval()

    def write(self, model: Classifier, folder: Path) -> dict[str, str]:
        save_file(model.head.state_dict(), folder / "head.safetensors")
        return {"head": "head.safetensors"}
