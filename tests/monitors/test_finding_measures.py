"""Findings that don't exclude each other: their measures beside scikit-learn's, and what the gates make of them."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn import metrics

from monitors import (
    CBPE,
    MEASURES_OF_FINDINGS,
    Batch,
    Findings,
    Forgetting,
    Gain,
    NegativeFlips,
    Reference,
    Shift,
    Verdict,
    WorstStructure,
    attribute,
    auroc_per_finding,
    case_set_f1,
    collapse,
    estimate,
    exact_match,
    finding_auroc,
    finding_brier,
    finding_ece,
    finding_nll,
    finding_recall,
    form_of,
    set_f1,
)


def findings(probability: np.ndarray, target: np.ndarray, known: np.ndarray | None = None) -> Findings:
    n = len(target)
    return Findings(
        probability=np.asarray(probability, float),
        target=np.asarray(target, bool),
        known=np.ones(n, bool) if known is None else known,
        unit=np.array([f"p{i}" for i in range(n)]),
    )


def drawn(n: int, k: int = 3, seed: int = 0, skill: float = 1.5, share: float = 0.4) -> Findings:
    rng = np.random.default_rng(seed)
    target = rng.random((n, k)) < share
    odds = skill * (2 * target - 1.0) + rng.standard_normal((n, k))
    return findings(1 / (1 + np.exp(-odds)), target)


def answered(target: np.ndarray, right: np.ndarray) -> Findings:
    """Each finding answered rightly or wrongly, with nine tenths."""
    return findings(np.where(right == target, 0.9, 0.1), target)


def test_the_measures_are_scikit_learn_s() -> None:
    """Each of the seven, on draws with cases that have none of the findings."""
    one = drawn(120)
    said, true = one.probability >= 0.5, one.target
    some = true.any(axis=1) | said.any(axis=1)
    by_hand = {
        exact_match: metrics.accuracy_score(true, said),
        finding_recall: np.mean([metrics.balanced_accuracy_score(true[:, c], said[:, c]) for c in range(3)]),
        set_f1: (metrics.f1_score(true[some], said[some], average="samples", zero_division=0) * some.sum()
                 + (~some).sum()) / len(some),
        finding_auroc: metrics.roc_auc_score(true, one.probability, average="macro"),
        finding_brier: np.mean([metrics.brier_score_loss(true[:, c], one.probability[:, c]) for c in range(3)]),
        finding_nll: np.mean([metrics.log_loss(true[:, c], one.probability[:, c]) for c in range(3)]),
    }  # fmt: skip
    assert {*by_hand, finding_ece} == {*MEASURES_OF_FINDINGS}
    assert not some.all() and some.any()
    for measure, wanted in by_hand.items():
        assert measure(one)[0] == pytest.approx(wanted, abs=1e-5), measure.__name__
    assert auroc_per_finding(one)[0] == pytest.approx(metrics.roc_auc_score(true, one.probability, average=None))


def test_calibration_is_of_each_finding_by_itself() -> None:
    """Errors of two findings that cancel make no calibrated model: a third too high here, a third too low there."""
    target = np.tile([[True, False], [True, False], [False, True]], (40, 1)).reshape(-1, 2)
    one = findings(np.tile([1.0, 0.0], (120, 1)), target)
    assert finding_ece(one)[0] == pytest.approx(1 / 3)
    calibrated = findings(np.tile([2 / 3, 1 / 3], (120, 1)), target)
    assert finding_ece(calibrated)[0] == pytest.approx(0, abs=1e-6)


@pytest.mark.parametrize("measure", MEASURES_OF_FINDINGS, ids=lambda measure: measure.__name__)
def test_weights_are_cases(measure) -> None:
    """A case of weight 2 is one that is there twice, one of weight 0 or without a label is not there."""
    one = drawn(60, seed=3)
    weights = np.random.default_rng(0).integers(0, 3, (4, 60)).astype(float)
    twice = [measure(one.take(np.repeat(np.arange(60), row.astype(int))))[0] for row in weights]
    assert measure(one, weights) == pytest.approx(twice, abs=1e-6)
    known = np.arange(60) % 2 == 0
    hidden = findings(one.probability, one.target, known)
    assert measure(hidden)[0] == pytest.approx(measure(one.take(known))[0], abs=1e-6)


def test_a_finding_that_nobody_has_counts_for_what_there_is_of_it() -> None:
    """It has no AUROC and no sensitivity, and its specificity is one of the three shares; no label at all is NaN."""
    target = np.array([[True, False], [False, False]])
    one = findings(np.array([[0.9, 0.9], [0.1, 0.1]]), target)
    assert finding_recall(one)[0] == pytest.approx((1 + 1 + 0.5) / 3)
    assert finding_auroc(one)[0] == 1.0 and np.isnan(auroc_per_finding(one)[0, 1])
    assert np.isnan(finding_auroc(one.take(np.array([False, True])))[0])
    nobody = findings(one.probability, target, np.zeros(2, bool))
    assert all(np.isnan(measure(nobody)[0]) for measure in MEASURES_OF_FINDINGS)


def test_a_case_is_worth_the_f1_of_its_set() -> None:
    """All right, half of what is there, one too many, none where there is none, one where there is none, no label."""
    target = np.array([[1, 1, 0], [1, 1, 0], [1, 0, 0], [0, 0, 0], [0, 0, 0], [1, 0, 0]], bool)
    said = np.array([[1, 1, 0], [1, 0, 0], [1, 1, 0], [0, 0, 0], [0, 0, 1], [1, 0, 0]])
    one = findings(said, target, np.arange(6) < 5)
    assert case_set_f1(one)[:5] == pytest.approx([1, 2 / 3, 2 / 3, 1, 0])
    assert np.isnan(case_set_f1(one)[5])


@pytest.mark.parametrize(("n", "margin"), [(12, 0.2), (30, 0.1), (100, 0.05)])
@pytest.mark.parametrize("whole", [True, False])
def test_a_loss_at_the_margin_passes_no_oftener_than_alpha(n: int, margin: float, whole: bool) -> None:
    """Patients who lose every finding at once, and findings that are lost one by one: at most 5 in 100."""
    trials, passed = 120, 0
    for seed in range(trials):
        rng = np.random.default_rng((seed, n))
        target, right = rng.random((n, 3)) < 0.4, rng.random((n, 3)) < 0.9
        lost = rng.random((n, 1 if whole else 3)) < margin / 0.9
        before, after = answered(target, right), answered(target, right & ~lost)
        passed += Forgetting(margin=margin, seed=seed).judge(before, after).verdict is Verdict.PASS
    assert passed <= trials * (0.05 + 2 * np.sqrt(0.05 * 0.95 / trials))


def test_a_version_that_gives_up_a_rare_finding_is_refused() -> None:
    """One finding in twelve cases is said no more: of all answers one in forty, which a mean over them would pass."""
    rng = np.random.default_rng(0)
    n = 400
    target = np.column_stack([rng.random((n, 2)) < 0.4, rng.random(n) < 1 / 12])
    right = rng.random((n, 3)) < 0.985
    before = answered(target, right)
    probability = before.probability.copy()
    probability[:, 2] = 0.05
    after = findings(probability, target)
    assert ((before.probability >= 0.5) == (after.probability >= 0.5)).mean() > 0.95
    assert Forgetting(margin=0.05).judge(before, after).verdict is Verdict.FAIL
    told = WorstStructure(("bar", "disc", "ring")).judge(before, after)
    assert told.verdict is Verdict.FAIL and "of ring" in told.says
    assert "finding 2" in WorstStructure().judge(before, after).says


def test_thresholds_that_are_put_right_are_a_gain_though_the_ranking_stays() -> None:
    """Every probability below a half, all in order: AUROC is 1 before and after, and nothing is found before."""
    target = np.random.default_rng(0).random((80, 2)) < 0.5
    low, fine = findings(np.where(target, 0.4, 0.1), target), findings(np.where(target, 0.8, 0.1), target)
    assert finding_auroc(low)[0] == finding_auroc(fine)[0] == 1
    assert Gain().judge(low, fine).verdict is Verdict.PASS
    flips = NegativeFlips().judge(fine, low)
    assert flips.verdict is Verdict.FAIL and "F1 of 0.5" in flips.says
    assert form_of(low, fine).quality[0] == "balanced accuracy of findings"


def test_findings_are_estimated_without_labels() -> None:
    """The share of them that are answered rightly, by rules learnt on the reference; cases without a label teach
    nothing."""
    reference, new = drawn(300, seed=1), drawn(300, seed=2)
    known = np.arange(300) < 200
    found = estimate(CBPE(), findings(reference.probability, reference.target, known), new.probability, new.unit)
    truth = ((new.probability >= 0.5) == new.target).mean()
    assert found.low is not None and found.high is not None and found.low <= truth <= found.high
    assert found.before == pytest.approx(((reference.probability >= 0.5) == reference.target)[known].mean())


def test_answers_that_sum_to_nothing_are_no_broken_outputs() -> None:
    """Two findings with nine tenths each are an answer; of classes that exclude each other they are none."""
    both = np.tile([0.9, 0.9, 0.05], (5, 1))
    nobody = np.zeros((0, 3))
    assert collapse(both, nobody, exclusive=False) is None
    assert "sum to 1" in str(collapse(both, nobody))
    assert str(collapse(both + 0.2, nobody, exclusive=False)) == "outputs are not probabilities"
    told_apart = np.random.default_rng(0).random((30, 3))
    assert "same answer" in str(collapse(np.tile(both, (6, 1)), told_apart, exclusive=False))


def test_another_mix_of_findings_is_called_no_prevalence_and_the_last_one_is_seen() -> None:
    """The images of those who have it come three times as often. How common each finding is can't be told apart from
    how they come together, so the mix is not weighed; and no finding follows from the others."""

    def batch(n: int, share: float, seed: int) -> Batch:
        rng = np.random.default_rng(seed)
        has = np.column_stack([rng.random(n) < 0.4, rng.random(n) < share])
        seen = np.column_stack([has * 2.0, rng.standard_normal((n, 2))]) + rng.standard_normal((n, 4)) * 0.3
        return Batch(
            index=np.arange(1, n + 1), unit=np.array([f"{seed}-{i}" for i in range(n)]), stratum=np.full(n, "all"),
            time=np.full(n, np.nan), outputs=np.where(has, 0.9, 0.1), embedding=seen, version="v0", sensor="s",
        )  # fmt: skip

    reference = Reference(transform=batch(300, 0.2, 0), calibrate=batch(300, 0.2, 1))
    answer = attribute(reference, batch(200, 0.6, 2), of_classes=False)
    assert answer.shift is not Shift.PREVALENCE
    assert answer.p_answers < 0.01, "it is the last column that moved"
    assert answer.confidence == pytest.approx((0.9, 0.9))
    assert answer.prevalence[1] == pytest.approx(0.58, abs=0.08), "the mean of what is answered"
