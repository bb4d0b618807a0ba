"""All weights move: the strongest and least reversible step, kept as the whole encoder."""

from __future__ import annotations

from pathlib import Path

from safetensors.torch import save_file
from torch import nn

from strategies.model import Classifier
from strategies.protocols import EVERY_TASK


class Full:
    """Fine-tunes encoder and head, statistics of batch norm among them; from the base, or from what is live."""

    name = "full"
    tasks = EVERY_TASK
    frozen = 0.0
    whole = True

    def __init__(self, learning_rate: float = 1e-3, continues: bool = False) -> None:
        self.learning_rate, self.continues = learning_rate, continues

    def attach(self, model: Classifier) -> list[nn.Parameter]:
        model.requires_grad_(True)
        return list(model.parameters())

    def training(self, model: nn.Module) -> None:
        model.train()

    def write(self, model: Classifier, folder: Path) -> dict[str, str]:
        save_file(model.backbone.state_dict(), folder / "weights.safetensors")
        save_file(model.head.state_dict(), folder / "head.safetensors")
        return {"weights": "weights.safetensors", "head": "head.safetensors"}
