"""`homeostat bench overhead`: what our training loop costs a step beside a bare PyTorch loop, on cached features.

A small head on 384 features, batches of 32, one thread: a step is so short that a framework's own work shows. Chunks
of steps of each loop take turns; a row is the median over rounds of CPU milliseconds per step, and `over_bare_ms` the
median of the differences to the bare loop of the same batch in the same round. Avalanche's Replay stands beside: its
batch is doubled by rehearsal, and so is that of the bare loop that it is compared with.
"""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import nn
from torch.nn import functional

from strategies.inputs import Rows
from strategies.training import Steps

CASES, WIDTH, CLASSES, BATCH = 512, 384, 14, 32
STEPS = 2 * CASES // BATCH  # of one chunk: two epochs


def bench(data: Path | None, seed: int, input: Path | None, full: bool) -> dict[str, Any]:
    """Needs no data: features are drawn. `full` takes more rounds, for a machine that does other work beside."""
    torch.set_num_threads(1)
    torch.manual_seed(seed)
    features, labels = torch.randn(CASES, WIDTH), torch.randint(0, CLASSES, (CASES,))
    loops = {
        "bare": bare(features, labels, BATCH),
        "homeostat": ours(features, labels),
        "bare, batch doubled": bare(features, labels, 2 * BATCH),
        "avalanche Replay": avalanche(features, labels),
    }
    found: dict[str, list[float]] = {name: [] for name in loops}
    for round_ in range((60 if full else 15) + 1):
        for name, loop in loops.items():
            started = time.thread_time()
            steps = loop()
            if round_:  # the first warms up
                found[name].append(1e3 * (time.thread_time() - started) / steps)
    beside = {"homeostat": "bare", "avalanche Replay": "bare, batch doubled"}
    rows = [
        {
            "loop": name,
            "cpu_ms_per_step": median(taken),
            "over_bare_ms": _difference(taken, found[beside[name]]) if name in beside else None,
        }
        for name, taken in found.items()
    ]
    ratios = {
        "ms_per_step_over_bare": _difference(found["homeostat"], found["bare"]),
        "avalanche_replay_ms_per_step_over_bare": _difference(found["avalanche Replay"], found["bare, batch doubled"]),
    }
    return {"name": "overhead", "rows": rows, "ratios": ratios}


def head() -> nn.Module:
    return nn.Sequential(nn.Linear(WIDTH, 128), nn.ReLU(), nn.Linear(128, CLASSES))


def bare(features: torch.Tensor, labels: torch.Tensor, batch: int) -> Callable[[], int]:
    """What one writes without a framework: index, forward, backward, fused AdamW."""
    model = head()
    optimiser = torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True)

    def run() -> int:
        for _ in range(STEPS):
            rows = torch.randint(0, CASES, (batch,))
            loss = functional.cross_entropy(model(features[rows]), labels[rows])
            optimiser.zero_grad(set_to_none=True)
            loss.backward()
            optimiser.step()
        return STEPS

    return run


def ours(features: torch.Tensor, labels: torch.Tensor) -> Callable[[], int]:
    """The steps that every recipe trains by, its batches lists of rows as a data mechanism gives them."""
    model = head()
    steps = Steps(
        nn.Identity(),
        model,
        list(model.parameters()),
        Held(features),
        lambda step: functional.cross_entropy(step.logits, labels[step.rows]),
        total=10**6,
        learning_rate=1e-4,
        generator=torch.Generator().manual_seed(0),
    )

    def run() -> int:
        for _ in range(STEPS):
            steps(torch.as_tensor(torch.randint(0, CASES, (BATCH,)).tolist()))
        return STEPS

    return run


class Held:
    """Features in memory as the inputs of a training."""

    slices = 1

    def __init__(self, features: torch.Tensor) -> None:
        self.features = features

    def __len__(self) -> int:
        return len(self.features)

    def drawn(self, rows: Rows, generator: torch.Generator) -> torch.Tensor:
        return self.features[torch.as_tensor(rows)]

    def plain(self, rows: Rows) -> torch.Tensor:
        return self.features[torch.as_tensor(rows)]


def avalanche(features: torch.Tensor, labels: torch.Tensor) -> Callable[[], int]:
    """avalanche's Replay with 500 remembered cases, without an evaluator, on a second experience of the same size."""
    from avalanche.benchmarks import benchmark_from_datasets
    from avalanche.benchmarks.utils import as_classification_dataset
    from avalanche.training import Replay
    from torch.utils.data import TensorDataset

    class Labelled(TensorDataset):
        targets = labels.tolist()

    first, second = (as_classification_dataset(Labelled(features, labels)) for _ in range(2))
    stream = benchmark_from_datasets(train=[first, second]).train_stream
    model = head()
    strategy = Replay(
        model=model,
        optimizer=torch.optim.AdamW(model.parameters(), lr=1e-4, fused=True),
        criterion=nn.CrossEntropyLoss(),
        mem_size=500,
        train_mb_size=BATCH,
        train_epochs=2,
        evaluator=None,
    )
    warnings.simplefilter("ignore", DeprecationWarning)  # avalanche's of its own plugins, thousands of them
    strategy.train(stream[0])

    def run() -> int:
        before = strategy.clock.train_iterations
        strategy.train(stream[1])
        return int(strategy.clock.train_iterations - before)

    return run


def _difference(ours: list[float], others: list[float]) -> float:
    return median(a - b for a, b in zip(ours, others, strict=True))
