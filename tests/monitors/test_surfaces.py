"""Distances of surfaces, against MONAI's and against shapes that one can count."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitors import hd95, nsd

SPACINGS = st.tuples(st.sampled_from([0.5, 1.0, 1.7]), st.sampled_from([0.8, 1.0, 3.0]))


def blob(seed: int, shape: tuple[int, ...] = (18, 23)) -> np.ndarray:
    """A random map of a few lumps, never empty, often at the border."""
    rng = np.random.default_rng(seed)
    at = np.stack(np.meshgrid(*(np.arange(s) for s in shape), indexing="ij"), axis=-1)
    lumps = [(rng.uniform(0, shape), rng.uniform(1, 6)) for _ in range(rng.integers(1, 4))]
    found = np.any([np.linalg.norm(at - centre, axis=-1) <= radius for centre, radius in lumps], axis=0)
    found[tuple(rng.integers(0, s) for s in shape)] = True
    return found


def square(at: int = 5) -> np.ndarray:
    found = np.zeros((20, 20), dtype=bool)
    found[at : at + 6, 5:11] = True
    return found


def test_both_are_those_of_monai() -> None:
    """On random maps in two and three dimensions, of pixels of any size."""
    import torch
    from monai.metrics import compute_hausdorff_distance, compute_surface_dice

    for seed in range(12):
        shape, spacing = ((18, 23), (0.7, 1.5)) if seed % 3 else ((9, 10, 11), (2.0, 0.7, 1.0))
        said, true = blob(seed, shape), blob(seed + 1000, shape)
        one, other = (torch.tensor(mask[None, None].astype(np.float32)) for mask in (said, true))
        distance = compute_hausdorff_distance(one, other, include_background=True, percentile=95, spacing=spacing)
        share = compute_surface_dice(one, other, [1.6], include_background=True, spacing=spacing)

        assert hd95(said, true, spacing) == pytest.approx(float(distance), rel=1e-5)
        assert nsd(said, true, spacing, 1.6) == pytest.approx(float(share), rel=1e-5)


@settings(max_examples=30, deadline=None)
@given(st.integers(0, 10_000), SPACINGS, st.floats(0, 5))
def test_said_and_true_count_alike_and_the_same_mask_is_perfect(seed: int, spacing: tuple, tolerance: float) -> None:
    """Symmetry, identity, and a larger tolerance never tells less."""
    said, true = blob(seed), blob(seed + 1)

    assert hd95(said, true, spacing) == hd95(true, said, spacing)
    assert nsd(said, true, spacing, tolerance) == nsd(true, said, spacing, tolerance)
    assert (hd95(said, said, spacing), nsd(said, said, spacing, 0.0)) == (0.0, 1.0)
    assert 0 <= nsd(said, true, spacing, tolerance) <= nsd(said, true, spacing, tolerance + 1) <= 1


@settings(max_examples=20, deadline=None)
@given(st.floats(0.2, 4), st.floats(0.2, 4))
def test_a_mask_that_moved_by_a_pixel_is_that_far_away(height: float, width: float) -> None:
    """The height of a pixel; within that tolerance the surfaces are the same, and else of each the half that stayed."""
    spacing = (height, width)

    assert hd95(square(5), square(6), spacing) == pytest.approx(height)
    assert nsd(square(5), square(6), spacing, height) == 1.0
    assert nsd(square(5), square(6), spacing, 0.0) == 0.5


def test_empty_maps_are_defined() -> None:
    """Both empty are the same; one empty is as far away as the image reaches."""
    nothing = np.zeros((20, 20), dtype=bool)

    assert (hd95(nothing, nothing, (1, 1)), nsd(nothing, nothing, (1, 1), 1)) == (0.0, 1.0)
    for pair in ((square(), nothing), (nothing, square())):
        assert hd95(*pair, (3.0, 4.0)) == pytest.approx(100.0)
        assert nsd(*pair, (3.0, 4.0), 50.0) == 0.0


def test_what_does_not_fit_is_refused() -> None:
    """Another shape, a spacing of another image, a tolerance below nothing."""
    for said, spacing in ((square(), (1.0,)), (square()[:10], (1.0, 1.0)), (square(), (1.0, 0.0))):
        with pytest.raises(ValueError, match="don't fit together"):
            hd95(said, square(), spacing)
    with pytest.raises(ValueError, match="0 or more"):
        nsd(square(), square(), (1, 1), -1.0)
