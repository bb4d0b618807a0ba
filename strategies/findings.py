"""Findings that don't exclude each other: the set that a case has, as one integer, so that it is a label like any."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

MOST = 62  # findings of a model; their bits fit into an int64, and -1 remains for a case without a label


def label_of(findings: Iterable[int]) -> int:
    """The numbers of the findings that a case has, each below MOST -> its label: 0 where it has none."""
    return sum(1 << number for number in set(findings))


def members(label: NDArray[np.integer], findings: int) -> NDArray[np.bool_]:
    """label [n] -> [n, findings], which each case has; of a case without a label none."""
    known = np.maximum(np.asarray(label, dtype=np.int64), 0)
    return (known[:, None] >> np.arange(findings)) & 1 > 0
