"""The traps that gates fall into in the field, each with the rule that stays out of it."""

from __future__ import annotations

import numpy as np
import pytest

from monitors import (
    Burden,
    Calibration,
    Forgetting,
    Gain,
    NegativeFlips,
    Scores,
    Verdict,
    WorstSubgroup,
    decidable,
    power,
    spend,
)
from monitors.intervals import NEVER, Change, decide


def right_or_wrong(right: np.ndarray, seed: int = 0) -> Scores:
    """Binary cases answered with 0.9, rightly or wrongly."""
    target = np.arange(len(right)) % 2
    said = np.where(right, target, 1 - target)
    p = np.where(said == 1, 0.9, 0.1)
    return Scores(probability=np.column_stack([1 - p, p]), target=target, unit=np.arange(len(right)).astype(np.str_))


def calibrated(n: int, seed: int, sharpness: float = 1.0) -> Scores:
    rng = np.random.default_rng(seed)
    odds = 1.5 * rng.standard_normal(n)
    target = (rng.random(n) < 1 / (1 + np.exp(-odds))).astype(int)
    p = 1 / (1 + np.exp(-sharpness * odds))
    return Scores(probability=np.column_stack([1 - p, p]), target=target, unit=np.arange(n).astype(np.str_))


def flipped(right: np.ndarray, rng: np.random.Generator, worse: float, better: float) -> np.ndarray:
    """Of the right ones a share `worse` turn wrong, of the wrong ones a share `better` turn right."""
    chance = rng.random(len(right))
    return np.where(right, chance >= worse, chance < better)


@pytest.mark.parametrize("discordance", [0.3, 0.5, 0.8])
def test_among_twelve_patients_a_false_gain_is_as_rare_as_among_many(discordance: float) -> None:
    """The least that gates decide on: of 400 candidates that only differ, some 5 % are called better, never 8 %."""
    rng, found = np.random.default_rng(int(100 * discordance)), 0
    for seed in range(400):
        differs, first = rng.random(12) < discordance, rng.random(12) < 0.5
        before, after = np.where(differs, first, True), np.where(differs, ~first, True)
        judged = Gain(alpha=0.05, seed=seed).judge(right_or_wrong(before), right_or_wrong(after))
        found += judged.verdict is Verdict.PASS
    assert found <= 0.08 * 400


def test_a_perfect_model_is_not_refused_on_a_hundred_cases() -> None:
    """ECE of a perfect model is far from 0 at n = 100; paired Brier and log-loss don't mind."""
    verdicts = [Calibration().judge(calibrated(100, s), calibrated(100, s, 1.05)).verdict for s in range(20)]

    assert Verdict.FAIL not in verdicts
    assert verdicts.count(Verdict.PASS) >= 18


def test_a_miscalibrated_model_is_refused_on_a_thousand_cases() -> None:
    """Odds three times too large, with not one answer changed, fail."""
    verdicts = [Calibration().judge(calibrated(1000, s), calibrated(1000, s, 3.0)) for s in range(4)]

    assert {v.verdict for v in verdicts} == {Verdict.FAIL}
    assert all(0.2 < float(v.says.split("slope ")[1].split(",")[0]) < 0.45 for v in verdicts)


def test_a_model_as_good_as_before_passes_as_often_as_the_arithmetic_says() -> None:
    """166 anchors, 5 % discordant, no true difference: 5 points are shown with power near 0.89, 2 points are not."""
    passes, held = 0, 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        right = rng.random(166) < 0.9
        before, after = right_or_wrong(right), right_or_wrong(flipped(right, rng, 0.025 / 0.9, 0.025 / 0.1))
        passes += Forgetting(margin=0.05).judge(before, after).verdict is Verdict.PASS
        held += Forgetting(margin=0.02).judge(before, after).verdict is not Verdict.PASS

    assert passes >= 30
    assert held >= 20


def test_a_loss_at_the_margin_passes_no_oftener_than_alpha() -> None:
    """A candidate that truly loses 5 points passes the 5-point gate in at most about 5 of 100 trials."""
    passed = 0
    for seed in range(120):
        rng = np.random.default_rng(seed)
        right = rng.random(300) < 0.9
        before, after = right_or_wrong(right), right_or_wrong(flipped(right, rng, 0.08 / 0.9, 0.03 / 0.1))
        passed += Forgetting(margin=0.05).judge(before, after).verdict is Verdict.PASS

    assert passed <= 12


def test_twenty_candidates_that_all_do_harm_stay_within_alpha() -> None:
    """With alpha spent over successive looks, one of 20 bad candidates passes in at most about 5 of 100 families."""
    families = 0
    for family in range(12):
        rng = np.random.default_rng((family, 1))
        right = rng.random(300) < 0.9
        before = right_or_wrong(right)
        families += any(
            Forgetting(margin=0.05, alpha=spend(0.05, look))
            .judge(before, right_or_wrong(flipped(right, rng, 0.08 / 0.9, 0.03 / 0.1)))
            .verdict
            is Verdict.PASS
            for look in range(1, 21)
        )

    assert families <= 2


def test_ten_small_regressions_are_stopped_by_the_original() -> None:
    """Each step loses 2 points and passes against the one before; against the original the walk ends early."""
    gate, n = Forgetting(margin=0.05), 1000
    right = [np.arange(n) % 500 >= 25 + 10 * step for step in range(11)]
    against_last = [gate.judge(right_or_wrong(right[k]), right_or_wrong(right[k + 1])).verdict for k in range(10)]
    against_first = [gate.judge(right_or_wrong(right[0]), right_or_wrong(right[k + 1])).verdict for k in range(10)]

    assert set(against_last) == {Verdict.PASS}
    assert against_first.index(Verdict.FAIL) <= 3
    assert Verdict.PASS not in against_first[3:]


def test_the_mean_does_not_hide_a_group_that_lost() -> None:
    """+5 points and -20 points cancel in the mean; the worst group fails and is named."""
    rng = np.random.default_rng(0)
    groups = np.repeat(["women", "men"], [400, 100])
    right = rng.random(500) < 0.85
    after = np.where(groups == "women", right | (rng.random(500) < 0.4), right & (rng.random(500) >= 0.25))
    judged = WorstSubgroup(groups).judge(right_or_wrong(right), right_or_wrong(after))

    assert Forgetting().judge(right_or_wrong(right), right_or_wrong(after)).verdict is Verdict.PASS
    assert judged.verdict is Verdict.FAIL
    assert "accuracy of men" in judged.says


def test_a_group_of_three_is_insufficient_not_a_pass() -> None:
    """Three patients decide nothing, even where none of them changed, and the gate says how many would."""
    right = np.ones(3, dtype=bool)
    judged = WorstSubgroup(np.array(["rare"] * 3)).judge(right_or_wrong(right), right_or_wrong(right))

    assert (judged.verdict, judged.needed) == (Verdict.INSUFFICIENT, 12)
    assert "rare (3 patients)" in judged.says


def test_small_groups_inform_beside_large_ones() -> None:
    """A group of three doesn't hold an update that the large groups let pass; it is told as not evaluable."""
    right = np.ones(103, dtype=bool)
    groups = np.repeat(["many", "few"], [100, 3])
    judged = WorstSubgroup(groups).judge(right_or_wrong(right), right_or_wrong(right))

    assert judged.verdict is Verdict.PASS
    assert "not evaluable: few (3 patients)" in judged.says


def test_small_groups_are_pooled_where_that_is_enough() -> None:
    """Three groups of ten, all harmed, are judged as one."""
    groups, right = np.repeat(["a", "b", "c", "many"], [10, 10, 10, 100]), np.ones(130, dtype=bool)
    after = np.where(groups == "many", True, np.arange(130) % 2 == 0)

    assert WorstSubgroup(groups).judge(right_or_wrong(right), right_or_wrong(after)).verdict is Verdict.FAIL


def test_an_insufficient_verdict_says_what_would_decide() -> None:
    """With the patients that it names, a candidate that changes as many answers for no worse usually passes."""
    rng = np.random.default_rng(3)
    right = rng.random(60) < 0.9
    judged = Forgetting(margin=0.05).judge(
        right_or_wrong(right), right_or_wrong(flipped(right, rng, 0.05 / 0.9, 0.05 / 0.1))
    )
    assert judged.verdict is Verdict.INSUFFICIENT
    assert judged.needed is not None
    passed = 0
    for seed in range(20):
        rng = np.random.default_rng((seed, 2))
        right = rng.random(judged.needed) < 0.9
        after = flipped(right, rng, 0.05 / 0.9, 0.05 / 0.1)
        passed += Forgetting(margin=0.05).judge(right_or_wrong(right), right_or_wrong(after)).verdict is Verdict.PASS

    assert 60 < judged.needed < 1000
    assert passed >= 11


def test_gain_is_shown_refuted_or_waits() -> None:
    """Large gain on many patients passes, none fails, and a dozen patients can't tell."""
    rng = np.random.default_rng(0)
    many, few = rng.random(300) < 0.5, rng.random(12) < 0.5
    all_right = np.ones(300, dtype=bool)

    assert Gain().judge(right_or_wrong(many), right_or_wrong(all_right)).verdict is Verdict.PASS
    assert Gain().judge(right_or_wrong(many), right_or_wrong(many)).verdict is Verdict.FAIL
    assert Gain().judge(right_or_wrong(few), right_or_wrong(~few)).verdict is Verdict.INSUFFICIENT


def test_flips_are_counted_by_patient() -> None:
    """One patient's ten images that all flip are one flip of many patients, exact bounds and all."""
    right = np.ones(109, dtype=bool)
    after = right.copy()
    after[:10] = False
    patient = np.concatenate([np.zeros(10, int), np.arange(1, 100)]).astype(np.str_)
    before_scores, after_scores = (
        Scores(probability=s.probability, target=s.target, unit=patient)
        for s in (right_or_wrong(right), right_or_wrong(after))
    )
    judged = NegativeFlips().judge(before_scores, after_scores)

    assert (judged.n, judged.after, judged.verdict) == (100, 0.01, Verdict.PASS)


def test_other_patients_with_the_same_number_of_cases_are_refused() -> None:
    """Pairs of different patients are no pairs."""
    one = right_or_wrong(np.ones(50, dtype=bool))
    other = Scores(probability=one.probability, target=one.target, unit=np.array([f"other {i}" for i in range(50)]))

    with pytest.raises(ValueError, match="same cases"):
        Forgetting().judge(one, other)


def test_when_no_alpha_is_left_nothing_is_decided_and_nothing_breaks() -> None:
    """After sixty looks at one anchor set the level is below what a float tells from 0."""
    change = Change(before=0.9, after=0.9, change=0.0, error=0.01, n=50)
    level = spend(0.05, 60)

    assert decide(change, 0.05, level, Burden.NON_INFERIORITY, 12) == (Verdict.INSUFFICIENT, NEVER)


def test_what_a_number_of_patients_decides() -> None:
    """The figures of the design: power 0.31 at 2 points, 0.89 at 5, 0.53 at 5 after a twentieth of alpha."""
    found = [power(166, 0.02), power(166, 0.05), power(166, 0.05, alpha=0.0025)]

    assert np.round(found, 2).tolist() == [0.31, 0.89, 0.53]
    assert power(166, decidable(166)) == pytest.approx(0.8)
    assert decidable(0) == float("inf")


def test_all_looks_together_stay_within_alpha() -> None:
    """However many candidates come, the levels sum to no more than alpha."""
    assert sum(spend(0.05, look) for look in range(1, 200)) <= 0.05
    with pytest.raises(ValueError, match="from 1"):
        spend(0.05, 0)


@pytest.mark.parametrize("harmful", [1.0, 0.5, 0.2])
def test_no_harmful_candidate_passes_more_often_than_alpha(harmful: float) -> None:
    """Good candidates hand their level on to the next; the chance that any bad one of thirty passes stays in alpha."""
    rng, fooled = np.random.default_rng(0), 0
    for _ in range(4000):
        carried, wrong = 0.0, False
        for look in range(1, 31):
            level = spend(0.05, look, carried)
            bad = rng.random() < harmful
            passed = rng.random() < level if bad else True
            wrong, carried = wrong or (bad and passed), level if passed else 0.0
        fooled += wrong

    assert fooled / 4000 <= 0.05 + 2 * np.sqrt(0.05 * 0.95 / 4000)


def test_a_gain_is_shown_on_few_patients_but_never_by_giving_up_a_class() -> None:
    """Twelve of thirty patients put right are a gain, though two classes have two each; a lost class is none."""
    target = np.array([0] * 26 + [1] * 2 + [2] * 2)
    unit = np.array([f"p{i}" for i in range(30)])

    def says(wrong: list[int]) -> Scores:
        answer = target.copy()
        answer[wrong] = (answer[wrong] + 1) % 3
        return Scores(probability=np.eye(3)[answer] * 0.8 + 0.2 / 3, target=target, unit=unit)

    before = says([*range(13), 27])
    found = Gain().judge(before, says([0, 27]))
    assert found.verdict is Verdict.PASS and found.says.startswith("accuracy")
    assert Gain().judge(before, says([0, 26, 27, 28, 29])).verdict is not Verdict.PASS
