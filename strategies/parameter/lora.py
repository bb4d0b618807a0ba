"""Low-rank adapters (Hu and others 2022) in peft's own form, and a head beside them."""

from __future__ import annotations

import json
from pathlib import Path

from safetensors.torch import save_file
from torch import nn

from strategies.model import Classifier


class LoRA:
    """h = W x + (alpha / r) B A x on the linear and pointwise layers; B starts at zero, so a fresh one changes nothing.

    The first blocks of the encoder (`frozen`, a share) keep out: edges and colours are the same at every site, and
    what is frozen is computed once.

    The base's weights and the statistics of its batch norms stay as they are: an adapter can't carry them (peft keeps
    no buffers). The head moves too and is a file of its own, because heads in `modules_to_save` have been lost on
    reload. The adapter is always fresh on the base, trained on new and remembered cases, so adapters don't pile up.
    """

    name = "lora"
    continues = False
    whole = False

    def __init__(self, rank: int = 8, alpha: int = 16, learning_rate: float = 3e-3, frozen: float = 0.3) -> None:
        self.rank, self.alpha, self.learning_rate, self.frozen = rank, alpha, learning_rate, frozen

    def attach(self, model: Classifier) -> list[nn.Parameter]:
        """Raises ValueError unless just the layers that the backbone calls adaptable got an adapter."""
        from peft import LoraConfig, get_peft_model
        from peft.tuners.lora import LoraLayer

        cut = int(self.frozen * model.origin.depth)
        names = [name.removeprefix("network.") for name in model.origin.adaptable(cut)]
        config = LoraConfig(r=self.rank, lora_alpha=self.alpha, target_modules=names, bias="none")
        adapted = get_peft_model(model.backbone.network, config)  # type: ignore[arg-type]
        inside = {name for name, layer in adapted.get_base_model().named_modules() if isinstance(layer, LoraLayer)}
        if inside != set(names):
            raise ValueError(f"peft adapted {len(inside)} layers and {len(names)} were meant, {names[:1]} among them.")
        config.base_model_name_or_path = None  # it would be a path of this machine; the version binds the base's digest
        model.backbone.network = adapted
        model.head.requires_grad_(True)
        return [weight for weight in model.parameters() if weight.requires_grad]

    def training(self, model: nn.Module) -> None:
        model.eval()

    def write(self, model: Classifier, folder: Path) -> dict[str, str]:
        model.backbone.network.save_pretrained(folder, save_embedding_layers=False)  # type: ignore
        (folder / "README.md").unlink(missing_ok=True)  # peft's empty model card; the version brings its own
        config = folder / "adapter_config.json"
        record = json.loads(config.read_text(encoding="utf-8"))
        record["target_modules"] = sorted(record["target_modules"])  # a set: its order would change from run to run
        config.write_text(json.dumps(record, indent=2, sort_keys=True) + "\n", encoding="utf-8")
        save_file(model.head.state_dict(), folder / "head.safetensors")
        return {"adapter": "adapter_model.safetensors", "adapter_config": config.name, "head": "head.safetensors"}
