"""Scores brought to the new site's mix of classes, without a label."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from strategies.model import Recalibrator
from strategies.protocols import Learner, Lesson
from strategies.representation.rows import site_and_home


class PriorCorrection:
    """Expectation maximisation of the class shares (Saerens, Latinne and Decaestecker 2002), p(y | x) q(y) / p(y).

    Right where only the mix of classes differs and the scores are calibrated, so a recalibration goes before it. Home's
    shares count as `pseudo` cases per class (a Dirichlet prior), so that few cases don't empty a class.
    """

    name = "prior_correction"
    labelled = False

    def __init__(self, pseudo: float = 5.0, rounds: int = 200) -> None:
        self.pseudo, self.rounds = pseudo, rounds

    def fit(self, held: Lesson, served: Learner, folder: Path) -> dict[str, str]:
        """Writes recalibrator.json: the bias log q / p on top of what is there. Raises ValueError without home's."""
        site, home = site_and_home(held)
        if not home:
            raise ValueError("The mix of classes at home is not known: no held case of home has a label.")
        logits = held.logits()
        file, classes = folder / "recalibrator.json", logits.shape[1]
        before = Recalibrator.read(file, classes) if file.is_file() else Recalibrator()
        probability = before(torch.from_numpy(logits[site])).numpy().astype(np.float64)
        share = (np.bincount(held.label[home], minlength=classes) + 1.0) / (len(home) + classes)
        way = np.log(self.shares(probability, share) / share)
        bias = np.array(before.bias or np.zeros(classes)) + way - way.mean()
        replace(before, bias=tuple(bias.tolist())).write(file)
        return {"recalibrator": file.name}

    def shares(self, probability: NDArray[np.float64], home: NDArray[np.float64]) -> NDArray[np.float64]:
        """Probabilities [n, k] under the shares `home` [k] -> the most likely shares of the classes there, [k]."""
        now = home
        for _ in range(self.rounds):
            weighed = probability * (now / home)
            counts = (weighed / weighed.sum(axis=1, keepdims=True)).sum(axis=0) + self.pseudo * len(home) * home
            now = counts / counts.sum()
        return now
