"""A prompt that is learnt, while the whole network and its head stay as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from strategies.inserted import Prompt, put
from strategies.model import Classifier
from strategies.parameter.decoder import encoder_depth
from strategies.protocols import Backbone


class LearnedPrompt:
    """One number per channel and place of the image embedding (`Prompt`), what a mask given as a prompt would come to.

    From what is live: a prompt that is there is gone on with. The image embeddings are computed once. Learnt tokens
    beside it would change every answer as soon as they are attached, because the decoder attends to them.
    """

    name = "learned_prompt"
    tasks = ("segmentation",)
    continues = True
    whole = False
    frozen = 0.0  # by `cut`, and not by a share

    def __init__(self, learning_rate: float = 1e-2) -> None:
        self.learning_rate = learning_rate

    def cut(self, origin: Backbone) -> int:
        return encoder_depth(origin)

    def attach(self, model: Classifier) -> list[nn.Parameter]:
        """Raises ValueError where the network has no decoder that takes prompts."""
        block, encoder = encoder_depth(model.origin), _encoder(model)
        there = encoder.inserted[str(block)]._modules if str(block) in encoder.inserted else {}
        if "prompt" not in there:
            size = model.origin.preprocessing.size
            with torch.inference_mode():
                shape = model.origin.split(block)[0].eval()(torch.zeros(1, 3, size, size)).shape[1:]
            put(encoder, block, "prompt", Prompt(torch.zeros(shape)))
        model.requires_grad_(False)
        prompt: nn.Parameter = encoder.inserted[str(block)].prompt.dense
        prompt.requires_grad_(True)
        return [prompt]

    def training(self, model: nn.Module) -> None:
        model.eval()

    def write(self, model: Classifier, folder: Path) -> dict[str, str]:
        learnt = {name: tensor for name, tensor in _encoder(model).inserted.state_dict().items() if ".prompt." in name}
        save_file(learnt, folder / "prompt.safetensors")
        return {"prompt": "prompt.safetensors"}


def _encoder(model: Classifier) -> Any:
    return model.backbone
