"""Low-rank adapters (Hu and others 2022) in peft's own form, and a head beside them."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from strategies.model import Classifier
from strategies.parameter.peft_form import put_on, write_adapter
from strategies.protocols import EVERY_TASK


class LoRA:
    """h = W x + (alpha / r) B A x on the linear and pointwise layers; B starts at zero, so a fresh one changes nothing.

    The first blocks of the encoder (`frozen`, a share) keep out: edges and colours are the same at every site, and
    what is frozen is computed once.

    The base's weights and the statistics of its batch norms stay as they are: an adapter can't carry them (peft keeps
    no buffers). The head moves too and is a file of its own, because heads in `modules_to_save` have been lost on
    reload. The adapter is always fresh on the base, trained on new and remembered cases, so adapters don't pile up.
    """

    name = "lora"
    tasks = EVERY_TASK
    continues = False
    whole = False

    def __init__(
        self,
        rank: int = 8,
        alpha: int = 16,
        learning_rate: float = 3e-3,
        frozen: float = 0.3,
        lean: bool = False,
    ) -> None:
        """lean: trains a vision transformer by `suffix.lean`, in less than half of the time; on trial."""
        self.rank, self.alpha, self.learning_rate, self.frozen = rank, alpha, learning_rate, frozen
        self.lean = lean

    def attach(self, model: Classifier) -> list[nn.Parameter]:
        """Raises ValueError unless just the layers that the backbone calls adaptable got an adapter."""
        from peft import LoraConfig
        from peft.tuners.lora import LoraLayer

        names = model.origin.adaptable(int(self.frozen * model.origin.depth))
        return put_on(model, LoraConfig(r=self.rank, lora_alpha=self.alpha, bias="none"), names, LoraLayer)

    def training(self, model: nn.Module) -> None:
        model.eval()

    def write(self, model: Classifier, folder: Path) -> dict[str, str]:
        return write_adapter(model, folder)
