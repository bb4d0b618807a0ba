"""Learnt tokens that the blocks of a transformer attend to, and a head beside them; peft has them for text alone."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from strategies.inserted import Prefix, outputs
from strategies.model import Classifier
from strategies.parameter.insertion import put_behind, write_inserted


class PrefixTokens:
    """`tokens` learnt tokens behind each block after the frozen ones (`Prefix`), fresh on the base.

    Prompts put in front of the image's own tokens (VPT, Jia and others 2022) would change every answer as soon as they
    are attached, and make every block run anew; these do neither.
    """

    name = "prefix"
    continues = False
    whole = False

    def __init__(self, tokens: int = 8, learning_rate: float = 3e-3, frozen: float = 0.3) -> None:
        self.tokens, self.learning_rate, self.frozen = tokens, learning_rate, frozen

    def attach(self, model: Classifier) -> list[nn.Parameter]:
        """Raises ValueError where no block behind the frozen ones puts out tokens."""
        cut = int(self.frozen * model.origin.depth)
        widths = {i: shape[2] for i, shape in enumerate(outputs(model.origin)) if i >= cut and len(shape) == 3}
        if not widths:
            raise ValueError("Prefix tokens need a transformer: the blocks of this network put out no tokens.")
        return put_behind(model, "prefix", {i: Prefix.fresh(width, self.tokens) for i, width in widths.items()})

    def training(self, model: nn.Module) -> None:
        model.eval()

    def write(self, model: Classifier, folder: Path) -> dict[str, str]:
        return write_inserted(model, folder)
