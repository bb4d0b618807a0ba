"""The promises of the benchmarks of a training step."""

from __future__ import annotations

import pytest

from benchmarks import overhead, update


@pytest.mark.bench
@pytest.mark.timeout(1800)
def test_a_cached_suffix_costs_a_tenth() -> None:
    """Of full fine-tuning's time at ViT-small, a quarter of its memory, and 80 kB an image at ViT-tiny."""
    ratios = update.bench(None, 0, None, False)["ratios"]
    assert ratios["vit_tiny.cached_suffix.to_full"] <= 0.19
    assert ratios["vit_small.cached_suffix.to_full"] <= 0.125
    assert ratios["vit_small.cached_suffix.memory_to_full"] <= 0.25
    assert ratios["vit_tiny.cache_kb_per_image"] <= 80
    assert ratios["vit_small.cache_kb_per_image"] <= 160
    assert ratios["vit_tiny.epochs_until_paid_back"] <= 2


@pytest.mark.bench
def test_the_loop_costs_little_beside_a_bare_one() -> None:
    """A step on cached features takes at most 0.2 ms more than one written without a framework."""
    assert overhead.bench(None, 0, None, False)["ratios"]["ms_per_step_over_bare"] <= 0.2
