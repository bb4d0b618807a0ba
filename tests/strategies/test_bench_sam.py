"""The promise of the benchmark of cached image embeddings."""

from __future__ import annotations

import pytest

from benchmarks import sam


@pytest.mark.bench
@pytest.mark.timeout(1800)
def test_cached_embeddings_make_an_epoch_ten_times_faster() -> None:
    """For the decoder, and for the neck and the decoder; measured, and by the arithmetic of the deployed size."""
    ratios = sam.bench(None, 0, None, False)["ratios"]
    for trained in ("decoder", "suffix"):
        assert ratios[f"{trained}.cached_to_recomputed"] <= 0.1
        assert ratios[f"{trained}.reckoned_vit_b_1024"] <= 0.1
    assert ratios["memory"] <= 1
