"""`homeostat bench update`: what a training step costs, by what is trained and by how it is computed.

Vision transformers of timm's shapes at 224 px with weights drawn at random (speed doesn't depend on them), 14 classes,
AdamW, one thread. The variants take turns step by step; `cpu_seconds` and `wall_seconds` are medians over rounds, and
`to_full` is the median of the ratios to the bare loop's full fine-tuning in the same round, by CPU time. `step_mb` is
the most that tensors took during a step above what lies there between steps. `update_cpu_seconds` is reckoned: 512
cases, 12 epochs, and the filling of the cache. avalanche's Replay doubles the batch by rehearsal.
"""

from __future__ import annotations

import copy
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from strategies.augmentation import mirror
from strategies.families.backbone import ChainedBackbone, Encoder
from strategies.families.timm import CHAINS
from strategies.inputs import Images, Inputs, Latents
from strategies.model import Classifier
from strategies.parameter import LinearProbe, LoRA
from strategies.preprocessing import Pixels, normalise
from strategies.protocols import Preprocessing
from strategies.suffix import lean
from strategies.training import Steps

SHAPES = {"vit_tiny": 16, "vit_small": 8}  # the batch of each
CLASSES, SIZE, CUT = 14, 224, 10  # of 14 links of the chain: the embedding and 9 of 12 blocks are frozen
CASES, EPOCHS = 512, 12


@dataclass(frozen=True, kw_only=True)
class Variant:
    """step: one training step; moving: the weights that are saved; fill_seconds: of CPU for one case's cache."""

    step: Callable[[], object]
    moving: list[nn.Parameter]
    fill_seconds: float = 0.0
    case_bytes: int = 0


def bench(data: Path | None, seed: int, input: Path | None, full: bool) -> dict[str, Any]:
    """Needs no data: images are noise. `full` adds ViT-base and takes more rounds."""
    torch.set_num_threads(1)
    rows: list[dict[str, Any]] = []
    ratios: dict[str, float] = {}
    for shape, batch in (SHAPES | {"vit_base": 4} if full else SHAPES).items():
        with tempfile.TemporaryDirectory() as folder:
            measured = measure(f"{shape}_patch16_224", batch, seed, Path(folder), rounds=7 if full else 3)
        rows += [{"shape": shape, "batch": batch, **row} for row in measured]
        row = {row["variant"]: row for row in measured}
        cached, recomputed = row["cached_suffix"], row["recomputed_suffix"]
        saved = (recomputed["cpu_seconds"] - cached["cpu_seconds"]) / batch
        ratios |= {
            f"{shape}.cached_suffix.to_full": cached["to_full"],
            f"{shape}.cached_suffix.memory_to_full": cached["step_mb"] / row["full"]["step_mb"],
            f"{shape}.lora_everywhere.to_full": row["lora_everywhere"]["to_full"],
            f"{shape}.cache_kb_per_image": cached["cache_kb_per_image"],
            f"{shape}.epochs_until_paid_back": cached["fill_cpu_seconds_per_image"] / saved,
        }
    return {"name": "update", "rows": rows, "ratios": ratios}


def measure(name: str, batch: int, seed: int, folder: Path, rounds: int) -> list[dict[str, Any]]:
    """One row per variant."""
    variants = make(name, batch, seed, folder)
    cpu: dict[str, list[float]] = {key: [] for key in variants}
    wall: dict[str, list[float]] = {key: [] for key in variants}
    for round_ in range(rounds + 1):
        for key, variant in variants.items():
            started, ticking = time.thread_time(), time.perf_counter()
            variant.step()
            if round_:  # the first makes the optimiser's state
                cpu[key].append(time.thread_time() - started)
                wall[key].append(time.perf_counter() - ticking)
    rows = []
    for key, variant in variants.items():
        seconds = median(cpu[key])
        rows.append(
            {
                "variant": key,
                "cpu_seconds": seconds,
                "wall_seconds": median(wall[key]),
                "to_full": median(a / b for a, b in zip(cpu[key], cpu["full"], strict=True)),
                "step_mb": None if key == "avalanche_replay" else peak_bytes(variant) / 1e6,
                "update_cpu_seconds": CASES * (variant.fill_seconds + EPOCHS * seconds / batch),
                "saved_mb": sum(weight.nbytes for weight in variant.moving) / 1e6,
                "cache_kb_per_image": variant.case_bytes / 1e3,
                "fill_cpu_seconds_per_image": variant.fill_seconds,
            }
        )
    return rows


def make(name: str, batch: int, seed: int, folder: Path) -> dict[str, Variant]:
    """The variants on one network, each with a copy of its own; `folder` takes the caches."""
    import timm

    torch.manual_seed(seed)
    network = timm.create_model(name, num_classes=0)
    width = int(network.num_features)  # type: ignore[arg-type]
    head = nn.Linear(width, CLASSES)
    preprocessing = Preprocessing(size=SIZE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))

    def fresh() -> Classifier:
        module = Encoder(copy.deepcopy(network), CHAINS["VisionTransformer"])
        origin = ChainedBackbone(module, width, preprocessing, lambda *_: None)
        return Classifier(origin, copy.deepcopy(head), [str(i) for i in range(CLASSES)]).eval()

    pixels = Pixels(Noise(2 * batch, seed), preprocessing)
    labels = torch.randint(0, CLASSES, (len(pixels),))
    generator = torch.Generator().manual_seed(seed)

    def steps(
        encoder: nn.Module, model: Classifier, moving: list[nn.Parameter], inputs: Inputs
    ) -> Callable[[], object]:
        """A step of the product's own loop on a batch drawn anew."""
        step = Steps(
            encoder,
            model.head,
            moving,
            inputs,
            lambda step: functional.cross_entropy(step.logits, labels[step.rows]),
            total=10**6,
            learning_rate=1e-4,
            generator=generator,
        )
        return lambda: step(torch.randperm(len(inputs), generator=generator)[:batch])

    def adapted(frozen: float) -> tuple[Classifier, list[nn.Parameter]]:
        model = fresh()
        return model, LoRA(frozen=frozen).attach(model)

    whole = fresh().requires_grad_(True)
    images = normalise(preprocessing, pixels[range(batch)])
    made = {"full": Variant(step=bare(whole, images, labels[:batch]), moving=list(whole.parameters()))}
    model, moving = adapted(0.0)
    made["lora_everywhere"] = Variant(step=steps(model.backbone, model, moving, Images(pixels, mirror)), moving=moving)
    model, moving = adapted((CUT + 0.5) / 14)
    prefix, suffix = model.origin.split(CUT)
    never = Latents(prefix, pixels, folder=folder, mirrored=True, limit=0)
    made["recomputed_suffix"] = Variant(step=steps(suffix, model, moving, never), moving=moving)
    model, moving = adapted((CUT + 0.5) / 14)
    prefix, suffix = model.origin.split(CUT)
    started = time.thread_time()
    kept = Latents(prefix, pixels, folder=folder, mirrored=True)
    filled = (time.thread_time() - started) / len(pixels)
    made["cached_suffix"] = Variant(
        step=steps(lean(suffix, moving), model, moving, kept),
        moving=moving,
        fill_seconds=filled,
        case_bytes=kept.case_bytes,
    )
    model = fresh()
    moving = LinearProbe().attach(model)
    started = time.thread_time()
    kept = Latents(model.origin.split(model.origin.depth)[0], pixels, folder=folder, mirrored=True)
    filled = (time.thread_time() - started) / len(pixels)
    made["probe"] = Variant(
        step=steps(nn.Identity(), model, moving, kept), moving=moving, fill_seconds=filled, case_bytes=kept.case_bytes
    )
    whole = fresh().requires_grad_(True)
    made["avalanche_replay"] = Variant(step=avalanche(whole, images, labels[:batch]), moving=list(whole.parameters()))
    return made


def bare(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], object]:
    """Full fine-tuning in float32 as one writes it without a framework."""
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)

    def step() -> None:
        loss = functional.cross_entropy(model(images), labels)
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()

    return step


def avalanche(model: nn.Module, images: torch.Tensor, labels: torch.Tensor) -> Callable[[], object]:
    """One iteration of avalanche's Replay: a batch of the second experience and as many remembered cases."""
    from avalanche.benchmarks import benchmark_from_datasets
    from avalanche.benchmarks.utils import as_classification_dataset
    from avalanche.training import Replay
    from torch.utils.data import TensorDataset

    class Labelled(TensorDataset):
        targets = labels.tolist()

    parts = [as_classification_dataset(Labelled(images, labels)) for _ in range(2)]
    stream = benchmark_from_datasets(train=parts).train_stream
    strategy = Replay(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True),
        criterion=nn.CrossEntropyLoss(),
        mem_size=len(images),
        train_mb_size=len(images),
        train_epochs=1,
        evaluator=None,
    )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        strategy.train(stream[0])

    def step() -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", DeprecationWarning)
            strategy.train(stream[1])

    return step


def peak_bytes(variant: Variant) -> int:
    """The most bytes that tensors took during one step above those at its start; the last step's gradients are gone."""
    from torch.profiler import ProfilerActivity, profile

    for weight in variant.moving:
        weight.grad = None
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as watched:
        variant.step()
    events = watched.profiler.kineto_results.events()
    changes = [event for event in events if event.name() == "[memory]"]
    sizes = [event.nbytes() for event in sorted(changes, key=lambda event: event.start_ns())]
    return int(np.maximum.accumulate(np.cumsum(sizes))[-1])


class Noise:
    """Examples of noise."""

    def __init__(self, n: int, seed: int) -> None:
        self.label, self.seed = np.zeros(n, dtype=int), seed
        self.patient = self.domain = np.full(n, "x")

    def __len__(self) -> int:
        return len(self.label)

    def image(self, i: int) -> NDArray[np.float32]:
        draw = np.random.default_rng([self.seed, i])
        return draw.integers(0, 256, (SIZE, SIZE, 3)).astype(np.float32)
