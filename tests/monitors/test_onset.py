"""The onset's interval holds the change as often as it says, and is as wide as what is known of it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from test_attribution import REFERENCE, WORLD, seen

from monitors import Batch, onset

CHANGE = 151  # index of the first changed case


def stream(shift: str | None, later: int = 100, seed: int = 0) -> Batch:
    """A hundred and fifty cases as before, then `later` changed ones."""
    return seen(WORLD.stream(CHANGE - 1 + later, (11, seed), shift, CHANGE - 1), 1)


@pytest.mark.parametrize("shift", ["mean", "cov", "subpop", "prevalence"])
def test_the_interval_holds_the_change(shift: str) -> None:
    """In at least 34 of 40 streams a hundred cases after the change, though the chart's guess is off by up to 40."""
    guesses = np.random.default_rng(0).integers(CHANGE - 30, CHANGE + 40, 40).tolist()
    found = [onset(REFERENCE, stream(shift, seed=seed), guess) for seed, guess in enumerate(guesses)]

    assert sum(one is not None and one.low <= CHANGE <= one.high for one in found) >= 34


def test_more_cases_narrow_it() -> None:
    """Four hundred cases after a change date it better than thirty do, and within twenty cases in the median."""
    found = {
        later: [one for seed in range(12) if (one := onset(REFERENCE, stream("mean", later, seed), CHANGE + 5))]
        for later in (30, 400)
    }
    wide, narrow = (np.median([one.high - one.low for one in found[later]]) for later in (30, 400))

    assert narrow < wide
    assert narrow <= 40
    assert np.median([abs(one.case - CHANGE) for one in found[400]]) <= 20


def test_a_gross_change_is_dated_to_the_case() -> None:
    """Twenty cases of another world leave no doubt of more than a few cases."""
    cases = stream(None, 20)
    moved = np.arange(len(cases)) >= CHANGE - 1
    found = onset(REFERENCE, replace(cases, embedding=cases.embedding + 8.0 * moved[:, None]), CHANGE)

    assert found is not None
    assert abs(found.case - CHANGE) <= 1
    assert found.low <= CHANGE <= found.high
    assert found.high - found.low <= 4


def test_a_few_changed_patients_do_not_rule_out_that_others_changed_before() -> None:
    """A quarter of the cases is of another world; ten patients later the interval still holds the first of them."""
    held = 0
    for seed in range(12):
        cases = stream(None, 40, seed)
        moved = (np.arange(len(cases)) >= CHANGE - 1) & (np.random.default_rng(seed).random(len(cases)) < 0.25)
        found = onset(REFERENCE, replace(cases, embedding=cases.embedding + 6.0 * moved[:, None]), len(cases) - 10)
        held += found is not None and found.low <= CHANGE <= found.high
    assert held >= 9


def test_where_nothing_changed_nearly_every_case_could_be_it() -> None:
    """A false alarm's onset is not dated to a few cases."""
    widths = [one.high - one.low for seed in range(10) if (one := onset(REFERENCE, stream(None, 100, seed), 180))]

    assert np.median(widths) >= 100


def test_a_patient_is_one_observation() -> None:
    """Each case twice in a row changes neither the onset nor its interval but for the count of cases."""
    cases = stream("mean")
    twice = np.repeat(np.arange(len(cases)), 2)
    doubled = replace(
        cases, index=np.arange(1, 2 * len(cases) + 1), unit=cases.unit[twice], stratum=cases.stratum[twice],
        time=cases.time[twice], outputs=cases.outputs[twice], embedding=cases.embedding[twice],
            quality=cases.quality[twice], facts={}, form={}, target=cases.target[twice],
    )  # fmt: skip
    once, again = onset(REFERENCE, cases, CHANGE), onset(REFERENCE, doubled, 2 * CHANGE - 1)

    assert once is not None and again is not None
    assert [2 * at - 1 for at in (once.case, once.low, once.high)] == [again.case, again.low, again.high]


def test_too_few_patients_date_nothing_and_nan_is_left_out() -> None:
    """Seven changed patients are too few; of eight, one that the sensor could not see leaves seven."""
    cases = stream("mean", 8)
    blind = cases.embedding.copy()
    blind[-1, 0] = np.nan

    assert onset(REFERENCE, stream("mean", 7), CHANGE) is None
    assert onset(REFERENCE, cases, CHANGE) is not None
    assert onset(REFERENCE, replace(cases, embedding=blind), CHANGE) is None
