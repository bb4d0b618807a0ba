"""The soak benchmark in small: the daemon's memory doesn't follow the number of cases."""

from __future__ import annotations

import pytest

from benchmarks.soak import bench


@pytest.mark.bench
def test_memory_of_the_daemon_does_not_grow_with_the_cases():
    """Four times the cases, the same memory; the long curve is `homeostat bench soak`."""
    found = bench(data=None, seed=0, input=None, full=False, cases=400, chunk=100)
    assert [row["cases"] for row in found["rows"]] == [100, 200, 300, 400]
    assert found["ratios"]["last_to_first"] < 1.05
    assert found["ratios"]["growth_mib_per_1000"] < 100, "a leak of one image per case would be more on real images"
