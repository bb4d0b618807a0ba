"""Test-time adaptation: which images are answered by several views of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch

from strategies.episode import TEST_TIME, Episode, entropy
from strategies.model import Recalibrator
from strategies.protocols import Learner, Lesson
from strategies.representation.rows import site_and_home


class Episodic:
    """A doubtful image is answered by the mean over fixed views, and norms go along with them (`strategies.episode`).

    After MEMO's batch norms (Zhang, Levine and Finn 2022), without its step down the marginal's entropy: that makes
    wrong answers certain. Episodic: nothing is carried from one image to the next, so an answer can be replayed. The
    guard goes by entropy, as those of EATA and SAR (Niu and others 2022, 2023) do; they leave out what is too uncertain
    to learn from, this one what is certain enough: as certain as the share `usual` of home's held cases. The entropies
    are those of calibrated scores, so a recalibration goes before it.
    """

    name = "test_time"
    labelled = False

    def __init__(self, usual: float = 0.95, prior: float = 16) -> None:
        self.usual, self.prior = usual, prior

    def fit(self, held: Lesson, served: Learner, folder: Path) -> dict[str, str]:
        """Writes test_time.json. Raises ValueError without held cases of home."""
        home = site_and_home(held, least=0)[1]
        if not home:
            raise ValueError("How uncertain answers usually are is not known: there is no held case of home.")
        logits, file = torch.from_numpy(held.logits()[home]), folder / "recalibrator.json"
        calibrated = Recalibrator.read(file, logits.shape[1]) if file.is_file() else Recalibrator()
        Episode(float(np.quantile(entropy(calibrated(logits)).numpy(), self.usual)), self.prior).write(folder)
        return {"test_time": TEST_TIME}
