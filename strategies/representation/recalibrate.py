"""Recalibration of the scores: one temperature and one bias per class or finding, no weight of the network moves.

A temperature moves no score of a detection across a half, and so changes no answer of it; a bias does.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from strategies.domains import domain_shares
from strategies.findings import members
from strategies.model import Recalibrator
from strategies.protocols import EVERY_TASK, Learner, Lesson, Sample


class Recalibrate:
    """Bias-corrected temperature scaling (Alexandari, Kundaje and Shrikumar 2020): p = softmax(logits / T + bias), and
    a sigmoid of each where findings don't exclude each other: then a bias is how common its finding is.

    Fitted by LBFGS on cases that no weight was fitted on, as the mode under normal priors of deviation `spread` on
    log T and on each bias. The prior is the guard for few cases: without any the answer is T = 1 and no bias, and it
    fades as they come. Domains weigh by `domain_shares`: a large old site doesn't outvote, nor do two new cases.
    """

    name = "recalibrate"
    labelled = True
    tasks = EVERY_TASK

    def __init__(self, spread: float = 0.5, bias: bool = True) -> None:
        self.spread = spread
        self.bias = bias

    def fit(self, held: Lesson, served: Learner, folder: Path) -> dict[str, str]:
        """Writes recalibrator.json, from labelled cases. Raises ValueError for a logit that is not finite."""
        if held.pixels is None:
            several = held.task == "multilabel"
            found = self.mode(held.logits(), held.label, held.domain, several=several)
        else:
            sample = held.pixels()
            found = self.mode(sample.logits, sample.label, held.domain, sample)
            if held.task == "detection" and found.bias:
                # A box is of its class or of none, whose logit is 0: what counts is how far apart the biases lie.
                found = replace(found, bias=tuple(bias - found.bias[-1] for bias in found.bias[:-1]))
        found.write(folder / "recalibrator.json")
        return {"recalibrator": "recalibrator.json"}

    def mode(
        self,
        logits: NDArray[np.floating],
        target: NDArray[np.integer],
        domain: NDArray[np.str_],
        sample: Sample | None = None,
        several: bool = False,
    ) -> Recalibrator:
        """The most likely temperature and bias under the priors; logits [n, k], target [n], domain [n]. Of classes that
        exclude each other the bias has mean 0; of `several` findings target has sets (`strategies/findings.py`).

        Of a `sample` of pixels or boxes the logits [m, k] and target [m] are its own: those of a case count as
        one case.
        """
        if not np.isfinite(logits).all():
            raise ValueError("the model's scores hold NaN or infinity: they can't be recalibrated")
        known = target >= 0
        z = torch.as_tensor(logits[known], dtype=torch.float64)
        y = torch.as_tensor(target[known], dtype=torch.long)
        truth = torch.as_tensor(members(target[known], logits.shape[1]), dtype=torch.float64) if several else None
        weight = torch.as_tensor(_even(domain[known]) if sample is None else _of_pixels(sample, domain))
        log_t = torch.zeros((), dtype=torch.float64, requires_grad=True)
        bias = torch.zeros(logits.shape[1], dtype=torch.float64, requires_grad=self.bias)
        free = [log_t, bias] if self.bias else [log_t]
        optimiser = torch.optim.LBFGS(free, max_iter=100, line_search_fn="strong_wolfe")

        def loss() -> torch.Tensor:
            optimiser.zero_grad()
            scaled = z / log_t.exp() + bias
            if truth is None:
                unlikely = functional.cross_entropy(scaled, y, reduction="none")
            else:
                unlikely = functional.binary_cross_entropy_with_logits(scaled, truth, reduction="none").sum(dim=1)
            likelihood = unlikely @ weight
            value = likelihood + (log_t.square() + bias.square().sum()) / (2 * self.spread**2)
            value.backward()
            return value

        optimiser.step(loss)
        found = bias.detach() if several else (bias - bias.mean()).detach()
        return Recalibrator(float(log_t.detach().exp()), tuple(found.tolist()))


def _of_pixels(sample: Sample, domain: NDArray[np.str_]) -> NDArray[np.float64]:
    """[m] weights of pixels that sum to the number of cases, each domain's to its share."""
    rows, of = np.unique(sample.row, return_inverse=True)
    return _even(domain[rows])[of] * sample.weight


def _even(domain: NDArray[np.str_]) -> NDArray[np.float64]:
    """[n] weights that sum to n, each domain's to its share."""
    weight = np.zeros(len(domain))
    for name, share in domain_shares(domain).items():
        here = domain == name
        weight[here] = len(domain) * share / here.sum()
    return weight
