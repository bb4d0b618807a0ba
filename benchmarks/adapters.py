"""What each way of moving weights costs: at serving beside the bare model, in weights that move, and in bytes kept.

`homeostat bench adapters`: random weights, a batch of eight images, one thread, CPU time. Every model answers in turn,
so that a busy machine is as busy for each.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import median
from typing import Any

SIDES = {"mobilenet_v3_small": 128, "dinov2-tiny": 96}
TURNS = {False: 11, True: 101}

Progress = Callable[[str, int, int], None]


def bench(
    data: Path | None, seed: int = 0, input: Path | None = None, full: bool = False, progress: Progress | None = None
) -> dict[str, Any]:
    """{"name", "rows", "ratios"}: a row per network and mechanism; ratios of its time to the bare model's.

    `to_bare` is the median over turns of the ratio within a turn. `data` and `input` are not used.
    """
    from strategies import parameter

    kinds = [*(getattr(parameter, name) for name in parameter.__all__), *parameter.EXPERIMENTAL]
    rows = [row for network in SIDES for row in _network(network, kinds, seed, TURNS[full])]
    return {
        "name": "adapters",
        "rows": rows,
        "ratios": {f"{row['network']}.{row['mechanism']}.to_bare": row["to_bare"] for row in rows},
    }


def _network(network: str, kinds: list[type], seed: int, turns: int) -> list[dict[str, Any]]:
    import torch
    from torch import nn

    from strategies.base import load_base, write_base
    from strategies.families import load_backbone
    from strategies.model import Classifier
    from strategies.predictor import Predictor

    torch.manual_seed(seed)
    side = SIDES[network]
    origin = load_backbone(network)
    origin = origin.fed(replace(origin.preprocessing, size=side))
    images = torch.rand(8, 3, side, side)
    with tempfile.TemporaryDirectory(prefix="homeostat-adapters-") as scratch:
        base = Path(scratch) / "base"
        write_base(Classifier(origin, nn.Linear(origin.width, 5), tuple("abcde")), base, {})
        models, rows = {"bare": Predictor.load(base)}, []
        for kind in kinds:
            model, mechanism, parts = load_base(base), kind(), Path(scratch) / kind.__name__
            parts.mkdir()
            try:
                moving = mechanism.attach(model)
            except ValueError:  # a mechanism that does not serve this network says so
                continue
            mechanism.write(model, parts)
            models[mechanism.name] = Predictor.load(base, parts)
            rows.append(
                {
                    "network": network,
                    "mechanism": mechanism.name,
                    "moving": sum(weight.numel() for weight in moving),
                    "bytes": sum(file.stat().st_size for file in parts.iterdir()),
                }
            )
        took: dict[str, list[float]] = {name: [] for name in models}
        for _ in range(turns):
            for name, predictor in models.items():
                began = time.process_time()
                predictor.logits(images)
                took[name].append(time.process_time() - began)
    for row in rows:
        pairs = zip(took[row["mechanism"]], took["bare"], strict=True)
        row["to_bare"] = median(ours / bare for ours, bare in pairs)
        row["ms"] = 1000 * median(took[row["mechanism"]])
    return rows
