"""The gates over masks and boxes: the level they keep, what they find, and what they say."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitors import (
    Boxes,
    Burden,
    Calibration,
    Forgetting,
    Gain,
    NegativeFlips,
    Regions,
    Scores,
    Verdict,
    WorstStructure,
    WorstSubgroup,
    case_dice,
    case_f1,
)
from monitors.intervals import Change

PIXELS = 10_000
LUMP = 0.06  # of masks that miss altogether
MEAN = (1 - LUMP) * 12 / 14.1


def masks(dice: np.ndarray, brier: float = 0.02, unit: np.ndarray | None = None) -> Regions:
    """Cases with these Dice [n] or [n, s]; NaN where a structure is neither true nor said."""
    dice = np.asarray(dice, float).reshape(len(dice), -1)
    there = np.where(np.isnan(dice), 0, PIXELS)
    n = len(dice)
    return Regions(
        overlap=np.stack([np.nan_to_num(dice) * there, there, there], axis=2),
        brier=np.full(n, brier),
        nll=np.full(n, 2 * brier),
        known=np.ones(n, bool),
        unit=np.arange(n).astype(np.str_) if unit is None else unit,
    )


def real(rng: np.random.Generator, n: int) -> np.ndarray:
    """Dice as models have them: near 0.85, and a lump at 0."""
    return np.where(rng.random(n) < LUMP, 0.0, rng.beta(12, 2.1, n))


def found(hit: np.ndarray, score: float = 0.9, true: np.ndarray | None = None) -> Boxes:
    """Cases with one true box of class 0 (or as `true` [n, c] says), one said box of it in each, found or not."""
    n = len(hit)
    return Boxes(
        case=np.arange(n),
        label=np.zeros(n, int),
        score=np.full(n, score),
        matched=np.repeat(np.asarray(hit, bool)[:, None], 10, axis=1),
        true=np.ones((n, 1), int) if true is None else true,
        known=np.ones(n, bool),
        unit=np.arange(n).astype(np.str_),
    )


def collapsed(rng: np.random.Generator, dice: np.ndarray, margin: float) -> np.ndarray:
    """Some masks are lost altogether, all others stay."""
    return np.where(rng.random(len(dice)) < margin / MEAN, 0.0, dice)


def both_ways(rng: np.random.Generator, dice: np.ndarray, margin: float) -> np.ndarray:
    """Some masks are lost, and some that were missed are found."""
    lost = rng.random(len(dice)) < (margin + LUMP * 0.3 * 0.85) / MEAN
    return np.where((dice == 0) & (rng.random(len(dice)) < 0.3), 0.85, np.where(lost, 0.0, dice))


def evenly(rng: np.random.Generator, dice: np.ndarray, margin: float) -> np.ndarray:
    """Every mask that is one loses a little, and not always as much."""
    share = np.clip(margin / MEAN * (1 + 0.5 * rng.standard_normal(len(dice))), 0, 2 * margin / MEAN)
    return dice * (1 - share)


@pytest.mark.parametrize("change", [collapsed, both_ways, evenly])
@pytest.mark.parametrize(("n", "margin", "trials"), [(12, 0.2, 400), (30, 0.1, 400), (100, 0.05, 400)])
def test_a_loss_of_dice_at_the_margin_passes_no_oftener_than_alpha(change, n: int, margin: float, trials: int) -> None:
    """Rare collapses, which a dozen patients mostly don't show, as well as many small losses: at most 5 in 100."""
    passed = 0
    for seed in range(trials):
        rng = np.random.default_rng((seed, n))
        before = real(rng, n)
        judged = Forgetting(margin=margin, seed=seed).judge(masks(before), masks(change(rng, before, margin)))
        passed += judged.verdict is Verdict.PASS

    assert passed <= trials * (0.05 + 2 * np.sqrt(0.05 * 0.95 / trials))


def test_a_version_as_good_as_before_is_let_through() -> None:
    """A gate that never passed would keep any level: masks that only differ pass on a hundred patients."""
    rng, passed = np.random.default_rng(0), 0
    for seed in range(20):
        before = real(rng, 100)
        after = np.clip(before + 0.03 * rng.standard_normal(100) * (before > 0), 0, 1)
        passed += Forgetting(margin=0.05, seed=seed).judge(masks(before), masks(after)).verdict is Verdict.PASS

    assert passed >= 18


@pytest.mark.parametrize(("n", "margin"), [(12, 0.3), (30, 0.2), (100, 0.1)])
def test_a_loss_of_boxes_at_the_margin_passes_no_oftener_than_alpha(n: int, margin: float) -> None:
    """One box per case, of which so many more are missed."""
    passed = 0
    for seed in range(300):
        rng = np.random.default_rng((seed, n))
        before = rng.random(n) < 0.85
        after = before & (rng.random(n) >= margin / 0.85)
        passed += Forgetting(margin=margin, seed=seed).judge(found(before), found(after)).verdict is Verdict.PASS

    assert passed <= 300 * (0.05 + 2 * np.sqrt(0.05 * 0.95 / 300))


@settings(max_examples=50, deadline=None)
@given(st.floats(-1, 1), st.floats(0.001, 1), st.floats(-0.2, 0.2), st.floats(0.001, 0.4))
def test_skewness_only_widens(change: float, error: float, skew: float, alpha: float) -> None:
    """The bound on the side of the tail goes out, the other stays."""
    plain = Change(before=0.5, after=0.5, change=change, error=error, n=20)
    low, high = Change(before=0.5, after=0.5, change=change, error=error, n=20, skew=skew).interval(alpha)

    assert (low <= plain.interval(alpha)[0], high >= plain.interval(alpha)[1]) == (True, True)
    assert (low == plain.interval(alpha)[0]) or (high == plain.interval(alpha)[1])


def test_a_gain_in_dice_is_shown_at_the_whole_level() -> None:
    """There is one measure, and so nothing to share the level between."""
    rng = np.random.default_rng(0)
    before = real(rng, 60)
    judged = Gain(alpha=0.05).judge(masks(before), masks(np.clip(before + 0.1, 0, 1)))

    assert judged.verdict is Verdict.PASS
    assert judged.says.startswith("Dice 0.")
    assert Gain().judge(masks(before), masks(before)).verdict is not Verdict.PASS


def test_a_mask_is_served_from_half_on() -> None:
    """From 0.9 to 0.6 no patient is lost; from 0.6 to 0.4 each is. Boxes in the same way by F1."""
    n = 60
    shallow = NegativeFlips().judge(masks(np.full(n, 0.9)), masks(np.full(n, 0.6)))
    deep = NegativeFlips().judge(masks(np.full(n, 0.6)), masks(np.full(n, 0.4)))
    boxes = NegativeFlips().judge(found(np.ones(n)), found(np.arange(n) >= 20))

    assert (shallow.verdict, shallow.after) == (Verdict.PASS, 0.0)
    assert (deep.verdict, deep.after) == (Verdict.FAIL, 1.0)
    assert "60 of 60 patients had a Dice of 0.5 or more and have less now" in deep.says
    assert (boxes.verdict, boxes.after) == (Verdict.FAIL, 20 / 60)


def test_calibration_reads_pixels_and_boxes() -> None:
    """The same masks with worse probabilities fail, and so do the same boxes that are surer than they are right."""
    n = 200
    dice = np.full(n, 0.8)
    assert Calibration().judge(masks(dice, 0.02), masks(dice, 0.02)).verdict is Verdict.PASS
    assert "pixels' Brier score" in Calibration().judge(masks(dice, 0.02), masks(dice, 0.2)).says
    assert Calibration().judge(masks(dice, 0.02), masks(dice, 0.2)).verdict is Verdict.FAIL
    hit = np.arange(n) % 10 < 6
    judged = Calibration().judge(found(hit, 0.6), found(hit, 0.99))
    assert judged.verdict is Verdict.FAIL
    assert "boxes' Brier score" in judged.says and "slope" not in judged.says


def test_a_group_whose_masks_are_lost_is_named() -> None:
    """Dice per group: what others gain hides nothing."""
    groups = np.repeat(["women", "men"], [80, 40])
    before = np.full(120, 0.8)
    after = np.where(groups == "women", 0.95, 0.6)
    judged = WorstSubgroup(groups).judge(masks(before), masks(after))

    assert judged.verdict is Verdict.FAIL
    assert "Dice of men" in judged.says


def test_a_structure_that_is_lost_is_named_while_the_mean_looks_well() -> None:
    """One of three structures is given up; the other two gain as much."""
    before = np.full((60, 3), 0.7)
    after = before + np.array([0.15, -0.25, 0.15])
    judged = WorstStructure(("liver", "spleen", "kidney")).judge(masks(before), masks(after))

    assert Forgetting().judge(masks(before), masks(after)).verdict is Verdict.PASS
    assert judged.verdict is Verdict.FAIL
    assert judged.says.startswith("Dice of spleen 0.700 before, 0.450 after")
    assert WorstStructure().judge(masks(before), masks(after)).says.startswith("Dice of structure 2")


def test_a_structure_that_is_invented_where_there_is_none_is_harm() -> None:
    """It was rightly left empty in 40 cases, and is now said in half of them."""
    before = np.column_stack([np.full(40, 0.9), np.full(40, np.nan)])
    one, other = masks(before), masks(before)
    other.overlap[:20, 1, 1] = 50.0
    judged = WorstStructure().judge(one, other)

    assert judged.verdict is Verdict.FAIL
    assert (judged.n, judged.before, judged.after) == (20, 1.0, 0.0)


def test_a_class_whose_recall_falls_is_named() -> None:
    """Over scores: two classes gain what the third loses."""
    target = np.repeat([0, 1, 2], 40)

    def said(wrong: np.ndarray) -> Scores:
        answer = np.where(wrong, (target + 1) % 3, target)
        return Scores(probability=np.eye(3)[answer] * 0.8 + 0.2 / 3, target=target, unit=np.arange(120).astype(np.str_))

    place = np.arange(120) % 40
    before, after = said(place < 10), said(np.where(target == 1, place < 25, place < 2))
    assert WorstStructure().judge(before, after).says.startswith("recall of class 1 0.750 before, 0.375 after")
    assert WorstStructure().judge(before, after).verdict is Verdict.FAIL


def test_a_class_of_boxes_is_judged_on_its_own() -> None:
    """The second class is found nowhere any more; of a third nobody has a box, and it is told."""
    n = 40
    true = np.column_stack([np.ones(n, int), np.ones(n, int), np.zeros(n, int)])

    def both(second: bool) -> Boxes:
        case = np.repeat(np.arange(n), 2)
        hit = np.where(np.arange(2 * n) % 2, second, True)
        return Boxes(
            case=case,
            label=np.arange(2 * n) % 2,
            score=np.full(2 * n, 0.9),
            matched=np.repeat(hit[:, None], 10, axis=1),
            true=true,
            known=np.ones(n, bool),
            unit=np.arange(n).astype(np.str_),
        )

    judged = WorstStructure(("nodule", "mass", "cyst")).judge(both(True), both(False))
    assert judged.verdict is Verdict.FAIL
    assert judged.says.startswith("F1 of mass 1.000 before, 0.000 after")
    assert "not evaluable: cyst (0 patients)" in judged.says


def test_structures_of_few_patients_are_pooled() -> None:
    """Two structures of eight patients each, both lost, are judged as one; a single one only is told."""
    dice = np.full((60, 3), np.nan)
    dice[:, 0], dice[:8, 1], dice[8:16, 2] = 0.8, 0.8, 0.8
    lost = np.where(np.arange(3) > 0, dice * 0.1, dice)
    judged = WorstStructure(("a", "b", "c")).judge(masks(dice), masks(lost))

    assert judged.verdict is Verdict.FAIL and judged.says.startswith("Dice of small structures (b, c)")
    assert (
        "not evaluable: b (8 patients)" in WorstStructure(("a", "b")).judge(masks(dice[:, :2]), masks(lost[:, :2])).says
    )


def test_the_level_is_shared_among_structures() -> None:
    """Twenty structures, none of which changed in truth: seldom is one of them called harmed."""
    harmed = 0
    for seed in range(40):
        rng = np.random.default_rng(seed)
        before, after = (np.clip(0.8 + 0.15 * rng.standard_normal((40, 20)), 0, 1) for _ in range(2))
        harmed += WorstStructure(margin=0.0, seed=seed).judge(masks(before), masks(after)).verdict is Verdict.FAIL

    assert harmed <= 5


def test_records_of_two_forms_are_refused() -> None:
    """Masks before and boxes after are no pair, and names have to be of these structures."""
    with pytest.raises(ValueError, match="Regions and Boxes can't be compared"):
        Forgetting().judge(masks(np.ones(20)), found(np.ones(20)))
    with pytest.raises(ValueError, match="2 names were given for 1"):
        WorstStructure(("a", "b")).judge(masks(np.ones(20)), masks(np.ones(20)))
    with pytest.raises(ValueError, match="same cases"):
        WorstStructure().judge(masks(np.ones(20)), masks(np.ones(21)))


@pytest.mark.parametrize("burden", list(Burden))
def test_cases_without_a_mask_change_no_verdict(burden: Burden) -> None:
    """Whatever the versions said of them."""
    rng = np.random.default_rng(1)
    before, after = real(rng, 50), real(rng, 50)
    known = np.arange(50) < 40
    extended = [Regions(overlap=np.where(known[:, None, None], m.overlap, np.nan), brier=m.brier, nll=m.nll,
                        known=known, unit=m.unit) for m in (masks(before), masks(after))]  # fmt: skip
    some = [masks(before[:40]), masks(after[:40])]
    for gate in (Gain, Forgetting, Calibration, NegativeFlips, WorstStructure):
        assert gate(burden=burden).judge(*extended) == gate(burden=burden).judge(*some)
    assert np.isnan(case_dice(extended[0])[40:]).all() and not np.isnan(case_f1(found(known))).any()
