"""Matching of boxes, and the measures of detection against COCO's own loops and values worked out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from monitors import MEASURES_OF_BOXES, Boxes, box_brier, boxes, case_f1, class_f1, f1, froc, map, map50, match

NO_BOX = np.empty((0, 4))
UNIT = np.array([0.0, 0.0, 10.0, 10.0])


def moved(by: float) -> np.ndarray:
    """The box of 10 x 10 moved by so much: the IoU is (10 - by) / (10 + by)."""
    return UNIT + np.array([by, 0, by, 0])


def of(rows: list[tuple[float, bool]], true: int, cases: int = 1) -> Boxes:
    """Boxes of one class, (score, found or not) each, all of the first case."""
    score, hit = np.array([row[0] for row in rows], float), np.array([row[1] for row in rows], bool)
    return Boxes(
        case=np.zeros(len(rows), int),
        label=np.zeros(len(rows), int),
        score=score,
        matched=np.repeat(hit[:, None], 10, axis=1),
        true=np.array([[true]] + [[0]] * (cases - 1)),
        known=np.ones(cases, bool),
        unit=np.arange(cases).astype(np.str_),
    )


def drawn(seed: int, n: int = 8, classes: int = 2) -> Boxes:
    """Cases with up to four true boxes; said are some of these, moved, and some that nobody drew."""
    rng = np.random.default_rng(seed)
    said, true = [], []
    for case in range(n):
        t = rng.integers(0, 5)
        place = rng.uniform(0, 60, (t, 2))
        real = np.column_stack([place, place + rng.uniform(5, 20, (t, 2))])
        labels = rng.integers(0, classes, t)
        kept = rng.random(t) < 0.8
        guess = np.concatenate([real[kept] + rng.normal(0, 1, (kept.sum(), 4)), real[: rng.integers(0, 3)] + 30])
        own = rng.integers(0, classes, len(guess))
        own[: kept.sum()] = np.where(rng.random(kept.sum()) < 0.9, labels[kept], own[: kept.sum()])
        said.append((guess, rng.permutation(len(guess)) / 10 + rng.random(len(guess)) / 20, own))
        true.append((real, labels) if case % 4 != 3 else None)
    return boxes(said, true, np.array([f"p{i}" for i in range(n)]), classes)


def by_coco(records: Boxes, level: int) -> float:
    """Average precision as pycocotools accumulates it, class by class, over the cases that are known."""
    found = []
    for label in range(records.true.shape[1]):
        own = (records.label == label) & records.known[records.case]
        total = records.true[records.known, label].sum()
        if not total:
            continue
        order = np.argsort(-records.score[own], kind="mergesort")
        hit = records.matched[own, level][order]
        caught, wrong = np.cumsum(hit), np.cumsum(~hit)
        recall, precision = caught / total, (caught / (caught + wrong)).tolist()
        for i in range(len(precision) - 1, 0, -1):
            precision[i - 1] = max(precision[i - 1], precision[i])
        read = np.zeros(101)
        for k, at in enumerate(np.searchsorted(recall, np.linspace(0, 1, 101), side="left")):
            read[k] = precision[at] if at < len(precision) else 0.0
        found.append(read.mean())
    return float(np.mean(found)) if found else np.nan


def test_the_best_box_takes_the_true_one_and_the_next_finds_nothing() -> None:
    """Two boxes on one true box: the surer one has it where it is near enough, and leaves it to the other beyond."""
    said = np.stack([moved(3.0), moved(0.0)])  # IoU 0.54 and 1
    found = match(said, np.array([0.9, 0.6]), np.zeros(2), UNIT[None], np.zeros(1))

    assert found[0].tolist() == [True] + [False] * 9
    assert found[1].tolist() == [False] + [True] * 9


def test_a_box_takes_the_true_one_it_covers_best_of_its_own_class() -> None:
    """Another class is never found, however well it is covered."""
    true = np.stack([moved(2.0), moved(0.0)])
    assert match(UNIT[None], np.ones(1), np.array([0]), true, np.array([0, 1]))[0].sum() == 4  # IoU 0.67
    assert match(UNIT[None], np.ones(1), np.array([2]), true, np.array([0, 1])).sum() == 0


def test_matching_without_boxes_or_without_truth_is_defined() -> None:
    """Nothing to find, nothing said, and a box without an area."""
    nobody = np.empty(0, int)
    assert match(UNIT[None], np.ones(1), np.zeros(1), NO_BOX, nobody).tolist() == [[False] * 10]
    assert match(NO_BOX, np.empty(0), nobody, UNIT[None], np.zeros(1)).shape == (0, 10)
    assert match(NO_BOX, np.empty(0), nobody, NO_BOX, nobody).shape == (0, 10)
    point = np.array([[5.0, 5.0, 5.0, 5.0]])
    assert not match(point, np.ones(1), np.zeros(1), point, np.zeros(1)).any()


def test_values_worked_out_by_hand() -> None:
    """Hit, miss, hit of three true boxes: precision 1 up to recall 1/3, 2/3 up to 2/3, and nothing beyond."""
    records = of([(0.9, True), (0.8, False), (0.3, True)], true=3)

    assert map50(records) == pytest.approx([(34 * 1 + 33 * 2 / 3) / 101])
    assert map(records) == pytest.approx(map50(records))
    assert case_f1(records) == pytest.approx([2 * 1 / (2 + 3)])  # the last box is below the threshold
    assert box_brier(records) == pytest.approx([(0.1**2 + 0.8**2 + 0.7**2 + 1) / 3])
    assert froc(records) == pytest.approx([(3 * 1 / 3 + 4 * 2 / 3) / 7])  # from one false positive on, two of three
    assert froc(of([(0.9, True), (0.8, False), (0.3, True)], true=3, cases=4)) == pytest.approx(
        [(1 / 3 + 6 * 2 / 3) / 7]
    )


def test_where_scores_tie_false_positives_are_taken_first() -> None:
    """No threshold has the right one without the wrong one."""
    assert froc(of([(0.5, True), (0.5, False)], true=1)) == froc(of([(0.5, False), (0.5, True)], true=1))
    assert froc(of([(0.5, True), (0.5, False)], true=1)) == pytest.approx([4 / 7])


def test_cases_with_nothing_to_find_are_defined() -> None:
    """Nothing said is right there, and any box that is shown is wrong; there is no precision, and no sensitivity."""
    quiet, loud = of([], true=0), of([(0.9, False)], true=0)

    assert (case_f1(quiet)[0], case_f1(loud)[0], case_f1(of([(0.2, False)], true=0))[0]) == (1.0, 0.0, 1.0)
    assert (box_brier(quiet)[0], box_brier(loud)[0], box_brier(of([], true=2))[0]) == (0.0, pytest.approx(0.81), 1.0)
    for measure in (map50, map, froc):
        assert np.isnan(measure(quiet)[0]) and np.isnan(measure(loud)[0])
        assert measure(of([], true=2))[0] == 0.0


def test_cases_without_truth_have_no_weight() -> None:
    """Boxes of a case that nobody looked at are neither right nor wrong."""
    records = drawn(1)

    assert len(MEASURES_OF_BOXES) == 5
    assert np.isnan(case_f1(records)).tolist() == (~records.known).tolist()
    assert np.isnan(class_f1(records)[~records.known]).all()
    for measure in MEASURES_OF_BOXES:
        np.testing.assert_allclose(measure(records), measure(records.take(records.known)), err_msg=measure.__name__)
        assert np.isnan(measure(records.take(~records.known))[0])


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(1, 3))
def test_average_precision_is_that_of_coco(seed: int, classes: int) -> None:
    """At IoU 0.5, and over all ten thresholds."""
    records = drawn(seed, classes=classes)

    np.testing.assert_allclose(map50(records)[0], by_coco(records, 0))
    np.testing.assert_allclose(map(records)[0], np.mean([by_coco(records, level) for level in range(10)]))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_weights_are_repeated_cases(seed: int) -> None:
    """Any integer weights give each of the five measures what repeating the cases gives."""
    records = drawn(seed)
    weights = np.random.default_rng(seed).integers(0, 4, len(records))
    again = records.take(np.repeat(np.arange(len(records)), weights))

    for measure in MEASURES_OF_BOXES:
        found = measure(records, np.stack([weights, np.ones(len(records))]).astype(np.float32))
        np.testing.assert_allclose(found[0], measure(again)[0], rtol=1e-5, err_msg=measure.__name__)
        np.testing.assert_allclose(found[1], measure(records)[0], rtol=1e-5, err_msg=measure.__name__)


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000))
def test_a_perfect_detector_has_one_and_worse_boxes_never_help(seed: int) -> None:
    """All measures are 1 (the error 0) where the true boxes are said for sure, and less once a box is left out."""
    rng = np.random.default_rng(seed)
    corner = rng.uniform(0, 50, (4, 2))
    real, labels = np.column_stack([corner, corner + rng.uniform(1, 20, (4, 2))]), rng.integers(0, 2, 4)
    perfect = boxes([(real, np.ones(4), labels)], [(real, labels)], np.array(["p"]), 2)
    fewer = boxes([(real[1:], np.ones(3), labels[1:])], [(real, labels)], np.array(["p"]), 2)

    assert [measure(perfect)[0] for measure in (map50, map, froc, f1)] == pytest.approx([1.0] * 4)
    assert box_brier(perfect)[0] == 0.0
    assert all(measure(fewer)[0] < 1 for measure in (map50, map, froc, f1)) and box_brier(fewer)[0] == 0.25
