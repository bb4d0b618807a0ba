"""The gates on histories that somebody else made, as `homeostat bench gates --input` runs them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.gates import bench


def history(folder: Path, name: str, before: np.ndarray, after: np.ndarray, groups: int = 2) -> None:
    n = before.shape[1]
    np.savez(folder / name, before=before, after=after, patient=np.arange(n), group=np.arange(n) % groups)


def test_good_candidates_are_promoted_and_bad_ones_are_not(tmp_path: Path) -> None:
    """A better candidate passes, one that loses 20 points does not, and each file answers for itself."""
    rng = np.random.default_rng(0)
    right = rng.random(600) < 0.85
    better, worse = right | (rng.random(600) < 0.5), right & (rng.random(600) >= 0.25)
    history(tmp_path, "a.npz", np.stack([right, right]), np.stack([worse, better]))
    history(tmp_path, "b.npz", right[None], worse[None])

    assert bench(None, 0, tmp_path, False)["rows"] == [
        {"file": "a.npz", "promoted": [1]},
        {"file": "b.npz", "promoted": []},
    ]


def test_a_walk_of_small_losses_is_stopped(tmp_path: Path) -> None:
    """Each candidate is within the margin of the one before it, and far below the first in the end."""
    right = [np.arange(2000) % 500 >= 25 + 10 * step for step in range(11)]
    history(tmp_path, "walk.npz", np.stack(right[:10]), np.stack(right[1:]))
    promoted = bench(None, 0, tmp_path, False)["rows"][0]["promoted"]

    assert promoted[0] == 0
    assert max(promoted) <= 2


@pytest.mark.bench
def test_the_bootstrap_beats_the_loop() -> None:
    """A loop over scikit-learn takes more than ten times as long as the gates' bootstrap."""
    assert bench(None, 0, None, False)["ratios"]["to_sklearn_loop"] <= 0.1
