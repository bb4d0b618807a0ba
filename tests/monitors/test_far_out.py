"""Far-out cases are told one by one; another hospital's images of the same kind pass."""

from __future__ import annotations

import numpy as np
import pytest
from streams import DIMENSION, batch, reference, see

from monitors import FarOut, Reference


def fitted() -> FarOut:
    monitor = FarOut()
    monitor.fit(reference(np.random.default_rng(0)))
    return monitor


def test_unseen_cases_of_the_same_kind_pass_and_another_kind_is_refused() -> None:
    """Of 500 home cases next to none is far out, a moderate shift passes, and what lies elsewhere is refused."""
    rng, monitor = np.random.default_rng(1), fitted()
    home, shifted = monitor.far(see(rng, 500)[0]), monitor.far(see(rng, 500, 1.0)[0])
    elsewhere = monitor.far(10.0 * rng.standard_normal((500, DIMENSION)) + 40.0)

    assert home.mean() <= 0.01
    assert shifted.mean() <= 0.05
    assert elsewhere.mean() >= 0.99


def test_one_far_case_in_a_tick_is_counted() -> None:
    """The statistic is the share of the tick's far-out cases, and the evidence their number."""
    rng, monitor = np.random.default_rng(1), fitted()
    x, p = see(rng, 10)
    x[4] += 200.0
    signal = monitor.update(batch(x, p))

    assert (signal.statistic, signal.evidence["far"]) == (0.1, 1)


def test_distances_are_of_no_cases_too() -> None:
    """An empty tick has no distances."""
    assert fitted().far(np.empty((0, DIMENSION))).shape == (0,)


def test_one_transform_case_is_refused() -> None:
    """A spread can't be learnt from one case."""
    rng = np.random.default_rng(0)
    one = Reference(transform=batch(*see(rng, 1)), calibrate=batch(*see(rng, 30)))

    with pytest.raises(ValueError, match="two cases"):
        FarOut().fit(one)
