"""What every estimator of accuracy without labels owes to those who read it."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

import monitors
from monitors import ESTIMATORS, Estimator, Scores, accuracy, estimate

sys.path.append(str(Path(__file__).parents[1] / "monitors"))

from answers import answers

EVERY = pytest.mark.parametrize("kind", ESTIMATORS, ids=lambda kind: kind.__name__)
BY_CLASS = pytest.mark.parametrize("by_class", [False, True], ids=["pooled", "by class"])


def sides(seed: int, n: int = 200, m: int = 120) -> tuple[Scores, Scores]:
    """(the reference, new patients of the same kind)."""
    rng = np.random.default_rng(seed)
    return answers(rng, n), answers(rng, m, name="new")


def test_the_registry_is_covered() -> None:
    """Three rules, each under a name and with an assumption of its own, all of them exported."""
    assert len(ESTIMATORS) == 3
    assert len({kind.name for kind in ESTIMATORS}) == len({kind.assumption for kind in ESTIMATORS}) == 3
    assert {kind.__name__ for kind in ESTIMATORS} <= set(monitors.__all__)


@EVERY
@BY_CLASS
def test_while_nothing_has_changed_the_band_holds_the_accuracy(kind: type, by_class: bool) -> None:
    """Of sixty references with new patients of the same kind, at least 54 bands of 95 % hold what the labels of these
    patients show (192 to 195 of two hundred, counted once), and they are no wider than a fifth: a band that says
    everything says nothing."""
    covered, widths = 0, []
    for seed in range(60):
        known, new = sides(seed)
        found = estimate(kind(), known, new.probability, new.unit, by_class)
        covered += found.low <= accuracy(new)[0] <= found.high
        widths.append(found.high - found.low)

    assert covered >= 54
    assert np.mean(widths) < 0.2


@EVERY
def test_it_speaks_the_protocol(kind: type) -> None:
    """A rule is learnt once for every row of weights, and read off for any confidence."""
    rng = np.random.default_rng(0)
    rule = kind().learn(rng.uniform(0.4, 1.0, 50), (rng.random(50) < 0.8).astype(float), np.ones((3, 50)))

    assert isinstance(kind(), Estimator)
    assert rule(np.linspace(0.4, 1.0, 7)).shape == (3, 7)


@EVERY
@BY_CLASS
def test_the_same_call_says_the_same(kind: type, by_class: bool) -> None:
    """The bootstrap is seeded, and what was passed is the caller's."""
    known, new = sides(0)
    given = (known.probability, known.target, new.probability)
    before = [np.copy(array) for array in given]
    one, other = (estimate(kind(), known, new.probability, new.unit, by_class) for _ in range(2))

    assert one == other
    assert all(np.array_equal(a, b) for a, b in zip(before, given, strict=True))


@EVERY
@BY_CLASS
def test_cases_with_nan_are_left_out(kind: type, by_class: bool) -> None:
    """On either side, as if they had not come; so are cases without a label in the reference."""
    known, new = sides(1)
    more = answers(np.random.default_rng(9), 30, name="odd")
    odd, target = np.full_like(more.probability, np.nan), more.target.copy()
    target[:15] = -1
    worse = Scores(
        probability=np.vstack([known.probability, more.probability[:15], odd[15:]]),
        target=np.concatenate([known.target, target]),
        unit=np.concatenate([known.unit, more.unit]),
    )
    there = np.vstack([new.probability, odd])
    found = estimate(kind(), worse, there, np.concatenate([new.unit, more.unit]), by_class)

    assert found == estimate(kind(), known, new.probability, new.unit, by_class)


@EVERY
def test_few_patients_get_no_estimate(kind: type) -> None:
    """Nineteen on either side are too few, however many images they have; it says so, and how many it takes."""
    known, new = sides(2)
    few = np.array([f"patient {i % 19}" for i in range(120)])
    refused = [
        estimate(kind(), known, new.probability, few),
        estimate(kind(), dataclasses.replace(known, target=np.where(np.arange(200) < 19, known.target, -1)),
                 new.probability, new.unit),
        estimate(kind(), known, np.empty((0, 3)), np.empty(0, np.str_)),
    ]  # fmt: skip

    assert all((one.before, one.value, one.low, one.high) == (None,) * 4 for one in refused)
    assert [one.n for one in refused] == [19, 120, 0]
    assert all("it takes 20 of each" in one.says for one in refused)


@EVERY
def test_patients_are_the_unit(kind: type) -> None:
    """Three images of each patient that look alike tell no more than one does."""
    known, new = sides(3)
    thrice = [np.tile(array, (3, 1)) if array.ndim == 2 else np.tile(array, 3)
              for array in (known.probability, known.target, known.unit, new.probability, new.unit)]  # fmt: skip
    many = Scores(probability=thrice[0], target=thrice[1], unit=thrice[2])
    one, three = estimate(kind(), known, new.probability, new.unit), estimate(kind(), many, thrice[3], thrice[4])

    assert one.n == three.n == 120
    assert three.high - three.low > 0.8 * (one.high - one.low)


@EVERY
@BY_CLASS
@pytest.mark.parametrize("right", [True, False])
def test_a_reference_that_is_all_right_or_all_wrong_is_estimated_from(kind: type, by_class: bool, right: bool) -> None:
    """What never varied gives a number all the same, and it points the same way."""
    known, new = sides(4)
    answer = known.probability.argmax(axis=1)
    known = dataclasses.replace(known, target=answer if right else (answer + 1) % 3)
    found = estimate(kind(), known, new.probability, new.unit, by_class)

    assert found.before == float(right)
    assert 0 <= found.low <= found.value <= found.high <= 1
    assert abs(found.value - right) < 0.1
