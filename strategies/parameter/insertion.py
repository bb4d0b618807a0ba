"""What the mechanisms share that put modules of ours behind the blocks of an encoder."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from strategies.inserted import put
from strategies.model import Classifier


def put_behind(model: Classifier, kind: str, modules: Mapping[int, nn.Module]) -> list[nn.Parameter]:
    """Puts each module behind the block of its number; returns what moves: these and the head."""
    model.requires_grad_(False)
    for block, module in modules.items():
        put(model.backbone, block, kind, module)
    model.head.requires_grad_(True)
    return [weight for weight in model.parameters() if weight.requires_grad]


def write_inserted(model: Classifier, folder: Path) -> dict[str, str]:
    """Writes the inserted modules and the head into `folder`; answers with the parts."""
    encoder: Any = model.backbone
    tensors = {name: tensor.contiguous() for name, tensor in encoder.inserted.state_dict().items()}
    save_file(tensors, folder / "inserted.safetensors")
    save_file(model.head.state_dict(), folder / "head.safetensors")
    return {"inserted": "inserted.safetensors", "head": "head.safetensors"}
