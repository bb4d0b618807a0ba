"""avalanche's strategies on the same network, images, mirroring, labels and steps. Importing it takes 6 s.

Each is avalanche's own class with its own memory of 200 cases. What is ours around it is what our recipes have too:
AdamW under one cycle of the learning rate per site, batches of 16 (half of them remembered, where it remembers), and of
twelve looks at the develop cases of all sites so far the best. The strategy is shown the first site without a step, so
that it remembers it or weighs its weights.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from avalanche.benchmarks import benchmark_from_datasets
from avalanche.benchmarks.utils.classification_dataset import _make_taskaware_classification_dataset
from avalanche.core import SupervisedPlugin
from avalanche.training.plugins import AGEMPlugin, EWCPlugin, LwFPlugin, ReplayPlugin
from avalanche.training.supervised import DER, Cumulative, Naive
from numpy.typing import NDArray
from torch import nn

from benchmarks.continual.ours import MEMORY
from benchmarks.loop import recall
from strategies.augmentation import mirror
from strategies.base import load_base
from strategies.data import Rehearsal
from strategies.inputs import Images, Inputs
from strategies.preprocessing import Pixels
from strategies.protocols import Examples, Lesson
from strategies.recipes import BATCH, EPOCHS
from strategies.training import served

if TYPE_CHECKING:
    from benchmarks.continual.streams import Parts
    from strategies.protocols import Preprocessing

LEARNING_RATE, DECAY = 5e-4, 0.05  # those of fine-tuning with rehearsal
HALF = BATCH // 2

Build = Callable[[dict[str, Any], list[SupervisedPlugin]], Any]


# Settings: avalanche's defaults where it has one; EWC has none, and its penalty was given the order of the loss.
STRATEGIES: dict[str, Build] = {
    "naive": lambda common, plugins: Naive(**common, plugins=plugins, train_mb_size=BATCH),
    "replay": lambda common, plugins: Naive(
        **common, plugins=[*plugins, ReplayPlugin(mem_size=MEMORY)], train_mb_size=HALF
    ),
    "ewc": lambda common, plugins: Naive(
        **common, plugins=[*plugins, EWCPlugin(ewc_lambda=1000.0)], train_mb_size=BATCH
    ),
    "lwf": lambda common, plugins: Naive(
        **common, plugins=[*plugins, LwFPlugin(alpha=1, temperature=2)], train_mb_size=BATCH
    ),
    "agem": lambda common, plugins: Naive(
        **common, plugins=[*plugins, AGEMPlugin(MEMORY // 2, sample_size=HALF)], train_mb_size=HALF
    ),
    "der": lambda common, plugins: DER(**common, plugins=plugins, mem_size=MEMORY, train_mb_size=HALF),
    "cumulative": lambda common, plugins: Cumulative(**common, plugins=plugins, train_mb_size=BATCH),
}


class Peer:
    """One of STRATEGIES over a stream."""

    def __init__(self, strategy: str, base: Path, parts: Sequence[Parts], seed: int) -> None:
        torch.manual_seed(seed)
        self.parts, self.seed, self.cumulative = parts, seed, strategy == "cumulative"
        classifier = load_base(base)
        self.preprocessing = classifier.origin.preprocessing
        self.network = Network(classifier)
        self.budget = Budget()
        common = {
            "model": self.network,
            "optimizer": torch.optim.AdamW(self.network.parameters(), lr=LEARNING_RATE, weight_decay=DECAY, fused=True),
            "criterion": nn.CrossEntropyLoss(),
            "train_epochs": 0,
            "eval_mb_size": 64,
            "evaluator": None,
        }
        self.strategy = STRATEGIES[strategy](common, [self.budget])
        self.stream: Any = None

    def arrive(self, site: int) -> Callable[[Examples], NDArray[np.float32]]:
        if self.stream is None:
            trained = [dataset(part.train, self.preprocessing) for part in self.parts]
            self.stream = benchmark_from_datasets(train=trained).train_stream
            self.strategy.train(self.stream[0], num_workers=0)
        develop = [part.develop for part in self.parts[: site + 1]]
        self.budget.begin(self.steps(site), [(self.pixels(one), one.label) for one in develop])
        self.strategy.train_epochs = self.budget.steps  # more than there are: the budget ends it
        self.strategy.train(self.stream[site], num_workers=0)
        self.strategy.train_epochs = 0
        return lambda cases: _answers(self.network, self.pixels(cases))

    def steps(self, site: int) -> int:
        """As many as fine-tuning with rehearsal takes at this site; for the upper bound, its epochs over everything."""
        if self.cumulative:
            return EPOCHS * -(-sum(len(part.train) for part in self.parts[: site + 1]) // BATCH)
        new, old = self.parts[site].train, self.parts[0].train
        rows = np.arange(min(MEMORY, len(old)))
        lesson = Lesson(
            label=np.concatenate([new.label, old.label[rows]]),
            domain=np.concatenate([new.domain, old.domain[rows]]),
            patient=np.concatenate([new.patient, old.patient[rows]]),
            new=len(new),
            remembered=len(rows),
            logits=lambda: np.empty((0, 0), dtype=np.float32),
            features=lambda: np.empty((0, 0), dtype=np.float32),
        )
        return EPOCHS * len(Rehearsal().batches(lesson, BATCH, self.seed))

    def pixels(self, cases: Examples) -> Images:
        return Images(Pixels(cases, self.preprocessing), mirror)


class Network(nn.Module):
    """The classifier on images laid out pixel by pixel, as our own loop feeds it; A-GEM wants weights as they are."""

    def __init__(self, classifier: nn.Module) -> None:
        super().__init__()
        self.classifier = classifier

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        return self.classifier(images.contiguous(memory_format=torch.channels_last))


class Views(torch.utils.data.Dataset):
    """Every item is a random view of its image, [3, s, s], and its label."""

    def __init__(self, cases: Examples, preprocessing: Preprocessing) -> None:
        self.images = Images(Pixels(cases, preprocessing), mirror)
        self.targets = [int(label) for label in cases.label]

    def __len__(self) -> int:
        return len(self.targets)

    def __getitem__(self, i: int) -> tuple[torch.Tensor, int]:
        return self.images.drawn([i], torch.default_generator)[0], self.targets[i]


def dataset(cases: Examples, preprocessing: Preprocessing) -> Any:
    """The inputs as a dataset of avalanche's, one image at a time."""
    views = Views(cases, preprocessing)
    return _make_taskaware_classification_dataset(views, task_labels=0, targets=views.targets)


class Budget(SupervisedPlugin):
    """Ends a site's training after so many steps, with the best of twelve looks at the develop cases."""

    def __init__(self) -> None:
        super().__init__()
        self.steps = 0

    def begin(self, steps: int, develop: Sequence[tuple[Images, NDArray[np.integer]]]) -> None:
        self.steps, self.develop, self.done = steps, develop, 0
        self.best, self.kept = -np.inf, None

    def before_training_exp(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        if self.steps:
            strategy.optimizer.state.clear()
            self.schedule = torch.optim.lr_scheduler.OneCycleLR(
                strategy.optimizer, LEARNING_RATE, total_steps=self.steps + 1, pct_start=0.2
            )

    def after_training_iteration(self, strategy: Any, *args: Any, **kwargs: Any) -> None:
        self.done += 1
        self.schedule.step()
        if self.done % max(1, self.steps // EPOCHS) == 0 or self.done == self.steps:
            measure = float(np.mean([recall(_answers(strategy.model, one), label) for one, label in self.develop]))
            if measure >= self.best:
                self.best, self.kept = measure, copy.deepcopy(strategy.model.state_dict())
        if self.done == self.steps:
            strategy.model.load_state_dict(self.kept)
            strategy.stop_training()


def _answers(network: nn.Module, inputs: Inputs) -> NDArray[np.float32]:
    return served(network, nn.Identity(), inputs)[1]
