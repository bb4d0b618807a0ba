"""The mask decoder behind an encoder that stays as it is, or behind one with adapters: how SAM is adapted."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from strategies.model import Classifier
from strategies.parameter.bottleneck import bottlenecks_behind
from strategies.parameter.insertion import write_inserted
from strategies.parameter.lora import LoRA
from strategies.parameter.peft_form import write_adapter
from strategies.parameter.tuned import tune, write_tuned
from strategies.protocols import Backbone


class Decoder:
    """Every weight of the decoder and the head; from what is live. The image embeddings are computed once.

    What the decoder takes in place of a prompt moves with it, as in SAMed (Zhang and Liu 2023).
    """

    name = "decoder"
    tasks = ("segmentation",)
    continues = True
    whole = False
    frozen = 0.0  # by `cut`, and not by a share

    def __init__(self, learning_rate: float = 1e-3) -> None:
        self.learning_rate = learning_rate

    def cut(self, origin: Backbone) -> int:
        return encoder_depth(origin)

    def attach(self, model: Classifier) -> list[nn.Parameter]:
        """Raises ValueError where the network has no decoder apart, or carries an adapter unmerged."""
        _, decoder = model.origin.split(encoder_depth(model.origin))
        return tune(model, decoder.parameters())

    def training(self, model: nn.Module) -> None:
        model.eval()

    def write(self, model: Classifier, folder: Path) -> dict[str, str]:
        return write_tuned(model, folder)


class SAMed:
    """Low rank on queries and values of every block of the encoder, and every weight of the decoder and the head.

    Rank 4 and no scaling, as Zhang and Liu 2023 have it. Fresh on the base, as every adapter is.
    """

    name = "samed"
    tasks = ("segmentation",)
    continues = False
    whole = False

    def __init__(self, rank: int = 4, learning_rate: float = 3e-3, frozen: float = 0.0) -> None:
        self.rank, self.learning_rate, self.frozen = rank, learning_rate, frozen

    def attach(self, model: Classifier) -> list[nn.Parameter]:
        """Raises ValueError where the network has no decoder apart."""
        _, decoder = model.origin.split(encoder_depth(model.origin))
        LoRA(self.rank, self.rank, frozen=self.frozen).attach(model)
        decoder.requires_grad_(True)
        return [weight for weight in model.parameters() if weight.requires_grad]

    def training(self, model: nn.Module) -> None:
        model.eval()

    def write(self, model: Classifier, folder: Path) -> dict[str, str]:
        return write_adapter(model, folder) | write_tuned(model, folder)


class MedSA:
    """Bottlenecks behind every block of the encoder, and every weight of the decoder and the head.

    Med-SA (Wu and others 2023) has two within each layer, behind the attention and beside the perceptron; here a layer
    is one block, and one stands behind it. Fresh on the base, as every adapter is.
    """

    name = "med_sa"
    tasks = ("segmentation",)
    continues = False
    whole = False

    def __init__(self, size: int = 32, learning_rate: float = 1e-3, frozen: float = 0.0) -> None:
        self.size, self.learning_rate, self.frozen = size, learning_rate, frozen

    def attach(self, model: Classifier) -> list[nn.Parameter]:
        """Raises ValueError where the network has no decoder apart."""
        depth = encoder_depth(model.origin)
        _, decoder = model.origin.split(depth)
        bottlenecks_behind(model, range(int(self.frozen * model.origin.depth), depth), self.size)
        decoder.requires_grad_(True)
        return [weight for weight in model.parameters() if weight.requires_grad]

    def training(self, model: nn.Module) -> None:
        model.eval()

    def write(self, model: Classifier, folder: Path) -> dict[str, str]:
        return write_inserted(model, folder) | write_tuned(model, folder)


def encoder_depth(origin: Backbone) -> int:
    """How many blocks stand before the decoder. Raises ValueError where there is none apart from the encoder."""
    if not origin.decoder:
        raise ValueError("This network has no decoder apart from its encoder, as SAM has: take lora, or full.")
    return origin.depth - origin.decoder
