"""What every gate and every measure of the registries owes."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import monitors
from monitors import GATES, MEASURES, Burden, Gain, Gate, Scores, Verdict, WorstSubgroup

EVERY = pytest.mark.parametrize("kind", GATES, ids=lambda kind: kind.__name__)


def scores(n: int, seed: int, skill: float = 2.0) -> Scores:
    rng = np.random.default_rng(seed)
    target = rng.integers(0, 3, n)
    odds = skill * np.eye(3)[target] + np.random.default_rng((seed, 1)).standard_normal((n, 3))
    p = np.exp(odds)
    return Scores(
        probability=p / p.sum(axis=1, keepdims=True), target=target, unit=np.array([f"p{i}" for i in range(n)])
    )


def spoilt(good: Scores, cases: np.ndarray) -> Scores:
    """The same answers, but these cases confidently wrong."""
    p = good.probability.copy()
    p[cases] = 0.02 + 0.94 * np.eye(3)[(good.target[cases] + 1) % 3]
    return Scores(probability=p, target=good.target, unit=good.unit)


def made(kind: type, n: int, **settings) -> Gate:
    return kind(np.where(np.arange(n) % 2, "odd", "even"), **settings) if kind is WorstSubgroup else kind(**settings)


def test_the_registries_are_covered() -> None:
    """Five gates and nine measures, all of them exported."""
    names = {kind.name for kind in GATES}

    assert names == {"gain", "forgetting", "calibration", "negative-flips", "worst-subgroup"}
    assert len(MEASURES) == 9
    assert {thing.__name__ for thing in (*GATES, *MEASURES)} <= set(monitors.__all__)


@EVERY
def test_an_incumbent_passes_beside_itself(kind: type) -> None:
    """Where n decides, no change is no harm. A gain it is not, and so the gain gate alone says no."""
    one = scores(400, 0)
    judged = made(kind, 400).judge(one, one)

    assert isinstance(made(kind, 400), Gate)
    assert judged.verdict is (Verdict.FAIL if kind is Gain else Verdict.PASS)


@EVERY
def test_a_ruined_candidate_fails(kind: type) -> None:
    """A third of the answers made wrong is refused by every gate, whatever it looks at."""
    one = scores(400, 0)

    assert made(kind, 400).judge(one, spoilt(one, np.arange(130))).verdict is Verdict.FAIL


@EVERY
@pytest.mark.parametrize("burden", list(Burden))
def test_a_handful_of_patients_is_insufficient_under_either_burden(kind: type, burden: Burden) -> None:
    """Five patients decide nothing, and the judgement names how many would."""
    one = scores(5, 0)
    judged = made(kind, 5, burden=burden).judge(one, spoilt(one, np.arange(3)))

    assert judged.verdict is Verdict.INSUFFICIENT
    assert judged.needed is not None
    assert judged.needed >= 12


@EVERY
def test_no_labels_at_all_is_insufficient(kind: type) -> None:
    """Unlabelled anchors are no anchors."""
    one = scores(50, 0)
    unlabelled = Scores(probability=one.probability, target=np.full(50, -1), unit=one.unit)
    judged = made(kind, 50).judge(unlabelled, unlabelled)

    assert (judged.verdict, judged.before, judged.interval) == (Verdict.INSUFFICIENT, None, None)


@EVERY
def test_a_judgement_shows_its_sums(kind: type) -> None:
    """One sentence with n, and figures that agree: the interval holds the change that before and after tell of."""
    one = scores(400, 0)
    judged = made(kind, 400).judge(one, spoilt(one, np.arange(40)))

    assert judged.gate == kind.name
    assert judged.interval is not None
    assert judged.before is not None
    assert judged.after is not None
    assert judged.interval[0] <= abs(judged.after - judged.before) * np.sign(sum(judged.interval)) <= judged.interval[1]
    assert str(judged.n) in judged.says
    assert "\n" not in judged.says


@EVERY
@settings(max_examples=12, deadline=None)
@given(seed=st.integers(0, 1000), n=st.integers(15, 250), bad=st.floats(0, 0.4), more=st.floats(0, 0.4))
def test_making_it_worse_never_turns_a_refusal_into_a_pass(
    kind: type, seed: int, n: int, bad: float, more: float
) -> None:
    """Where a candidate fails, one with more wrong answers never passes."""
    before = scores(n, seed)
    order = np.random.default_rng(seed).permutation(n)
    better = spoilt(scores(n, seed, 3.0), order[: int(bad * n)])
    worse = spoilt(better, order[: int((bad + more) * n)])
    gate = made(kind, n)

    if gate.judge(before, better).verdict is Verdict.FAIL:
        assert gate.judge(before, worse).verdict is not Verdict.PASS


@EVERY
def test_the_same_records_get_the_same_verdict(kind: type) -> None:
    """Gates are pure: a verdict can be derived again from what is stored."""
    before, after = scores(120, 4), spoilt(scores(120, 4), np.arange(10))

    assert made(kind, 120).judge(before, after) == made(kind, 120).judge(before, after)
