"""What a segmentation's own probabilities tell of a case that nobody has labelled: the numbers that monitors watch."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from monitors.protocols import Float


def shares(probabilities: Float) -> Float:
    """[k], summing to 1: the mean probability of each class, background first, over the pixels of [k, h, w].

    The stream of them is what PredictionStream reads of masks: it moves with the size and the number of what is
    segmented, and with how sure the model is of it.
    """
    mean = np.asarray(probabilities).mean(axis=tuple(range(1, np.ndim(probabilities))), dtype=np.float64)
    return mean / mean.sum()


def expected_dice(probabilities: Float, map: NDArray[np.integer] | None = None) -> float:
    """The Dice, 0..1, that the model itself expects of its label map [h, w], the likeliest classes of [k, h, w] unless
    it is given.

    Of a structure whose probability is p and whose mask is m: 2 * sum(p m) / (sum p + sum m), the ratio of expectations
    and so a little above the expected ratio where masks are small. Mean over the structures (class 0 is background)
    that are in the map, or of which at least one pixel is expected; 1 where there is none.
    """
    p = np.asarray(probabilities)
    of = np.asarray(p.argmax(axis=0) if map is None else map).reshape(-1)
    p = p.reshape(len(p), -1)
    found = []
    for structure in range(1, len(p)):
        mask = of == structure
        expected, said = float(p[structure].sum(dtype=np.float64)), int(mask.sum())
        if said or expected >= 1:
            found.append(2 * float(p[structure][mask].sum(dtype=np.float64)) / (expected + said))
    return float(np.clip(np.mean(found), 0.0, 1.0)) if found else 1.0
