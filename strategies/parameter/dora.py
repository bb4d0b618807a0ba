"""Weight-decomposed low-rank adapters (Liu and others 2024) in peft's own form, and a head beside them."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from strategies.model import Classifier
from strategies.parameter.peft_form import put_on, write_adapter


class DoRA:
    """h = m (W + (alpha / r) B A) / |W + (alpha / r) B A| x: a row's length m is learnt apart from its direction.

    m starts at the lengths of W and B at zero, so a fresh one changes nothing. Layers, batch norms, head and start on
    the base as for LoRA; the lengths of all rows are computed anew at every step, which is what it costs more.
    """

    name = "dora"
    continues = False
    whole = False

    def __init__(self, rank: int = 8, alpha: int = 16, learning_rate: float = 3e-3, frozen: float = 0.3) -> None:
        self.rank, self.alpha, self.learning_rate, self.frozen = rank, alpha, learning_rate, frozen

    def attach(self, model: Classifier) -> list[nn.Parameter]:
        """Raises ValueError unless just the layers that the backbone calls adaptable got an adapter."""
        from peft import LoraConfig
        from peft.tuners.lora import LoraLayer

        names = model.origin.adaptable(int(self.frozen * model.origin.depth))
        config = LoraConfig(r=self.rank, lora_alpha=self.alpha, bias="none", use_dora=True)
        return put_on(model, config, names, LoraLayer)

    def training(self, model: nn.Module) -> None:
        model.eval()

    def write(self, model: Classifier, folder: Path) -> dict[str, str]:
        return write_adapter(model, folder)
