"""What one run over a stream says of a method: from the matrix of accuracies to one number per question.

accuracy[i][j] is the balanced accuracy at site j of the version that came of site i; both count from 0, the first site.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import exp

import numpy as np
from numpy.typing import NDArray

from agent.updates.decide import Measures

DECAY = 0.5  # of retention, per version: the default of the FDA's VIGILANT


@dataclass(frozen=True, kw_only=True)
class Said:
    """What one version says of the held cases of one site: whether each is right, and how sure it is on the whole."""

    right: NDArray[np.bool_]
    accuracy: float
    ece: float


@dataclass(frozen=True, kw_only=True)
class Run:
    """One method on one stream and one seed. said[i][j]: version i at site j.

    `develop` is what a job's table has of the last version: {domain: {"quality", "brier", "n"}} on its
    develop cases, of which the first site's are home's.
    """

    said: Sequence[Sequence[Said]]
    develop: Measures
    cpu_seconds: float
    last_seconds: float
    peak_mib: float


def matrix(run: Run) -> NDArray[np.float64]:
    return np.array([[said.accuracy for said in row] for row in run.said])


def scores(run: Run, classes: int) -> dict[str, float]:
    """The numbers of one run.

    average: at the end, over sites. bwt and fwt: backward and forward transfer (Lopez-Paz and Ranzato 2017), the latter
    over guessing. forgetting: from the best that there was (Chaudhry and others 2018). learning, potential and
    retention (Burgon and others 2026, as their tool VIGILANT computes them): the gain of an update at its own site and
    the loss that a new site brings to the version before it, means over updates; and the last version's accuracy,
    sites weighted by exp(-0.5 age). negative_flips: the share of held cases of the sites before that an update turns
    from right to wrong (Yan and others 2021), mean over updates and sites.
    """
    a = matrix(run)
    last = len(a) - 1
    updates = range(1, last + 1)
    weights = np.array([exp(DECAY * (site - last)) for site in range(last + 1)])
    turned = [float((run.said[i - 1][j].right & ~run.said[i][j].right).mean()) for i in updates for j in range(i)]
    return {
        "average": float(a[last].mean()),
        "bwt": float(np.mean([a[last, j] - a[j, j] for j in range(last)])),
        "fwt": float(np.mean([a[i - 1, i] - 1 / classes for i in updates])),
        "forgetting": float(np.mean([a[j:last, j].max() - a[last, j] for j in range(last)])),
        "learning": float(np.mean([a[i, i] - a[i - 1, i] for i in updates])),
        "potential": float(np.mean([a[i - 1, i - 1] - a[i - 1, i] for i in updates])),
        "retention": float(weights @ a[last] / weights.sum()),
        "ece": float(np.mean([said.ece for said in run.said[last]])),
        "negative_flips": float(np.mean(turned)),
        "cpu_seconds": run.cpu_seconds,
        "peak_mib": run.peak_mib,
    }
