"""Low-rank adapters that share out their rank, AdaLoRA (Zhang and others 2023), in peft's own form, and a head."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import torch
from torch import nn

from strategies.model import Classifier
from strategies.parameter.peft_form import put_on, write_adapter

WARM_UP, LAST = 0.1, 0.3  # shares of the steps: before ranks are cut, and after they are settled


class AdaLoRA:
    """h = W x + (alpha / r0) B diag(e) A x: of all the e in the network those are set to zero that matter least.

    Each layer begins with `start` of them; after every step the budget over all layers comes down, by a cubic curve, to
    `rank` a layer on average, and where it is spent is told by the smoothed product of weights and gradients. e starts
    at zero, so a fresh one changes nothing. A term of the loss keeps the rows of A and the columns of B orthonormal, as
    they begin: from peft's small random numbers the first epochs of a short training go into getting there.

    The weights kept are those of the best epoch, so the ranks written are those of that epoch: where e is not zero.
    Layers, batch norms, head and start on the base as for LoRA.
    """

    name = "adalora"
    continues = False
    whole = False

    def __init__(
        self, rank: int = 8, start: int = 12, alpha: int = 16, learning_rate: float = 3e-3, frozen: float = 0.3
    ) -> None:
        self.rank, self.start, self.alpha = rank, start, alpha
        self.learning_rate, self.frozen = learning_rate, frozen

    def attach(self, model: Classifier) -> list[nn.Parameter]:
        """Raises ValueError unless just the layers that the backbone calls adaptable got an adapter."""
        from peft import AdaLoraConfig
        from peft.tuners.adalora import AdaLoraLayer

        names = model.origin.adaptable(int(self.frozen * model.origin.depth))
        config = AdaLoraConfig(
            init_r=self.start, target_r=self.rank, lora_alpha=self.alpha, bias="none", total_step=1
        )  # how many steps there are is told with the first
        moving = put_on(model, config, names, AdaLoraLayer)
        for _, factor in _factors(model):
            nn.init.orthogonal_(factor)
        return moving

    def training(self, model: nn.Module) -> None:
        model.eval()

    def penalty(self, model: Classifier) -> torch.Tensor:
        """peft's weight times the mean over all A and B of |A A' - 1| and |B' B - 1| (Frobenius), as in its forward."""
        network: Any = model.backbone.network
        found = [_off(factor, ".lora_A." in name) for name, factor in _factors(model)]
        return network.peft_config["default"].orth_reg_weight * torch.stack(found).mean()

    def stepped(self, model: Classifier, done: int, total: int) -> None:
        """peft looks at weights and gradients, and cuts ranks."""
        network: Any = model.backbone.network
        config = network.peft_config["default"]
        config.total_step, config.tinit, config.tfinal = total, int(WARM_UP * total), int(LAST * total)
        network.base_model.update_and_allocate(done - 1)  # peft counts from zero

    def write(self, model: Classifier, folder: Path) -> dict[str, str]:
        network: Any = model.backbone.network
        config = network.peft_config["default"]
        if config.rank_pattern is not None:  # ranks were cut, by then or later
            values = {n: e.detach() for n, e in network.base_model.model.named_parameters() if ".lora_E." in n}
            config.rank_pattern = {n: (e != 0).flatten().tolist() for n, e in values.items()}
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*have invalid shape")  # layers of rank 0, which peft reads as such
            return write_adapter(model, folder)


def _factors(model: Classifier) -> list[tuple[str, nn.Parameter]]:
    """Every A and B, by name."""
    named = model.backbone.named_parameters()
    return [(name, weight) for name, weight in named if ".lora_A." in name or ".lora_B." in name]


def _off(factor: torch.Tensor, rows: bool) -> torch.Tensor:
    """How far its rows [r, d], or else its columns [d, r], are from orthonormal."""
    gram = factor @ factor.T if rows else factor.T @ factor
    return torch.linalg.matrix_norm(gram - torch.eye(len(gram)))
