"""Whether a training is losing the embedding: every image at one point, or all of them on one line."""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

GRID = 4  # places on a side
LEAST_SPREAD = 0.05  # share of the spread before training
LEAST_RANK = 1.5  # one direction holds 95 % of the singular values: more than two classes learnt well bring about


def pooled(features: torch.Tensor) -> torch.Tensor:
    """Features [b, d] as they are; dense ones, [b, c, h, w] -> [b, 16 c]: means over a grid of places.

    Means over all of a map say how much there is of a structure and little else: one direction, and no collapse.
    """
    return functional.adaptive_avg_pool2d(features, GRID).flatten(1) if features.ndim == 4 else features


def effective_rank(features: NDArray[np.floating]) -> float:
    """exp(entropy of the singular values of the centred features, as shares): how many directions [n, d] really fill.

    Between 1 and min(n - 1, d), and 0 where all rows are the same (Roy and Vetterli 2007).
    """
    values = np.linalg.svd(features - features.mean(axis=0), compute_uv=False).astype(np.float64)
    if not values.sum() > 1e-6 * np.linalg.norm(features):
        return 0.0
    shares = values[values > 0] / values.sum()
    return float(np.exp(-(shares * np.log(shares)).sum()))


def mean_cosine(features: NDArray[np.floating]) -> float:
    """Mean cosine between pairs of different rows of [n, d], n at least 2; 1 where all point one way."""
    length = np.linalg.norm(features, axis=1, keepdims=True)
    unit = (features / np.maximum(length, np.finfo(np.float32).tiny)).astype(np.float64)
    n = len(unit)
    return float((np.square(unit.sum(axis=0)).sum() - np.square(unit).sum()) / (n * (n - 1)))


class CollapseGuard:
    """Compares the features of some cases, [n, d], with what they were as the training began."""

    def __init__(self, before: NDArray[np.floating]) -> None:
        self.spread = 1 - mean_cosine(before) if len(before) > 1 else 0.0
        self.rank = effective_rank(before)

    def check(self, features: NDArray[np.floating], epoch: int) -> None:
        """Raises ValueError where the features hold NaN, have lost their spread, or all directions but one."""
        if not np.isfinite(features).all():
            raise ValueError(f"The training diverged: in epoch {epoch} the features hold NaN or infinity.")
        if self.spread > 1e-4 and 1 - mean_cosine(features) < LEAST_SPREAD * self.spread:
            raise ValueError(
                f"The training collapsed: in epoch {epoch} the features of all cases point the same way "
                f"(mean cosine {mean_cosine(features):.4f}, {1 - self.spread:.4f} before)."
            )
        rank = effective_rank(features)
        if self.rank >= 2 * LEAST_RANK and rank < LEAST_RANK:
            raise ValueError(
                f"The training collapsed: in epoch {epoch} the features have an effective rank of {rank:.2f}, "
                f"and had one of {self.rank:.1f} before."
            )


def evenly(n: int, at_most: int = 128) -> list[int]:
    """Evenly spaced rows of n: enough to see a collapse, at the cost of a few steps."""
    return np.unique(np.linspace(0, n - 1, min(n, at_most)).astype(int)).tolist()
