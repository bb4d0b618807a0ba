"""One learnt factor per output of a layer, (IA)3 (Liu and others 2022), in peft's own form, and a head beside it."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from strategies.model import Classifier
from strategies.parameter.peft_form import put_on, write_adapter


class IA3:
    """h = l * (W x + b) on the linear and pointwise layers; l starts at one, so a fresh one changes nothing.

    The paper scales keys, values and the hidden layer of transformers alone; here every layer that the backbone calls
    adaptable, because convolutional networks have no such names. It has the fewest weights of all adapters. Batch
    norms, head and start on the base as for LoRA.
    """

    name = "ia3"
    continues = False
    whole = False

    def __init__(self, learning_rate: float = 1e-2, frozen: float = 0.3) -> None:
        self.learning_rate, self.frozen = learning_rate, frozen

    def attach(self, model: Classifier) -> list[nn.Parameter]:
        """Raises ValueError unless just the layers that the backbone calls adaptable got an adapter."""
        from peft import IA3Config
        from peft.tuners.ia3 import IA3Layer

        names = model.origin.adaptable(int(self.frozen * model.origin.depth))
        return put_on(model, IA3Config(feedforward_modules=[]), names, IA3Layer)

    def training(self, model: nn.Module) -> None:
        model.eval()

    def write(self, model: Classifier, folder: Path) -> dict[str, str]:
        return write_adapter(model, folder)
