"""Accuracy is estimated without labels where the assumption holds, and known to fail where it doesn't."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from answers import RARE, answers, harder, taken

from monitors import ATC, CBPE, DoC, Scores, accuracy, estimate


def of(how: object, known: Scores, new: Scores, by_class: bool = False):
    return estimate(how, known, new.probability, new.unit, by_class)


@pytest.mark.parametrize("sure", [0.6, 1.0, 2.5])
def test_cbpe_is_right_of_other_patients_whom_the_model_is_less_sure_of(sure: float) -> None:
    """Where labels given images stay, the fall is estimated within three points, of a model that is too sure or not
    sure enough as well; guessing that nothing changed is off by far more."""
    rng = np.random.default_rng(0)
    known, new = answers(rng, 2000, sure=sure), answers(rng, 6000, sure=1.0, name="new")
    new = harder(rng, new)
    odds = np.log(new.probability) * sure
    p = np.exp(odds - odds.max(axis=1, keepdims=True))
    new = dataclasses.replace(new, probability=p / p.sum(axis=1, keepdims=True))
    found, true = of(CBPE(), known, new), accuracy(new)[0]

    assert found.value == pytest.approx(true, abs=0.03)
    assert found.low <= true <= found.high
    assert found.before - true > 0.08


@pytest.mark.parametrize("kind", [CBPE, ATC, DoC])
def test_another_prevalence_misleads_them_as_their_assumption_says(kind: type) -> None:
    """From 15 to 60 % of the class that is missed more often: the true fall is over twelve points, and each estimates
    less than two thirds of it, with a band that doesn't hold the truth."""
    rng = np.random.default_rng(1)
    known = answers(rng, 1500, prior=RARE, apart=1.2)
    new = answers(rng, 1500, prior=RARE, apart=1.2, now=(0.4, 0.6), name="new")
    found, true = of(kind(), known, new), accuracy(new)[0]

    assert found.before - true > 0.12
    assert found.before - found.value < 2 / 3 * (found.before - true)
    assert found.low > true
    assert "prevalence" in found.says == kind.assumption


@pytest.mark.parametrize("sure", [0.7, 1.0, 1.5])
def test_another_prevalence_is_reckoned_with_where_that_is_asked_for(sure: float) -> None:
    """The same fall, of a model that is too sure or not sure enough: off by less than half of what the plain rule is,
    with a band that holds the truth; and the assumption no longer excludes it."""
    rng = np.random.default_rng(1)
    known = answers(rng, 1500, prior=RARE, apart=1.2, sure=sure)
    new = answers(rng, 1500, prior=RARE, apart=1.2, now=(0.4, 0.6), sure=sure, name="new")
    found, plain, true = of(CBPE(other_mix=True), known, new), of(CBPE(), known, new), accuracy(new)[0]

    assert abs(found.value - true) < (plain.value - true) / 2
    assert found.low < true < found.high < plain.low
    assert "prevalence" in CBPE().assumption and "prevalence" not in found.says


def test_a_class_that_nobody_labelled_keeps_its_chances() -> None:
    """Three classes, of which the reference has two: nothing is divided by its prevalence, and what the mix of the
    others became is still followed."""
    rng = np.random.default_rng(10)
    known = answers(rng, 1200, prior=(0.7, 0.28, 0.02), now=(0.7, 0.3, 0.0), apart=1.5, sure=1.0)
    new = answers(rng, 1200, prior=(0.7, 0.28, 0.02), now=(0.2, 0.8, 0.0), apart=1.5, sure=1.0, name="new")
    plain, found = of(CBPE(), known, new), of(CBPE(other_mix=True), known, new)
    true = accuracy(new)[0]

    assert abs(found.value - true) < 0.04 < abs(plain.value - true)


def test_each_finding_has_a_prevalence_of_its_own() -> None:
    """The first comes four times as often, which it is missed more for; the second as often as before."""
    rng = np.random.default_rng(11)
    sides = []
    for first, name in ((0.15, "known"), (0.6, "new")):
        one, other = (answers(rng, 1500, prior=RARE, apart=1.2, now=(1 - share, share), sure=1.0, name=name)
                      for share in (first, 0.15))  # fmt: skip
        p = np.column_stack([one.probability[:, 1], other.probability[:, 1]])
        sides.append(Scores(probability=p, target=np.column_stack([one.target, other.target]), unit=one.unit))
    found, right = of(CBPE(other_mix=True), *sides), (sides[1].probability >= 0.5) == sides[1].target

    assert [value for value, _, _ in found.by_class] == pytest.approx(right.mean(axis=0), abs=0.04)
    assert of(CBPE(), *sides).by_class[0][0] - right[:, 0].mean() > 0.05


def test_a_concept_that_changed_is_not_seen() -> None:
    """Labels that mean something else now leave the images, and so the estimate, as they were."""
    rng = np.random.default_rng(2)
    known, new = answers(rng, 500), answers(rng, 500, name="new")
    swapped = dataclasses.replace(new, target=(new.target + 1) % 3)
    found = of(CBPE(), known, swapped)

    assert accuracy(swapped)[0] < 0.2
    assert found.low > 0.7


def test_classes_have_estimates_of_their_own() -> None:
    """Of the answers of each class; a class that is hardly ever answered has none, and nor has one that is not known of
    the reference."""
    rng = np.random.default_rng(3)
    known, new = answers(rng, 1500), answers(rng, 1500, name="new")
    few = new.probability.argmax(axis=1)
    new = taken(new, np.flatnonzero((few != 2) | (np.cumsum(few == 2) < 19)))
    found = of(CBPE(), known, new)

    assert found.by_class[2] is None
    for c in (0, 1):
        value, low, high = found.by_class[c]
        answered = new.probability.argmax(axis=1) == c
        assert low <= np.mean(new.target[answered] == c) <= high
        assert low < value < high
    without = taken(known, np.flatnonzero(known.probability.argmax(axis=1) != 1))
    assert of(CBPE(), without, new).by_class[1] is None


@pytest.mark.parametrize("kind", [CBPE, ATC, DoC])
def test_a_rule_for_each_class_sees_what_one_for_all_averages_away(kind: type) -> None:
    """A model that is too sure of one class only, of which there is more now (its answers are as often right as
    before): the rules by class follow, one rule for all doesn't."""
    rng = np.random.default_rng(4)

    def half_sure(n: int, first: float, name: str) -> Scores:
        answer, truth = (rng.random(n) >= first).astype(int), rng.uniform(0.6, 1.0, n)
        right = rng.random(n) < np.where(answer == 0, truth - 0.3, truth)
        p = np.where(answer == 0, truth, 1 - truth)
        target = np.where(right, answer, 1 - answer)
        return Scores(probability=np.column_stack([p, 1 - p]), target=target,
                      unit=np.array([f"{name} {i}" for i in range(n)]))  # fmt: skip

    known, new = half_sure(2000, 0.2, "known"), half_sure(2000, 0.8, "new")
    pooled, own, true = of(kind(), known, new), of(kind(), known, new, True), accuracy(new)[0]

    assert pooled.value - true > 0.12
    assert own.value == pytest.approx(true, abs=0.04)
    assert own.low <= true <= own.high


def findings(rng: np.random.Generator, n: int, easy: float, name: str) -> Scores:
    """Four findings that don't exclude each other; the probabilities of the first are calibrated, the others too sure.
    easy: how far from a half they are."""
    truth = 1 / (1 + np.exp(-easy * rng.standard_normal((n, 4))))
    target = (rng.random((n, 4)) < truth).astype(int)
    odds = np.log(truth / (1 - truth)) * np.array([1.0, 2.0, 2.0, 3.0])
    return Scores(probability=1 / (1 + np.exp(-odds)), target=target, unit=np.array([f"{name} {i}" for i in range(n)]))


@pytest.mark.parametrize("by_class", [False, True])
def test_findings_that_dont_exclude_each_other_are_estimated_one_by_one(by_class: bool) -> None:
    """Each finding is calibrated by its own labels, so that a fall is estimated rightly of each and of all."""
    rng = np.random.default_rng(5)
    known, new = findings(rng, 1500, 3.0, "known"), findings(rng, 1500, 1.5, "new")
    found = of(CBPE(), known, new, by_class)
    right = (new.probability >= 0.5) == new.target

    assert found.value == pytest.approx(right.mean(), abs=0.02)
    assert found.before - found.value > 0.08
    assert [value for value, _, _ in found.by_class] == pytest.approx(right.mean(axis=0), abs=0.05)
    assert all(low <= true <= high for (_, low, high), true in zip(found.by_class, right.mean(axis=0), strict=True))


def test_a_finding_that_nobody_labelled_is_left_out() -> None:
    """It has no estimate and no part in the others' mean; partial labels count where they are."""
    rng = np.random.default_rng(6)
    known, new = findings(rng, 600, 3.0, "known"), findings(rng, 600, 3.0, "new")
    target = known.target.copy()
    target[:, 3], target[:300, 1] = -1, -1
    found = of(CBPE(), dataclasses.replace(known, target=target), new)
    right = (new.probability >= 0.5) == new.target

    assert found.by_class[3] is None
    assert found.value == pytest.approx(right[:, :3].mean(), abs=0.03)


def test_the_calibration_is_the_most_likely_one() -> None:
    """Weighted, under its prior, and the same as a general optimiser finds."""
    from scipy.optimize import minimize

    rng = np.random.default_rng(7)
    confidence, weights = rng.uniform(0.35, 0.999999, 80), rng.integers(0, 4, (3, 80)).astype(float)
    right = (rng.random(80) < confidence**2).astype(float)
    odds = np.log(confidence / (1 - confidence))
    rule = CBPE().learn(confidence, right, weights)
    for row, found in zip(weights, rule(confidence), strict=True):

        def loss(at: np.ndarray, row: np.ndarray = row) -> float:
            z = at[0] * odds + at[1]
            return float(row @ (np.logaddexp(0, z) - right * z) + ((at[0] - 1) ** 2 + at[1] ** 2) / 2)

        slope, intercept = minimize(loss, [1.0, 0.0], tol=1e-10).x
        assert found == pytest.approx(1 / (1 + np.exp(-slope * odds - intercept)), abs=1e-4)


def test_the_threshold_leaves_as_many_below_as_are_wrong() -> None:
    """Of ten answers three are wrong: the threshold is the fourth lowest confidence; a case that is drawn twice counts
    twice, and where all are wrong nothing lies above."""
    confidence = np.linspace(0.1, 1.0, 10)
    right, weights = np.ones(10), np.ones((2, 10))
    right[[2, 7, 9]] = 0
    weights[1, 0] = 2
    one, twice = ATC().learn(confidence, right, weights)(confidence)

    assert one.sum() == 7
    assert twice.sum() == 8
    assert ATC().learn(confidence, np.zeros(10), weights)(confidence).sum() == 0


def test_the_difference_of_confidences_is_taken_off() -> None:
    """Four points less sure is four points less accurate."""
    known, new = np.full(30, 0.9), np.full(5, 0.86)
    rule = DoC().learn(known, (np.arange(30) < 24).astype(float), np.ones((1, 30)))
    assert rule(new).mean() == pytest.approx(0.80 - 0.04)


def test_other_classes_are_no_side_to_compare_with() -> None:
    """A model with three classes says nothing of one with two; one class only has nothing to be wrong about."""
    rng = np.random.default_rng(8)
    known, new = answers(rng, 50), answers(rng, 50, prior=RARE)
    with pytest.raises(ValueError, match="2 classes can't be compared with 3"):
        of(CBPE(), known, new)
    single = dataclasses.replace(known, probability=np.ones((50, 1)), target=np.zeros(50, int))
    assert "one class only" in of(CBPE(), single, single).says
