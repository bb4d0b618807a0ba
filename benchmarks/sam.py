"""`homeostat bench sam`: an epoch on cached image embeddings beside one that computes the encoder each time.

SAM's ViT-B and its mask decoder at their true width and depth, on images of 256 pixels a side instead of 1,024 (SHAPE:
windows shrink with the places), weights and images drawn at random, one thread, CPU time, batches of BATCH. `decoder`
trains the mask decoder; `suffix` the neck before it too; `last_block` low rank on queries and values of the last
layer, and the decoder (SAMed with all other layers frozen). The two forms take turns epoch by epoch; `ratio` is the
median of their ratios in a round. What is recomputed is computed without gradients. `reckoned` is what the arithmetic
alone gives for ViT-B at 1,024 pixels: products of a cached step over those of a recomputed one, counted by torch on
shapes without numbers.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from torch import nn

from benchmarks.update import Noise, Variant, peak_bytes
from strategies.families.sam import sam_backbone
from strategies.inputs import TargetedLatents, mirrored_masks
from strategies.model import Classifier
from strategies.objective.dice import DiceCrossEntropy
from strategies.parameter import Decoder, SAMed
from strategies.parameter.tuned import tune
from strategies.preprocessing import Pixels
from strategies.protocols import Backbone, Preprocessing
from strategies.tasks import TASKS
from strategies.training import Steps

SIDE, BATCH, CASES, CLASSES = 256, 8, 16, 3
PLACES = {"image_size": SIDE, "patch_size": 16}
SHAPE: dict[str, dict[str, Any]] = {
    "vision_config": {"window_size": 4, **PLACES},  # of 16 places, as 14 of 64
    "prompt_encoder_config": PLACES,
}


def bench(data: Path | None, seed: int, input: Path | None, full: bool) -> dict[str, Any]:
    """Needs no data: images are noise. `full` takes more rounds."""
    torch.set_num_threads(1)
    rows = []
    for name in FROZEN:
        with tempfile.TemporaryDirectory(prefix="homeostat-sam-") as folder:
            rows.append({"trained": name, **measure(name, seed, Path(folder), rounds=9 if full else 3)})
    found = {row["trained"]: row for row in rows}
    ratios = {f"{name}.cached_to_recomputed": row["ratio"] for name, row in found.items()}
    ratios |= {f"{name}.reckoned_vit_b_1024": row["reckoned"] for name, row in found.items()}
    ratios |= {"memory": found["decoder"]["cached_mb"] / found["decoder"]["recomputed_mb"]}
    return {"name": "sam", "rows": rows, "ratios": ratios}


# How many blocks each leaves as they are, and what it lets move.
FROZEN: dict[str, Callable[[Backbone], int]] = {
    "decoder": lambda origin: origin.depth - 2,
    "suffix": lambda origin: origin.depth - 3,
    "last_block": lambda origin: origin.depth - 4,
}


def moving_of(name: str, model: Classifier) -> list[nn.Parameter]:
    """Readies the model; the weights that move."""
    if name == "decoder":
        return Decoder().attach(model)
    cut = FROZEN[name](model.origin)
    if name == "suffix":
        return tune(model, model.origin.split(cut)[1].parameters())
    return SAMed(frozen=(cut + 0.5) / model.origin.depth).attach(model)


def measure(name: str, seed: int, folder: Path, rounds: int) -> dict[str, Any]:
    """The row of one way of training."""
    cached, recomputed, fill = make(name, seed, folder)
    took: dict[str, list[float]] = {"cached": [], "recomputed": []}
    for round_ in range(rounds + 1):
        for key, variant in (("cached", cached), ("recomputed", recomputed)):
            started = time.thread_time()
            for _ in range(CASES // BATCH):
                variant.step()
            if round_:  # the first makes the optimiser's state
                took[key].append(time.thread_time() - started)
    epochs = {key: median(seconds) for key, seconds in took.items()}
    return {
        "moving": sum(weight.numel() for weight in cached.moving),
        "cached_s_per_epoch": epochs["cached"],
        "recomputed_s_per_epoch": epochs["recomputed"],
        "ratio": median(a / b for a, b in zip(took["cached"], took["recomputed"], strict=True)),
        "reckoned": reckoned(name),
        "cached_mb": peak_bytes(cached) / 1e6,
        "recomputed_mb": peak_bytes(recomputed) / 1e6,
        "cache_kb_per_image": cached.case_bytes / 1e3,
        "epochs_until_paid_back": fill / (epochs["recomputed"] - epochs["cached"]),
    }


def make(name: str, seed: int, folder: Path) -> tuple[Variant, Variant, float]:
    """(cached, recomputed, CPU seconds to fill the cache), each with a network of its own."""
    noise = Noise(CASES, seed)
    preprocessing = Preprocessing(size=SIDE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    masks = torch.from_numpy(np.random.default_rng(seed).integers(0, CLASSES, (CASES, SIDE, SIDE)).astype(np.uint8))
    pixels = Pixels(noise, preprocessing)
    made, fill = [], 0.0
    for recompute in (False, True):
        model = built(SHAPE, seed, preprocessing)
        moving = moving_of(name, model)
        prefix, suffix = model.origin.split(FROZEN[name](model.origin))
        started = time.thread_time()
        inputs = TargetedLatents(prefix, pixels, masks, mirrored_masks, folder=folder)
        fill = fill or time.thread_time() - started
        if recompute:
            inputs.room = 0  # nothing counts as kept
        generator = torch.Generator().manual_seed(seed)
        step = Steps(
            suffix,
            model.head,
            moving,
            inputs,
            DiceCrossEntropy().loss(),
            total=10**6,
            learning_rate=1e-4,
            generator=generator,
        )
        made.append(Variant(step=drawn(step, generator), moving=moving, case_bytes=inputs.case_bytes))
    return made[0], made[1], fill


def drawn(step: Steps, generator: torch.Generator) -> Callable[[], object]:
    """A step on a batch that is drawn anew."""
    return lambda: step(torch.randperm(CASES, generator=generator)[:BATCH])


def built(shape: dict[str, dict[str, Any]], seed: int, preprocessing: Preprocessing) -> Classifier:
    """SAM of a shape, and a head for CLASSES."""
    from transformers import SamConfig, SamModel

    torch.manual_seed(seed)
    configs: dict[str, Any] = shape
    origin = sam_backbone(SamModel(SamConfig(**configs)), preprocessing)
    return Classifier(origin, TASKS["segmentation"].head(origin, CLASSES), list(map(str, range(CLASSES)))).eval()


def reckoned(name: str) -> float:
    """Products of a cached step over those of a recomputed one, for SAM's ViT-B at 1,024 pixels."""
    from torch.utils.flop_counter import FlopCounterMode

    preprocessing = Preprocessing(size=1024, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    with torch.device("meta"):
        model = built({}, 0, preprocessing)
        moving_of(name, model)
        prefix, suffix = model.origin.split(FROZEN[name](model.origin))
        with FlopCounterMode(display=False) as frozen, torch.no_grad():
            kept = prefix(torch.zeros(1, 3, 1024, 1024))
        with FlopCounterMode(display=False) as trained:
            model.head(suffix(kept)).sum().backward()
    return trained.get_total_flops() / (trained.get_total_flops() + frozen.get_total_flops())
