"""Supervised training of a module on cached inputs: the loop that bases and recipes share.

Same seed, same threads, same machine: same weights.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn
from torch.nn import functional

from strategies.collapse import CollapseGuard, evenly
from strategies.inputs import Inputs
from strategies.protocols import Batches, Loss, Progress, Step

Measure = Callable[
    [NDArray[np.float32], NDArray[np.integer]], float
]  # (probabilities [n, k], labels [n]) -> higher is better


CLIP = 5.0  # the largest norm of a step's gradient
WARM_UP = 0.2  # of the steps


class Shuffled:
    """All of n rows in a new order each epoch, in batches of nearly equal size: BatchNorm needs more than one row."""

    def __init__(self, n: int, batch_size: int, generator: torch.Generator) -> None:
        self.n, self.parts, self.generator = n, math.ceil(n / batch_size), generator

    def __len__(self) -> int:
        return self.parts

    def __iter__(self) -> Iterator[Sequence[int]]:
        order = torch.randperm(self.n, generator=self.generator)
        return iter([rows.tolist() for rows in order.tensor_split(self.parts)])


@dataclass(frozen=True)
class Trained:
    """epochs run, the epoch that was kept (1-based), the develop measure after each epoch, the mean loss of each."""

    epochs: int
    best_epoch: int
    develop: list[float]
    loss: list[float]


class Steps:
    """The steps of one training: AdamW under one cycle of the learning rate, gradients clipped to a norm of CLIP."""

    def __init__(
        self,
        encoder: nn.Module,
        head: nn.Module,
        moving: Sequence[nn.Parameter],
        inputs: Inputs,
        loss: Loss,
        *,
        total: int,
        learning_rate: float,
        generator: torch.Generator,
        weight_decay: float = 0.05,
    ) -> None:
        self.encoder, self.head, self.moving = encoder, head, list(moving)
        self.inputs, self.loss, self.generator = inputs, loss, generator
        self.optimiser = torch.optim.AdamW(self.moving, lr=learning_rate, weight_decay=weight_decay, fused=True)
        cycle = torch.optim.lr_scheduler.OneCycleLR
        rising = WARM_UP * total != 1  # torch divides by the steps of the warm-up less one
        self.schedule = cycle(
            self.optimiser, learning_rate, total_steps=total, pct_start=WARM_UP if rising else 2 * WARM_UP
        )

    def __call__(self, rows: torch.Tensor) -> tuple[float, int]:
        """One step on a batch of rows [b]: its loss, and the number of classes."""
        features = self._features(rows)
        logits = self.head(features)
        value = self.loss(Step(rows=rows, features=features, logits=logits, again=partial(self._features, rows)))
        self.optimiser.zero_grad(set_to_none=True)
        value.backward()
        self._clip()
        self.optimiser.step()
        self.schedule.step()
        return value.item(), logits.shape[1]

    def _clip(self) -> None:
        """As `torch.nn.utils.clip_grad_norm_`, which takes a third of a small step, mostly to multiply by one."""
        gradients = [weight.grad for weight in self.moving if weight.grad is not None]
        norms = torch.stack([torch.linalg.vector_norm(gradient) for gradient in gradients])
        norm = torch.linalg.vector_norm(norms).item()
        if norm > CLIP:
            for gradient in gradients:
                gradient.mul_(CLIP / norm)

    def _features(self, rows: torch.Tensor) -> torch.Tensor:
        return self.encoder(_pixel_major(self.inputs.drawn(rows, self.generator)))


def train(
    encoder: nn.Module,
    head: nn.Module,
    parameters: Iterable[nn.Parameter],
    inputs: Inputs,
    labels: NDArray[np.integer],
    *,
    develop: tuple[Inputs, NDArray[np.integer]],
    measure: Measure,
    epochs: int,
    learning_rate: float,
    seed: int,
    patience: int,
    batch_size: int = 16,
    weight_decay: float = 0.05,
    batches: Batches | None = None,
    loss: Loss | None = None,
    mode: Callable[[nn.Module], object] = nn.Module.train,
    defended: bool = False,
    stepped: Callable[[int, int], None] | None = None,
    progress: Progress | None = None,
) -> Trained:
    """AdamW under one cycle of the learning rate; leaves encoder and head in eval mode with the best epoch's weights.

    `batches` defaults to all inputs shuffled, `loss` to plain cross-entropy, and `mode` puts the two into the state
    they are trained in, before every epoch; `stepped` is told (steps done, steps in all) after each step. In the second
    half it stops after `patience` epochs with no better measure on `develop`. Raises ValueError where the loss is not
    finite or has left all bounds and, if the embedding is `defended`, where the features of the develop cases collapse.
    Random weights have no embedding to defend: their batch norms lag behind, and the first epochs look like a collapse.
    """
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(encoder, head)
    batches = batches or Shuffled(len(inputs), batch_size, generator)
    target = torch.as_tensor(np.asarray(labels, dtype=np.int64))
    if loss is None:

        def loss(step: Step) -> torch.Tensor:
            return functional.cross_entropy(step.logits, target[step.rows])

    step = Steps(
        encoder,
        head,
        list(parameters),
        inputs,
        loss,
        total=epochs * len(batches),
        learning_rate=learning_rate,
        generator=generator,
        weight_decay=weight_decay,
    )
    if stepped is not None:
        done = itertools.count(1)
        step.optimiser.register_step_post_hook(lambda *_: stepped(next(done), epochs * len(batches)))
    measures: list[float] = []
    losses: list[float] = []
    best, kept = -math.inf, copy.deepcopy(model.state_dict())
    best_epoch = 0
    watched = evenly(len(develop[0]))
    with torch.inference_mode():
        guard = CollapseGuard(encoder.eval()(develop[0].plain(watched)).numpy())
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model.to(memory_format=torch.channels_last)
        for epoch in range(1, epochs + 1):
            mode(model)
            total, seen = 0.0, 0
            for rows in batches:
                value, classes = step(torch.as_tensor(rows))
                total, seen = total + value * len(rows), seen + len(rows)
            losses.append(total / seen)
            if not losses[-1] <= 10 * math.log(max(2, classes)):
                raise ValueError(
                    f"The training diverged: in epoch {epoch} the mean loss is {losses[-1]:.3g}; "
                    "a smaller learning rate is needed, or other data."
                )
            embedded, said = served(encoder, head, develop[0])
            if defended and epoch > epochs // 2:
                guard.check(embedded[watched], epoch)
            measures.append(measure(said, develop[1]))
            # Of equals the later: develop is coarse, and the learning rate has come further down.
            if measures[-1] >= best:
                best, best_epoch, kept = measures[-1], epoch, copy.deepcopy(model.state_dict())
            if progress is not None:
                progress("epochs", epoch, epochs)
            # While the learning rate is high the measure jumps: a lucky early epoch is no reason to stop.
            if epoch - max(best_epoch, epochs // 2) >= patience:
                break
    model.load_state_dict(kept)
    model.to(memory_format=torch.contiguous_format).eval()
    return Trained(len(losses), best_epoch, measures, losses)


def served(
    encoder: nn.Module, head: nn.Module, inputs: Inputs, batch_size: int = 64
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Features [n, d] and probabilities [n, k] in eval mode; both are left in it."""
    encoder.eval()
    head.eval()
    features, parts = [], []
    with torch.inference_mode():
        for i in range(0, len(inputs), batch_size):
            features.append(encoder(inputs.plain(range(i, min(i + batch_size, len(inputs))))))
            parts.append(torch.softmax(head(features[-1]), dim=1))
    return torch.cat(features).numpy(), torch.cat(parts).numpy()


def features_of(encoder: nn.Module, inputs: Inputs, batch_size: int = 64) -> NDArray[np.float32]:
    """What the encoder, in eval mode, makes of each case as it is served: float32 [n, d]."""
    starts = range(0, len(inputs), batch_size)
    with torch.inference_mode():
        return torch.cat([encoder(inputs.plain(range(i, min(i + batch_size, len(inputs))))) for i in starts]).numpy()


def head_of(head: nn.Module, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """[n, d] -> logits [n, k]."""
    with torch.inference_mode():
        return head(torch.from_numpy(features)).numpy()


def _pixel_major(batch: torch.Tensor) -> torch.Tensor:
    """Halves the time of separable convolutions on a CPU; tokens and features have no such form."""
    return batch.contiguous(memory_format=torch.channels_last) if batch.ndim == 4 else batch
