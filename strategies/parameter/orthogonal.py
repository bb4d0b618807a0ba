"""Low-rank adapters off the subspace of the old cases, InfLoRA (Liang and Li 2024), stacked in one file of peft's."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from strategies.families.weights import read_json, read_weights
from strategies.model import Classifier
from strategies.parameter.peft_form import put_on, write_adapter, write_config
from strategies.protocols import Learner, Lesson

# What peft's record says of an adapter that adds (alpha / r) B A with one rank everywhere, and does nothing else.
PLAIN = {
    "peft_type": "LORA",
    "bias": "none",
    "use_dora": False,
    "use_rslora": False,
    "rank_pattern": {},
    "alpha_pattern": {},
}


class OrthogonalLoRA:
    """h = W x + (alpha / r) B A x, where A sees nothing of what the old cases look like to the layer.

    Of each layer's inputs on the remembered cases the directions that hold `protected` of their energy are left alone
    (Saha and others 2021); A is the first r principal directions, in what is left, of the inputs on the new cases, and
    stays as it is. B alone moves, from zero. So an old case whose inputs lie in the protected directions is answered as
    before, with no rehearsal of it.

    It goes on from the live version. A low-rank adapter of that one keeps its weights: the new one is stacked on it in
    one file of the summed rank, which peft reads as a single adapter and merges as one. Rank, and nothing else, grows
    by r with each version that is learnt so; an adapter that starts on the base again ends the pile.
    """

    name = "orthogonal_lora"
    continues = True
    whole = False

    def __init__(
        self,
        rank: int = 8,
        alpha: int = 16,
        learning_rate: float = 3e-3,
        frozen: float = 0.3,
        protected: float = 0.95,
    ) -> None:
        self.rank, self.alpha, self.learning_rate = rank, alpha, learning_rate
        self.frozen, self.protected = frozen, protected

    def attach(self, model: Classifier) -> list[nn.Parameter]:
        """Raises ValueError where the live version's adapter is of a form that no other can be stacked on."""
        from peft import LoraConfig
        from peft.tuners.lora import LoraLayer

        live, names = model.adapter, model.origin.adaptable(int(self.frozen * model.origin.depth))
        ends = tuple(f".{end}" for end in live.get("target_modules", ()))  # peft's record may name the ends alone
        same = [name for name in model.origin.adaptable() if name.endswith(ends)] == names
        if live and not (same and all(live.get(key) in (value, None) for key, value in PLAIN.items())):
            raise ValueError(
                f"An orthogonal adapter can't be stacked on the live version's ({live.get('peft_type')}): "
                "only on a plain low-rank one of the same layers."
            )
        put_on(model, LoraConfig(r=self.rank, lora_alpha=self.alpha, bias="none"), names, LoraLayer)
        for name, weight in model.backbone.named_parameters():
            if ".lora_A." in name:
                weight.requires_grad_(False)
        return [weight for weight in model.parameters() if weight.requires_grad]

    def place(self, lesson: Lesson, learner: Learner) -> None:
        """Sets every A by the inputs of its layer. Raises ValueError where no remembered case is in the lesson."""
        from peft.tuners.lora import LoraLayer

        if not lesson.remembered:
            raise ValueError("An orthogonal adapter keeps off what old cases need, and there is no remembered case.")
        layers = [layer for layer in learner.encoder.modules() if isinstance(layer, LoraLayer)]
        old = _energies(layers, learner, range(lesson.new, lesson.new + lesson.remembered))
        new = _energies(layers, learner, range(lesson.new))
        for layer, before, now in zip(layers, old, new, strict=True):
            a: Any = layer.lora_A["default"].weight
            rows = _directions(before, now, len(a), self.protected)
            a.data.copy_(rows.reshape(a.shape) / 3**0.5)  # as long as the rows that LoRA draws

    def training(self, model: nn.Module) -> None:
        model.eval()

    def write(self, model: Classifier, folder: Path) -> dict[str, str]:
        """Stacks the adapter on the one that lies in `folder`, carried along from the live version."""
        carried = read_json(folder / "adapter_config.json")
        before = read_weights(folder / "adapter_model.safetensors") if carried else {}
        parts = write_adapter(model, folder)
        if carried:
            record = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
            now = read_weights(folder / "adapter_model.safetensors")
            save_file(_stacked(before, carried, now, record), folder / "adapter_model.safetensors")
            rank = carried["r"] + record["r"]
            write_config(record | {"r": rank, "lora_alpha": rank}, folder)
        return parts


def _energies(
    layers: Sequence[nn.Module], learner: Learner, rows: Sequence[int], batch: int = 64
) -> list[torch.Tensor]:
    """Per layer the sum of x x' over all its inputs x on the cases of `rows`, [d, d]."""
    sums: list[torch.Tensor] = [torch.zeros(())] * len(layers)

    def add(i: int) -> Callable[..., None]:
        def hook(layer: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            x = inputs[0].movedim(1, -1) if inputs[0].ndim == 4 else inputs[0]
            flat = x.reshape(-1, x.shape[-1])
            sums[i] = sums[i] + flat.T @ flat

        return hook

    hooks = [layer.register_forward_pre_hook(add(i)) for i, layer in enumerate(layers)]
    try:
        with torch.inference_mode():
            learner.encoder.eval()
            for start in range(0, len(rows), batch):
                learner.encoder(learner.inputs.plain(rows[start : start + batch]))
    finally:
        for hook in hooks:
            hook.remove()
    return [one.clone() for one in sums]


def _directions(old: torch.Tensor, new: torch.Tensor, rank: int, protected: float) -> torch.Tensor:
    """Orthonormal rows [rank, d]: what `new` has most of, off what holds `protected` of `old`'s energy."""
    values, vectors = torch.linalg.eigh(old.double())  # ascending
    held = torch.cumsum(values.clamp(min=0).flip(0), 0) / values.clamp(min=0).sum().clamp(min=1e-12)
    kept = min(int((held < protected).sum()) + 1, max(0, len(values) - rank))
    free = vectors[:, : len(values) - kept]
    _, within = torch.linalg.eigh(free.T @ new.double() @ free)
    rows = (free @ within.flip(1)[:, :rank]).T
    return torch.cat([rows, rows.new_zeros(rank - len(rows), rows.shape[1])]).float()


def _stacked(
    before: dict[str, torch.Tensor], old: dict[str, Any], now: dict[str, torch.Tensor], new: dict[str, Any]
) -> dict[str, torch.Tensor]:
    """Two adapters of the same layers as one: A over A and B beside B, each B times its alpha / r."""

    def pair(name: str) -> torch.Tensor:
        if ".lora_A." in name:
            return torch.cat([before[name], now[name]], dim=0)
        scales = [record["lora_alpha"] / record["r"] for record in (old, new)]
        return torch.cat([before[name] * scales[0], now[name] * scales[1]], dim=1)

    return {name: pair(name) for name in now}
