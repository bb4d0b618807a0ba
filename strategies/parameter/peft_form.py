"""What the mechanisms in peft's own form share: an adapter is put on, and written, so that peft's tools can load it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import nn

from strategies.model import Classifier


def put_on(model: Classifier, config: Any, names: Sequence[str], layer: type) -> list[nn.Parameter]:
    """Wraps the network by peft's `config`; returns what moves: the adapter and the head.

    `names` of layers within the encoder; each is to become a `layer` of peft, and none besides. Raises ValueError where
    another adapter is on, or peft adapted other layers.
    """
    from peft import get_peft_model

    network: Any = model.backbone.network
    if hasattr(network, "peft_config"):
        raise ValueError("The encoder carries an adapter of this recipe already; a recipe puts on one.")
    meant = {name.removeprefix("network.") for name in names}
    config.target_modules = meant
    adapted = get_peft_model(network, config)
    inside = {name for name, module in adapted.get_base_model().named_modules() if isinstance(module, layer)}
    if inside != meant:
        raise ValueError(f"peft adapted {len(inside)} layers and {len(meant)} were meant, {names[:1]} among them.")
    config.base_model_name_or_path = None  # it would be a path of this machine; the version binds the base's digest
    model.backbone.network = adapted
    model.head.requires_grad_(True)
    return [weight for weight in model.parameters() if weight.requires_grad]


def write_adapter(model: Classifier, folder: Path) -> dict[str, str]:
    """The adapter in peft's two files, and the head beside it."""
    model.backbone.network.save_pretrained(folder, save_embedding_layers=False)  # type: ignore
    (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card; the version brings its own
    write_config(json.loads((folder / "adapter_config.json").read_text(encoding="utf-8")), folder)
    save_file(model.head.state_dict(), folder / "head.safetensors")
    return {
        "adapter": "adapter_model.safetensors",
        "adapter_config": "adapter_config.json",
        "head": "head.safetensors",
    }


def write_config(record: dict[str, Any], folder: Path) -> None:
    """Writes peft's record of the adapter, in one order of keys and without a path of this machine."""
    record["target_modules"] = sorted(record["target_modules"])  # a set: its order would change from run to run
    text = json.dumps(record, indent=2, sort_keys=True) + "\n"
    (folder / "adapter_config.json").write_text(text, encoding="utf-8")
