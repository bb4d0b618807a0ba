"""What a detector's own scores tell of a case that nobody has labelled: the numbers that monitors watch."""

from __future__ import annotations

import numpy as np

from monitors.protocols import Float, Int


def count_shares(scores: Float, labels: Int, classes: int) -> Float:
    """[classes + 1], summing to 1, of the boxes said of a case: scores [m], 0..1, labels [m]. The last is *none*.

    A box counts by its score s, as the one thing that it may be: s of it for its class, the rest for none; and there is
    one count of none in every case. So a class's share moves with how many are found and with how sure the model is of
    them, doubt goes to none, a box of score 0 changes nothing, and without boxes all is none.
    """
    scores = np.asarray(scores, dtype=np.float64)
    sure = np.bincount(np.asarray(labels, dtype=int), scores**2, minlength=classes)
    counts = np.append(sure, 1.0 + (scores * (1.0 - scores)).sum())
    return counts / counts.sum()


def expected_f1(scores: Float, threshold: float = 0.5) -> float:
    """The F1, 0..1, that the model itself expects of its boxes [m] whose score reaches the threshold.

    With scores that are the chances of being right: 2 * their sum / (their number + the sum of all scores), the ratio
    of expectations; a thing of which no box was said is not expected. Without a box that reaches the threshold the
    answer is that there is nothing, and the chance of that is the product of 1 - score.
    """
    scores = np.asarray(scores, dtype=np.float64)
    shown = scores[scores >= threshold]
    if not len(shown):
        return float(np.prod(1.0 - scores))
    return float(np.clip(2.0 * shown.sum() / (len(shown) + scores.sum()), 0.0, 1.0))
