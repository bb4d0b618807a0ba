"""Supervised training of a module on cached images: the loop that bases and recipes share.

Same seed, same threads, same machine: same weights.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from strategies.augmentation import augment
from strategies.preprocessing import Pixels, normalise
from strategies.protocols import Progress

Measure = Callable[
    [NDArray[np.float32], NDArray[np.integer]], float
]  # (probabilities [n, k], labels [n]) -> higher is better


@dataclass(frozen=True)
class Trained:
    """epochs run, the epoch that was kept (1-based), the develop measure after each epoch, the mean loss of each."""

    epochs: int
    best_epoch: int
    develop: list[float]
    loss: list[float]


def train(
    model: nn.Module,
    parameters: Iterable[nn.Parameter],
    images: Pixels,
    labels: NDArray[np.integer],
    *,
    develop: tuple[Pixels, NDArray[np.integer]],
    measure: Measure,
    epochs: int,
    learning_rate: float,
    seed: int,
    patience: int,
    batch_size: int = 32,
    weight_decay: float = 0.05,
    progress: Progress | None = None,
) -> Trained:
    """AdamW under one cycle of the learning rate; leaves `model` in eval mode with the best epoch's weights.

    Stops after `patience` epochs without a better measure on `develop`. Raises ValueError where the loss is not finite.
    """
    generator = torch.Generator().manual_seed(seed)
    moving = list(parameters)
    optimiser = torch.optim.AdamW(moving, lr=learning_rate, weight_decay=weight_decay)
    steps = math.ceil(len(images) / batch_size)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, learning_rate, total_steps=epochs * steps, pct_start=0.2)
    target = torch.as_tensor(np.asarray(labels, dtype=np.int64))
    measures: list[float] = []
    losses: list[float] = []
    best, kept = -math.inf, copy.deepcopy(model.state_dict())
    best_epoch = 0
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        for epoch in range(1, epochs + 1):
            model.train()
            total = 0.0
            # The last few images beyond full batches wait for the next epoch's order: BatchNorm needs more than one.
            for rows in torch.randperm(len(images), generator=generator).tensor_split(steps):
                batch = normalise(images.preprocessing, augment(images[rows.tolist()], generator))
                loss = functional.cross_entropy(model(batch), target[rows])
                optimiser.zero_grad(set_to_none=True)
                loss.backward()
                torch.nn.utils.clip_grad_norm_(moving, 5.0)
                optimiser.step()
                schedule.step()
                total += loss.item() * len(rows)
            if not math.isfinite(total):
                raise ValueError(f"The loss is no finite number in epoch {epoch}; a smaller learning rate is needed.")
            losses.append(total / len(images))
            measures.append(measure(probabilities(model, develop[0]), develop[1]))
            if measures[-1] > best:
                best, best_epoch, kept = measures[-1], epoch, copy.deepcopy(model.state_dict())
            if progress is not None:
                progress("epochs", epoch, epochs)
            if epoch - best_epoch >= patience:
                break
    model.load_state_dict(kept)
    model.eval()
    return Trained(len(losses), best_epoch, measures, losses)


def probabilities(model: nn.Module, images: Pixels, batch_size: int = 64) -> NDArray[np.float32]:
    """softmax of the model's logits in eval mode, float32 [n, k]."""
    training = model.training
    model.eval()
    with torch.inference_mode():
        parts = [
            torch.softmax(
                model(normalise(images.preprocessing, images[range(i, min(i + batch_size, len(images)))])), dim=1
            )
            for i in range(0, len(images), batch_size)
        ]
    model.train(training)
    return torch.cat(parts).numpy()
