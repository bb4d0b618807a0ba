"""How far the surfaces of two masks lie apart: the 95th percentile of the Hausdorff distance, and surface Dice.

A surface is the pixels of a mask that have a neighbour (by a side) outside it, or beyond the image's border.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from monitors.protocols import Float

PERCENTILE = 95


def hd95(said: NDArray[np.bool_], true: NDArray[np.bool_], spacing: Sequence[float]) -> float:
    """The larger of the 95th percentiles of the distances from each surface to the other (Huttenlocher and others
    1993), in the unit of `spacing`, the size of a pixel along each axis.

    Both empty: 0. One empty: the diagonal of the image, farther than any two pixels are. Raises ValueError where the
    maps [h, w] or [d, h, w] and the spacing don't fit together.
    """
    _fit(said, true, spacing)
    if not said.any() and not true.any():
        return 0.0
    if not said.any() or not true.any():
        return float(np.linalg.norm(np.multiply(said.shape, spacing)))
    return max(float(np.percentile(way, PERCENTILE)) for way in _distances(said, true, spacing))


def nsd(said: NDArray[np.bool_], true: NDArray[np.bool_], spacing: Sequence[float], tolerance: float) -> float:
    """Surface Dice at a tolerance (Nikolov and others 2021), 0..1: the share of both surfaces' pixels that lie no
    farther than `tolerance` from the other surface, in the unit of `spacing`.

    Both empty: 1. One empty: 0. Raises ValueError as hd95 does, and for a tolerance below 0.
    """
    _fit(said, true, spacing)
    if tolerance < 0:
        raise ValueError(f"a tolerance is 0 or more, not {tolerance}")
    if not said.any() and not true.any():
        return 1.0
    if not said.any() or not true.any():
        return 0.0
    return float((np.concatenate(_distances(said, true, spacing)) <= tolerance).mean())


def _distances(said: NDArray[np.bool_], true: NDArray[np.bool_], spacing: Sequence[float]) -> tuple[Float, Float]:
    """Of each surface's pixels to the other surface."""
    from scipy.ndimage import distance_transform_edt

    one, other = _surface(said), _surface(true)
    to_one, to_other = (distance_transform_edt(~edge, sampling=spacing) for edge in (one, other))
    return to_other[one], to_one[other]


def _surface(mask: NDArray[np.bool_]) -> NDArray[np.bool_]:
    from scipy.ndimage import binary_erosion

    return mask & ~binary_erosion(mask)


def _fit(said: NDArray[np.bool_], true: NDArray[np.bool_], spacing: Sequence[float]) -> None:
    if said.shape != true.shape or len(spacing) != said.ndim or min(spacing) <= 0:
        raise ValueError(
            f"maps of shapes {said.shape} and {true.shape} and a spacing of {tuple(spacing)} don't fit together: give "
            "two maps of one shape, and a size above 0 along each axis"
        )
