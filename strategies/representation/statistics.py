"""Batch norms measured again at the new site: no label, no gradient, one pass over a few cases."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from safetensors.torch import save_file
from torch import nn
from torch.nn.modules.batchnorm import _BatchNorm

from strategies.alignment import STATISTICS, statistics_of
from strategies.protocols import EVERY_TASK, Learner, Lesson
from strategies.representation.rows import site_and_home


class BatchStatistics:
    """AdaBN (Li and others 2016): running means and variances of the new site's images in place of home's.

    The old ones weigh as `prior` cases do (Schneider and others 2020), so that a handful of cases doesn't take over.
    """

    name = "batch_statistics"
    tasks = EVERY_TASK
    labelled = False

    def __init__(self, prior: float = 16, batch: int = 64) -> None:
        self.prior, self.batch = prior, batch

    def fit(self, held: Lesson, served: Learner, folder: Path) -> dict[str, str]:
        """Writes statistics.safetensors. Raises ValueError without a batch norm, or with fewer than two cases."""
        encoder = copy.deepcopy(served.encoder)
        norms = [layer for layer in encoder.modules() if isinstance(layer, _BatchNorm)]
        if not norms:
            raise ValueError(
                "The network has no batch norm whose statistics could be aligned; feature_statistics aligns its output."
            )
        rows = site_and_home(held)[0]
        before = {name: tensor.clone() for name, tensor in statistics_of(encoder).items()}
        measure(encoder, norms, served, rows, self.batch)
        kept = self.prior / (self.prior + len(rows))
        now = {name: kept * before[name] + (1 - kept) * tensor for name, tensor in statistics_of(encoder).items()}
        save_file(now, folder / STATISTICS)
        return {"statistics": STATISTICS}


@torch.no_grad()
def measure(encoder: nn.Module, norms: list[_BatchNorm], served: Learner, rows: list[int], batch: int) -> None:
    """The mean over batches, in an order drawn from a fixed seed, as a stream may come sorted by class."""
    for norm in norms:
        norm.reset_running_stats()
        norm.momentum = None  # torch then keeps the plain mean over all batches
        norm.train()
    drawn = torch.randperm(len(rows), generator=torch.Generator().manual_seed(0))
    for part in drawn.tensor_split(-(-len(rows) // batch)):
        encoder(served.inputs.plain([rows[i] for i in part.tolist()]))
