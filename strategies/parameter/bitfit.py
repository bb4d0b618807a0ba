"""Only biases move, BitFit (Ben Zaken and others 2022); peft's bias tuning is for linear layers alone."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from strategies.model import Classifier
from strategies.parameter.tuned import tune, write_tuned


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
        after = model.origin.after(int(self.frozen * model.origin.depth))
        found = [getattr(layer, "bias", None) for _, layer in after]
        biases = [bias for bias in found if isinstance(bias, nn.Parameter)]
        if not biases:
            raise ValueError("Biases can't be tuned in this network: it has none behind its first blocks.")
        return tune(model, biases)

    def training(self, model: nn.Module) -> None:
        model.eval()

    def write(self, model: Classifier, folder: Path) -> dict[str, str]:
        return write_tuned(model, folder)
