"""What every gate and every measure of the registries owes."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import monitors
from monitors import (
    FORMS,
    GATES,
    MEASURES,
    MEASURES_OF_BOXES,
    MEASURES_OF_FINDINGS,
    MEASURES_OF_REGIONS,
    Boxes,
    Burden,
    Findings,
    Gain,
    Gate,
    Record,
    Regions,
    Scores,
    Verdict,
    WorstSubgroup,
)

EVERY = pytest.mark.parametrize("kind", GATES, ids=lambda kind: kind.__name__)
FORM = pytest.mark.parametrize("form", FORMS, ids=lambda form: form.__name__)


def scores(n: int, seed: int, skill: float = 2.0) -> Scores:
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 3, n)
    odds = skill * np.eye(3)[target] + np.random.default_rng((seed, 1)).standard_normal((n, 3))
    p = np.exp(odds)
    return Scores(
        probability=p / p.sum(axis=1, keepdims=True), target=target, unit=np.array([f"p{i}" for i in range(n)])
    )


def findings(n: int, seed: int) -> Findings:
    """Three findings, of which a case has any number, each told rightly in nine of ten."""
    rng = np.random.default_rng(seed)
    target = rng.random((n, 3)) < 0.4
    right = rng.random((n, 3)) < 0.9
    return Findings(
        probability=np.where(right == target, 0.9, 0.1),
        target=target,
        known=np.ones(n, bool),
        unit=np.array([f"p{i}" for i in range(n)]),
    )


def regions(n: int, seed: int) -> Regions:
    """Two structures of a Dice near 0.85."""
    dice = np.random.default_rng(seed).beta(12, 2.1, (n, 2))
    pixels = np.full((n, 2), 1000.0)
    return Regions(
        overlap=np.stack([dice * 1000, pixels, pixels], axis=2),
        brier=np.full(n, 0.05),
        nll=np.full(n, 0.1),
        known=np.ones(n, bool),
        unit=np.array([f"p{i}" for i in range(n)]),
    )


def boxes(n: int, seed: int) -> Boxes:
    """One true box of three classes per case, found in nine of ten."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, n)
    return Boxes(
        case=np.arange(n),
        label=label,
        score=np.full(n, 0.9),
        matched=np.repeat(rng.random((n, 1)) < 0.9, 10, axis=1),
        true=np.eye(3, dtype=int)[label],
        known=np.ones(n, bool),
        unit=np.array([f"p{i}" for i in range(n)]),
    )


RECORDS = {Scores: scores, Findings: findings, Regions: regions, Boxes: boxes}


def ruined(good: Record, cases: np.ndarray) -> Record:
    """The same answers, but these cases wrong, and none the less sure."""
    if isinstance(good, Scores):
        return spoilt(good, cases)
    lost = np.isin(np.arange(len(good)), cases)
    if isinstance(good, Findings):
        return replace(good, probability=np.where(lost[:, None], np.where(good.target, 0.02, 0.98), good.probability))
    if isinstance(good, Regions):
        overlap = np.where(lost[:, None, None], good.overlap * [0.1, 1, 1], good.overlap)
        return replace(good, overlap=overlap, brier=np.where(lost, 0.6, good.brier), nll=np.where(lost, 2.0, good.nll))
    assert isinstance(good, Boxes)
    return replace(good, matched=good.matched & ~lost[good.case][:, None])


def without_labels(record: Record) -> Record:
    if isinstance(record, Scores):
        return replace(record, target=np.full(len(record), -1))
    return replace(record, known=np.zeros(len(record), bool))


def spoilt(good: Scores, cases: np.ndarray) -> Scores:
    """The same answers, but these cases confidently wrong."""
    p = good.probability.copy()
    p[cases] = 0.02 + 0.94 * np.eye(3)[(good.target[cases] + 1) % 3]
    return Scores(probability=p, target=good.target, unit=good.unit)


def made(kind: type, n: int, **settings) -> Gate:
    return kind(np.where(np.arange(n) % 2, "odd", "even"), **settings) if kind is WorstSubgroup else kind(**settings)


def test_the_registries_are_covered() -> None:
    """Six gates, nine measures of scores, seven of findings, three of regions and five of boxes, all exported."""
    names = {kind.name for kind in GATES}

    assert names == {"gain", "forgetting", "calibration", "negative-flips", "worst-subgroup", "worst-structure"}
    measures = (*MEASURES, *MEASURES_OF_FINDINGS, *MEASURES_OF_REGIONS, *MEASURES_OF_BOXES)
    assert (len(GATES), len(MEASURES), len(measures), len(FORMS)) == (6, 9, 24, 4)
    assert {thing.__name__ for thing in (*GATES, *FORMS, *measures)} <= set(monitors.__all__)


@FORM
@EVERY
def test_an_incumbent_passes_beside_itself(kind: type, form: type) -> None:
    """Where n decides, no change is no harm. A gain it is not, and so the gain gate alone says no."""
    one = RECORDS[form](400, 0)
    judged = made(kind, 400).judge(one, one)

    assert isinstance(made(kind, 400), Gate)
    assert judged.verdict is (Verdict.FAIL if kind is Gain else Verdict.PASS)


@FORM
@EVERY
def test_a_ruined_candidate_fails(kind: type, form: type) -> None:
    """A third of the answers made wrong is refused by every gate, whatever it looks at."""
    one = RECORDS[form](400, 0)

    assert made(kind, 400).judge(one, ruined(one, np.arange(130))).verdict is Verdict.FAIL


@FORM
@EVERY
@pytest.mark.parametrize("burden", list(Burden))
def test_a_handful_of_patients_is_insufficient_under_either_burden(kind: type, burden: Burden, form: type) -> None:
    """Five patients decide nothing, and the judgement names how many would."""
    one = RECORDS[form](5, 0)
    judged = made(kind, 5, burden=burden).judge(one, ruined(one, np.arange(3)))

    assert judged.verdict is Verdict.INSUFFICIENT
    assert judged.needed is not None
    assert judged.needed >= 12


@FORM
@EVERY
def test_no_labels_at_all_is_insufficient(kind: type, form: type) -> None:
    """Unlabelled anchors are no anchors."""
    unlabelled = without_labels(RECORDS[form](50, 0))
    judged = made(kind, 50).judge(unlabelled, unlabelled)

    assert (judged.verdict, judged.before, judged.interval) == (Verdict.INSUFFICIENT, None, None)


@FORM
@EVERY
def test_a_judgement_shows_its_sums(kind: type, form: type) -> None:
    """One sentence with n, and figures that agree: the interval holds the change that before and after tell of."""
    one = RECORDS[form](400, 0)
    judged = made(kind, 400).judge(one, ruined(one, np.arange(40)))

    assert judged.gate == kind.name
    assert judged.interval is not None
    assert judged.before is not None
    assert judged.after is not None
    assert judged.interval[0] <= abs(judged.after - judged.before) * np.sign(sum(judged.interval)) <= judged.interval[1]
    assert str(judged.n) in judged.says
    assert "\n" not in judged.says


@FORM
@EVERY
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(15, 250), bad=st.floats(0, 0.4), more=st.floats(0, 0.4))
def test_making_it_worse_never_turns_a_refusal_into_a_pass(
    kind: type, form: type, seed: int, n: int, bad: float, more: float
) -> None:
    """Where a candidate fails, one with more wrong answers never passes."""
    before = RECORDS[form](n, seed)
    order = np.random.default_rng(seed).permutation(n)
    better = ruined(scores(n, seed, 3.0) if form is Scores else before, order[: int(bad * n)])
    worse = ruined(better, order[: int((bad + more) * n)])
    gate = made(kind, n)

    if gate.judge(before, better).verdict is Verdict.FAIL:
        assert gate.judge(before, worse).verdict is not Verdict.PASS


@FORM
@EVERY
def test_the_same_records_get_the_same_verdict(kind: type, form: type) -> None:
    """Gates are pure: a verdict can be derived again from what is stored."""
    before = RECORDS[form](120, 4)
    after = ruined(before, np.arange(10))

    assert made(kind, 120).judge(before, after) == made(kind, 120).judge(before, after)
