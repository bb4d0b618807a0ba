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

from strategies.collapse import CollapseGuard, evenly, pooled
from strategies.inputs import Inputs, Targeted
from strategies.protocols import Batches, Loss, Progress, Step
from strategies.slices import FEWEST, fewer
from strategies.tasks import TASKS, Task

# (the task's rows [n, m], which are probabilities [n, k] of classes and findings; labels [n]) -> higher is better
Measure = Callable[[NDArray[np.float32], NDArray[np.integer]], float]


CLIP = 5.0  # the largest norm of a step's gradient
WARM_UP = 0.2  # of the steps
CLASSIFICATION = TASKS["classification"]


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
        self.targeted = inputs if isinstance(inputs, Targeted) else None
        self.optimiser = torch.optim.AdamW(self.moving, lr=learning_rate, weight_decay=weight_decay, fused=True)
        cycle = torch.optim.lr_scheduler.OneCycleLR
        rising = WARM_UP * total != 1  # torch divides by the steps of the warm-up less one
        self.schedule = cycle(
            self.optimiser, learning_rate, total_steps=total, pct_start=WARM_UP if rising else 2 * WARM_UP
        )

    def __call__(self, rows: torch.Tensor) -> tuple[float, int]:
        """One step on a batch of rows [b]: its loss, and the number of classes."""
        features, target = self._seen(rows)
        logits = self.head(features)
        again = partial(self._features, rows)
        value = self.loss(Step(rows=rows, features=features, logits=logits, again=again, target=target))
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

    def _seen(self, rows: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        if self.targeted is None:
            return self._features(rows), None
        views, target = self.targeted.drawn_with_target(rows, self.generator)
        return self.encoder(_pixel_major(views)), target

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
    task: Task = CLASSIFICATION,
    truth: torch.Tensor | None = None,
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

    `measure` is given the task's rows of the develop cases beside their `truth`, [n, s, s] where it isn't the labels.
    `batches` defaults to all inputs shuffled, `loss` to plain cross-entropy, and `mode` puts the two into the state
    they are trained in, before every epoch; `stepped` is told (steps done, steps in all) after each step. In the second
    half it stops after `patience` epochs with no better measure on `develop`. Raises ValueError where the loss is not
    finite or has left all bounds and, if the embedding is `defended`, where the features of the develop cases collapse.
    Random weights have no embedding to defend: their batch norms lag behind, and the first epochs look like a collapse.
    """
    generator = torch.Generator().manual_seed(seed)
    model = nn.Sequential(encoder, head)
    batches = batches or Shuffled(len(inputs), fewer(batch_size, inputs.slices, FEWEST), generator)
    loss = loss or CLASSIFICATION.fitted(torch.as_tensor(np.asarray(labels, dtype=np.int64)), head)
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
        encoder.eval()
        some = [
            watched[rows.start : rows.stop] for rows in _batches(len(watched), fewer(2 * task.at_once, inputs.slices))
        ]
        guard = CollapseGuard(torch.cat([pooled(encoder(develop[0].plain(rows))) for rows in some]).numpy())
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        if not any(weight.ndim == 5 for weight in model.parameters()):  # of volumes there is no such form
            model.to(memory_format=torch.channels_last)
        for epoch in range(1, epochs + 1):
            mode(model)
            total, seen = 0.0, 0
            for rows in batches:
                value, classes = step(torch.as_tensor(rows))
                total, seen = total + value * len(rows), seen + len(rows)
            losses.append(total / seen)
            if not losses[-1] <= task.bounds * math.log(max(2, classes)):
                raise ValueError(
                    f"The training diverged: in epoch {epoch} the mean loss is {losses[-1]:.3g}; "
                    "a smaller learning rate is needed, or other data."
                )
            embedded, said = served(encoder, head, develop[0], task, truth)
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
    encoder: nn.Module,
    head: nn.Module,
    inputs: Inputs,
    task: Task = CLASSIFICATION,
    truth: torch.Tensor | None = None,
) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """Features [n, d], pooled where they are dense, and the task's rows [n, m] in eval mode; both are left in it.

    `truth` [n, ...] is asked for by tasks whose rows hold some of it.
    """
    encoder.eval()
    head.eval()
    truth = torch.empty(len(inputs), 0) if truth is None else truth
    features, rows = [], []
    with torch.inference_mode():
        for some in _batches(len(inputs), fewer(task.at_once, inputs.slices)):
            found = encoder(inputs.plain(some))
            said = task.probabilities(head(found))
            features.append(pooled(found))
            rows.append(task.rows(said, truth[some.start : some.stop]))
    return torch.cat(features).numpy(), np.concatenate(rows)


def features_of(encoder: nn.Module, inputs: Inputs, batch_size: int = 64) -> NDArray[np.float32]:
    """What the encoder, in eval mode, makes of each case as it is served, pooled where it is dense: float32 [n, d]."""
    batches = _batches(len(inputs), fewer(batch_size, inputs.slices))
    with torch.inference_mode():
        return torch.cat([pooled(encoder(inputs.plain(some))) for some in batches]).numpy()


def head_of(head: nn.Module, features: NDArray[np.float32]) -> NDArray[np.float32]:
    """[n, d] -> logits [n, k]."""
    with torch.inference_mode():
        return head(torch.from_numpy(features)).numpy()


def _batches(n: int, size: int) -> list[range]:
    return [range(i, min(i + size, n)) for i in range(0, n, size)]


def _pixel_major(batch: torch.Tensor) -> torch.Tensor:
    """Halves the time of separable convolutions on a CPU; tokens and features have no such form."""
    return batch.contiguous(memory_format=torch.channels_last) if batch.ndim == 4 else batch
