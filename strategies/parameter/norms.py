"""Only the affine weights of the norms move (Zhao and others 2024; Frankle and others 2021), in peft's own form."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

from torch import nn

from strategies.model import Classifier
from strategies.parameter.peft_form import put_on, write_adapter

NORMS: tuple[type[nn.Module], ...] = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._BatchNorm)


class Norms:
    """Scale and shift of every layer, group and batch norm, and the head; on a fresh base, as for LoRA.

    The running statistics of batch norms do not move: they are estimated with as few cases as there are new, and what
    they would gain is another mechanism's. Its files hold whole norms, so those statistics stand in them unchanged.
    """

    name = "norms"
    continues = False
    whole = False

    def __init__(self, learning_rate: float = 5e-3, frozen: float = 0.3) -> None:
        self.learning_rate, self.frozen = learning_rate, frozen

    def attach(self, model: Classifier) -> list[nn.Parameter]:
        """Raises ValueError where the network has no such norm behind its frozen blocks."""
        from peft import LNTuningConfig
        from peft.tuners.ln_tuning.layer import LNTuningLayer

        after = model.origin.after(int(self.frozen * model.origin.depth))
        names = [name for name, layer in after if isinstance(layer, NORMS) and _affine(layer)]
        if not names:
            raise ValueError("Norms can't be tuned in this network: no norm with weights is behind its first blocks.")
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Unsupported layer type")  # of its count of features, which is not used
            return put_on(model, LNTuningConfig(), names, LNTuningLayer)

    def training(self, model: nn.Module) -> None:
        model.eval()

    def write(self, model: Classifier, folder: Path) -> dict[str, str]:
        return write_adapter(model, folder)


def _affine(norm: Any) -> bool:
    return norm.weight is not None
