"""Pointing game and IoU against values worked out by hand, and when a fall of them is called a shortcut."""

from __future__ import annotations

import numpy as np
import pytest

from monitors import Localised, Looked, Scores, Shortcut, Verdict, localised
from monitors.forms import Worths


def square(size: int = 20) -> np.ndarray:
    """A mask of 4 x 4 pixels, its left upper corner at (4, 10)."""
    mask = np.zeros((size, size), bool)
    mask[4:8, 10:14] = True
    return mask


def peak(row: int, column: int, size: int = 20) -> np.ndarray:
    y, x = np.mgrid[:size, :size]
    return -np.hypot(y - row, x - column)


def of(attribution: np.ndarray, mask: np.ndarray, tolerance: float = 0.03) -> Localised:
    """Of a mask that is not empty."""
    found = localised(attribution, mask, tolerance)
    assert found is not None
    return found


def test_the_maximum_counts_within_the_tolerance() -> None:
    """A map points at the mask where its maximum lies on it, or as near as the tolerance says, and nowhere else."""
    tolerance = 0.1  # 2 of 20 pixels
    hits = [of(peak(row, 12), square(), tolerance) for row in (5, 9, 10, 15)]
    assert [hit.pointing for hit in hits] == [1.0, 1.0, 0.0, 0.0]
    assert of(peak(9, 12), square(), 0.0).pointing == 0.0


def test_iou_is_of_as_many_pixels_as_the_mask_has() -> None:
    """Half of the highest pixels on the mask: 8 in both of 24 in either. The mask as a map has 1, its opposite 0."""
    half = square() * 1.0
    half[:, 12:] = 0
    half[12:16, 0:2] = 1
    assert of(half, square()).iou == pytest.approx(8 / 24)
    assert of(square() * 7.0, square()).iou == 1.0
    assert of(-1.0 * square(), square()).iou == 0.0


def test_a_flat_map_has_what_chance_has() -> None:
    """A map that says nothing neither gains nor loses by where its first pixel lies."""
    flat = of(np.zeros((20, 20)), square())
    assert flat.pointing == pytest.approx(flat.pointing_by_chance)
    assert flat.iou == pytest.approx(flat.iou_by_chance) == pytest.approx(0.04 / 1.96)


def test_random_maps_are_right_as_often_as_chance_says() -> None:
    """The figures told as chance are what maps without meaning have on average."""
    draw = np.random.default_rng(0)
    found = [of(draw.random((20, 20)), square()) for _ in range(600)]
    assert np.mean([one.pointing for one in found]) == pytest.approx(found[0].pointing_by_chance, abs=0.03)
    assert np.mean([one.iou for one in found]) == pytest.approx(found[0].iou_by_chance, abs=0.005)


def test_the_middle_is_told_beside_chance() -> None:
    """Where findings lie in the middle, pointing there blindly is the figure to beat."""
    middle = np.zeros((20, 20), bool)
    middle[8:12, 8:12] = True
    assert (of(peak(0, 0), middle).centre, of(peak(0, 0), square()).centre) == (1.0, 0.0)


def test_an_empty_mask_has_nothing_to_point_at() -> None:
    """It is left out, and no miss."""
    assert localised(peak(5, 5), np.zeros((20, 20), bool)) is None


def test_a_map_that_does_not_fit_is_refused() -> None:
    """Another size, or NaN."""
    with pytest.raises(ValueError, match="shape"):
        localised(peak(5, 5, 10), square())
    with pytest.raises(ValueError, match="NaN"):
        localised(np.full((20, 20), np.nan), square())


def looked(pointing: float, iou: float, right: float, n: int = 80, marked: int | None = None, seed: int = 0) -> Looked:
    """n patients, `marked` of them with masks, of whom these shares are hit, met and answered rightly."""
    draw = np.random.default_rng(seed)
    unit = np.array([f"p{i}" for i in range(n)])
    target = np.arange(n) % 2
    said = np.where(draw.random(n) < right, target, 1 - target)
    some = unit[: n if marked is None else marked]
    return Looked(
        scores=Scores(probability=np.eye(2)[said] * 0.8 + 0.1, target=target, unit=unit),
        pointing=Worths(value=(draw.random(len(some)) < pointing).astype(float), unit=some),
        iou=Worths(value=np.clip(iou + draw.normal(0, 0.1, len(some)), 0, 1), unit=some),
    )


def test_a_fall_while_answers_hold_is_a_shortcut() -> None:
    """The pointing game falls from 0.9 to 0.3 while 95 of 100 answers stay right."""
    judged = Shortcut().judge(looked(0.9, 0.4, 0.95), looked(0.3, 0.4, 0.95, seed=1))
    assert judged.verdict is Verdict.FAIL
    assert "pointing game" in judged.says and "balanced accuracy" in judged.says


def test_iou_alone_can_show_it() -> None:
    """A map that still touches the finding but has spread over the rest of the image."""
    judged = Shortcut().judge(looked(0.9, 0.5, 0.95), looked(0.9, 0.2, 0.95))
    assert (judged.verdict, "IoU" in judged.says) == (Verdict.FAIL, True)


def test_where_the_answers_fall_too_it_is_harm() -> None:
    """The gates refuse such a version; it is no shortcut."""
    for right in (0.55, 0.83):  # much, and by a few points more than the margin, which 80 patients can't show
        judged = Shortcut().judge(looked(0.9, 0.4, 0.95), looked(0.3, 0.4, right, seed=1))
        assert judged.verdict is Verdict.PASS and "no shortcut but harm" in judged.says


def test_versions_that_look_alike_are_seldom_flagged() -> None:
    """Of 60 pairs of equally good versions none or few are called a shortcut: alpha is 0.05, and there is a margin."""
    pairs = [(looked(0.7, 0.3, 0.9, seed=2 * i), looked(0.7, 0.3, 0.9, seed=2 * i + 1)) for i in range(60)]
    assert sum(Shortcut().judge(*pair).verdict is Verdict.FAIL for pair in pairs) <= 3


def test_few_masks_decide_nothing() -> None:
    """Eleven patients with a mask say neither."""
    judged = Shortcut().judge(looked(0.9, 0.4, 0.95, marked=11), looked(0.1, 0.1, 0.95, marked=11))
    assert judged.verdict is Verdict.INSUFFICIENT and (judged.needed or 0) >= 12


def test_intervals_hold_the_measures_and_have_a_width() -> None:
    """Even where every map hits: thirty hits are no proof of a hundred."""
    found = looked(1.0, 0.4, 0.9, n=30).intervals()
    assert found["pointing_game"][0] < 0.95 and found["pointing_game"][1] == pytest.approx(1.0)
    assert found["iou"][0] < 0.4 < found["iou"][1]
    assert found["balanced_accuracy"][0] < found["balanced_accuracy"][1]


def test_patients_count_once() -> None:
    """Ten images of each patient are no more evidence than one."""
    one = looked(0.7, 0.3, 0.9, n=40)
    ten = Looked(
        scores=one.scores,
        pointing=Worths(value=np.repeat(one.pointing.value, 10), unit=np.repeat(one.pointing.unit, 10)),
        iou=Worths(value=np.repeat(one.iou.value, 10), unit=np.repeat(one.iou.unit, 10)),
    )
    assert ten.n == one.n == 40
    for name in ("pointing_game", "iou"):
        assert np.ptp(ten.intervals()[name]) == pytest.approx(np.ptp(one.intervals()[name]), rel=0.1)
