"""Only the first blocks move, surgical fine-tuning (Lee and others 2023): for images that look otherwise."""

from __future__ import annotations

from pathlib import Path

from torch import nn

from strategies.model import Classifier
from strategies.parameter.tuned import tune, write_tuned


class EarlyBlocks:
    """Every weight of the first blocks (`share` of them) and the head; from what is live.

    Another scanner or stain changes what edges and colours look like, and the later blocks need not learn anew what
    the first can undo. The gradient still goes through all of them and nothing can be computed once, so it saves bytes
    and no time.

    The running statistics of batch norms do not move, in the moved blocks either: what a batch of both sites says of
    them would be neither site's, and the scales and shifts that move can do what they would.
    """

    name = "early_blocks"
    continues = True
    whole = False
    frozen = 0.0

    def __init__(self, share: float = 0.3, learning_rate: float = 3e-3) -> None:
        self.share, self.learning_rate = share, learning_rate

    def attach(self, model: Classifier) -> list[nn.Parameter]:
        """Raises ValueError where the share is no whole block, or the network carries an adapter unmerged."""
        cut = int(self.share * model.origin.depth)
        if not cut:
            raise ValueError(f"Early blocks can't be told from late ones in a network of {model.origin.depth} blocks.")
        first, _ = model.origin.split(cut)
        early = {id(weight) for weight in first.parameters()}
        return tune(model, (one for one in model.backbone.network.parameters() if id(one) in early))  # type: ignore

    def training(self, model: nn.Module) -> None:
        model.eval()

    def write(self, model: Classifier, folder: Path) -> dict[str, str]:
        return write_tuned(model, folder)
