"""Guards of a promoted version: harm is shown at any time, rarely without cause, and collapse needs no labels."""

from __future__ import annotations

import numpy as np
import pytest

from monitors import PairedHarm, Verdict, by_confidence, collapse, unharmed


def test_harm_is_shown_soon_and_stays_shown() -> None:
    """A version that loses 20 points is found within some 150 labels, and later luck does not take it back."""
    rng, guard = np.random.default_rng(0), PairedHarm()
    shown = [guard.update(rng.random() < 0.7, rng.random() < 0.9) for _ in range(300)]
    for _ in range(300):
        guard.update(True, False)

    assert shown.index(True) <= 150
    assert guard.harmful


def test_looking_after_every_label_does_not_raise_the_error() -> None:
    """Of 200 harmless versions watched over 300 labels, no more than about alpha are ever called harmful."""
    called = 0
    for seed in range(200):
        rng, guard = np.random.default_rng(seed), PairedHarm(margin=0.0, alpha=0.05)
        for right, flips in zip(rng.random(300) < 0.85, rng.random(300) < 0.1, strict=True):
            guard.update(bool(right), bool(right ^ flips) if rng.random() < 0.5 else bool(right))
        called += guard.harmful

    assert called <= 18


def test_the_guard_continues_where_it_was() -> None:
    """Saved and restored in between, the evidence is the same."""
    one, other = PairedHarm(), PairedHarm()
    for _ in range(5):
        one.update(False, True)
    other.restore(one.state())

    assert (other.update(False, True), other.log_e, other.n) == (one.update(False, True), one.log_e, one.n)


@pytest.mark.parametrize("patients", [25, 50, 100, 200])
def test_harm_of_the_margin_is_seldom_called_none(patients: int) -> None:
    """Of 2000 sites that lost exactly the margin at most about 5 % are told that they lost less."""
    rng = np.random.default_rng(patients)
    approved, since = rng.random((2000, 240)) < 0.95, rng.random((2000, patients)) < 0.87
    called = sum(
        unharmed((a.sum(), 240), (s.sum(), patients), 0.08, 0.05).verdict is Verdict.PASS
        for a, s in zip(approved, since, strict=True)
    )
    assert called / 2000 <= 0.06


def test_what_is_as_good_is_called_so_once_there_are_labels() -> None:
    """Two hundred patients as well served as at the approval pass; ten prove nothing; a ruin fails."""
    approved = (228.0, 240)
    assert unharmed(approved, (190.0, 200), 0.08, 0.0125).verdict is Verdict.PASS
    assert unharmed(approved, (10.0, 10), 0.08, 0.0125).verdict is Verdict.INSUFFICIENT
    assert unharmed(approved, (100.0, 200), 0.08, 0.0125).verdict is Verdict.FAIL
    for empty in ((approved, (0.0, 0)), ((0.0, 0), approved)):
        assert unharmed(*empty, 0.08, 0.0125).verdict is Verdict.INSUFFICIENT


def test_confidence_tells_what_has_come_since_the_labels() -> None:
    """Answers of today that are less sure than the labelled ones lower the estimate without bias, here by 20 points,
    and what confidence explains is no error any more; a confidence that never varied adds nothing."""
    rng, found = np.random.default_rng(0), []
    for _ in range(200):
        approved, labelled, later = (rng.uniform(low, 1, 150) for low in (0.6, 0.8, 0.4))
        was, now = (sure > rng.random(150) for sure in (approved, labelled))
        found.append(by_confidence((was, approved), (now, labelled), later))
    assert np.mean([one.shift for one in found]) == pytest.approx(-0.2, abs=0.01)
    assert np.mean([one.unexplained for one in found]) < 1 and max(one.error for one in found) < 0.05
    flat = np.full(150, 0.8)
    assert by_confidence((was, flat), (now, flat), flat).shift == 0


@pytest.mark.parametrize("value", [2.0, -1.0, float("nan")])
def test_what_is_no_correctness_is_refused(value: float) -> None:
    """A bet on a number outside 0..1 would break the promise."""
    with pytest.raises(ValueError, match="correctness"):
        PairedHarm().update(value, 1.0)


def test_collapse_is_told_in_one_sentence() -> None:
    """NaN, another number of classes, no probabilities, one answer for all: each is named; sound outputs are not."""
    rng = np.random.default_rng(0)
    usual = rng.dirichlet(np.ones(3), 50)
    broken = usual.copy()
    broken[7, 1] = np.nan

    assert collapse(usual, usual) is None
    assert collapse(usual[:0], usual) is None
    assert "1 outputs hold NaN" in str(collapse(broken, usual))
    assert "shape" in str(collapse(usual[:, :2], usual))
    assert "sum to 1" in str(collapse(2 * usual, usual))
    assert "same answer" in str(collapse(np.tile(usual[:1], (30, 1)), usual))
    assert collapse(np.tile(usual[:1], (5, 1)), usual) is None
