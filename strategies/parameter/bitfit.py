"""Only biases move, BitFit (Ben Zaken and others 2022); peft's bias tuning is for linear layers alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from strategies.families.weights import read_weights
from strategies.model import Classifier


class BitFit:
    """Every bias behind the frozen blocks, those of norms among them, and the head; from what is live.

    Its file holds the biases by the names that they have in the base's own file. They are values and no differences,
    so they replace each other from version to version and don't pile up. The running statistics of batch norms do not
    move.
    """

    name = "bitfit"
    continues = True
    whole = False

    def __init__(self, learning_rate: float = 5e-3, frozen: float = 0.3) -> None:
        self.learning_rate, self.frozen = learning_rate, frozen

    def attach(self, model: Classifier) -> list[nn.Parameter]:
        """Raises ValueError where the network has no bias behind its frozen blocks, or carries an adapter unmerged."""
        if hasattr(model.backbone.network, "peft_config"):
            raise ValueError("The encoder carries an adapter of this recipe already; biases can't be tuned below it.")
        after = model.origin.after(int(self.frozen * model.origin.depth))
        biases = [layer.bias for _, layer in after if isinstance(getattr(layer, "bias", None), nn.Parameter)]
        if not biases:
            raise ValueError("Biases can't be tuned in this network: it has none behind its first blocks.")
        model.requires_grad_(False)
        model.head.requires_grad_(True)
        for bias in biases:
            bias.requires_grad_(True)
        return [weight for weight in model.parameters() if weight.requires_grad]

    def training(self, model: nn.Module) -> None:
        model.eval()

    def write(self, model: Classifier, folder: Path) -> dict[str, str]:
        network: Any = model.backbone.network
        file = folder / "tuned.safetensors"
        before = read_weights(file) if file.is_file() else {}  # carried along from the live version
        moved = {name: weight.detach() for name, weight in network.named_parameters() if weight.requires_grad}
        save_file(before | moved, file)
        save_file(model.head.state_dict(), folder / "head.safetensors")
        return {"tuned": file.name, "head": "head.safetensors"}
