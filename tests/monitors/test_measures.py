"""Measures against values worked out by hand, and against weights as repeated cases."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitors import (
    MEASURES,
    Scores,
    accuracy,
    auroc,
    balanced_accuracy,
    brier,
    calibration_in_the_large,
    calibration_slope,
    ece,
    ece_debiased,
    nll,
)


def scores(probability: list, target: list) -> Scores:
    p = np.array(probability, dtype=float)
    return Scores(probability=p, target=np.array(target), unit=np.arange(len(p)).astype(np.str_))


def binary(positive: list, target: list) -> Scores:
    return scores([[1 - p, p] for p in positive], target)


def drawn(n: int, seed: int, sharpness: float = 1.0) -> Scores:
    """A perfectly calibrated binary model where sharpness is 1; an over-confident one above."""
    rng = np.random.default_rng(seed)
    odds = 1.5 * rng.standard_normal(n)
    target = (rng.random(n) < 1 / (1 + np.exp(-odds))).astype(int)
    p = 1 / (1 + np.exp(-sharpness * odds))
    return Scores(probability=np.column_stack([1 - p, p]), target=target, unit=np.arange(n).astype(np.str_))


# Four cases of three classes: the first two of class 0 (one right), one of class 1 (right), one of class 2 (wrong).
THREE = scores([[0.7, 0.2, 0.1], [0.2, 0.5, 0.3], [0.1, 0.8, 0.1], [0.6, 0.3, 0.1]], [0, 0, 1, 2])
TWO = binary([0.9, 0.4, 0.4, 0.1], [1, 1, 0, 0])


@pytest.mark.parametrize(
    ("measure", "records", "by_hand"),
    [
        (accuracy, THREE, 2 / 4),
        (balanced_accuracy, THREE, (1 / 2 + 1 + 0) / 3),
        (auroc, TWO, (2 + 1.5) / 4),  # the pair at 0.4 is a tie
        (auroc, THREE, ((1 + 0 + 1 + 1) / 4 + 1.0 + 0.5 / 3 * 2) / 3),
        (brier, TWO, (0.1**2 + 0.6**2 + 0.4**2 + 0.1**2) / 4),
        (brier, THREE, (0.14 + 0.98 + 0.06 + 1.26) / 4),
        (nll, TWO, -np.log([0.9, 0.4, 0.6, 0.9]).mean()),
        (ece, TWO, (0.1 + 0.1 + 0.4 - 0.6) / 4 + 0.2 / 4),
        (calibration_in_the_large, TWO, 0.5 - 0.45),
    ],
    ids=lambda value: getattr(value, "__name__", ""),
)
def test_values_worked_out_by_hand(measure, records: Scores, by_hand: float) -> None:
    """Small cases that a reader can check with a pencil."""
    if measure is ece:  # tops 0.9 0.6 0.6 0.9: bin of 0.6 holds right 0 of {wrong, right}, bin of 0.9 two right
        by_hand = abs((0 - 0.6) + (1 - 0.6)) / 4 + abs(2 * (1 - 0.9)) / 4

    assert measure(records, None) == pytest.approx([by_hand])


def test_a_perfectly_calibrated_slope_is_one_and_an_over_confident_one_less() -> None:
    """Log-odds twice too large have slope one half."""
    assert calibration_slope(drawn(20_000, 0))[0] == pytest.approx(1.0, abs=0.05)
    assert calibration_slope(drawn(20_000, 0, 2.0))[0] == pytest.approx(0.5, abs=0.03)


def test_debiased_ece_does_not_mistake_few_cases_for_miscalibration() -> None:
    """Of perfect models on 200 cases, plain ECE shows some 5 points; the debiased one a good deal less."""
    plain, debiased = (np.mean([m(drawn(200, seed))[0] for seed in range(40)]) for m in (ece, ece_debiased))

    assert plain > 0.04
    assert debiased < 0.8 * plain
    assert ece_debiased(drawn(20_000, 1, 3.0))[0] == pytest.approx(ece(drawn(20_000, 1, 3.0))[0], rel=0.25)


def test_what_cannot_be_measured_is_nan() -> None:
    """One class only has no AUROC, and no labelled case has no measure at all."""
    assert np.isnan(auroc(binary([0.2, 0.7], [1, 1]))[0])
    assert all(np.isnan(measure(binary([0.2, 0.7], [-1, -1]))[0]) for measure in MEASURES)


def test_unlabelled_cases_do_not_count() -> None:
    """A case without a label is never a negative: each measure is what it is without that case."""
    with_gap = binary([0.9, 0.4, 0.99, 0.4, 0.1], [1, 1, -1, 0, 0])

    for measure in MEASURES:
        np.testing.assert_allclose(measure(with_gap), measure(TWO), err_msg=measure.__name__)


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4))
def test_weights_are_repeated_cases(seed: int, classes: int) -> None:
    """Any integer weights give each measure what repeating the cases gives. One of the nine is left out: the debiased
    ECE counts effective cases, and repeating a case adds none."""
    rng = np.random.default_rng(seed)
    p = np.round(rng.dirichlet(np.ones(classes), 30), 2) + 1e-3
    records = Scores(
        probability=p / p.sum(axis=1, keepdims=True),
        target=rng.integers(0, classes, 30),
        unit=np.arange(30).astype(np.str_),
    )
    weights = rng.integers(0, 4, 30)
    again = np.repeat(np.arange(30), weights)
    repeated = Scores(probability=records.probability[again], target=records.target[again], unit=records.unit[again])

    assert len(MEASURES) == 9
    for measure in set(MEASURES) - {ece_debiased}:
        np.testing.assert_allclose(
            measure(records, np.stack([weights, np.ones(30)]).astype(float))[0],
            measure(repeated)[0],
            rtol=1e-4,
            atol=1e-5,
            err_msg=measure.__name__,
        )
