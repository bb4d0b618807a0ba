"""What is watched of masks that nobody labels: shares and expected Dice, and the monitors over a stream of them."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import batch

from monitors import (
    CBPE,
    Batch,
    PairedHarm,
    PerformanceStream,
    PredictionStream,
    Reference,
    Scores,
    Shift,
    attribute,
    collapse,
    estimate,
    expected_dice,
    onset,
    shares,
)

SIDE = 24
GRID = np.stack(np.meshgrid(np.arange(SIDE), np.arange(SIDE), indexing="ij"), axis=-1)


def soft(rng: np.random.Generator, radius: float, number: int = 1) -> np.ndarray:
    """[3, 24, 24] float32: probabilities of the background, of `number` discs of about this radius, and of a structure
    that is always there."""
    odds = np.full((3, SIDE, SIDE), -2.0)
    odds[0] = 2.0
    for _ in range(number):
        size = radius * rng.uniform(0.8, 1.2)
        centre = rng.uniform(size, SIDE - size, 2)
        odds[1] = np.maximum(odds[1], 2 * (size - np.linalg.norm(GRID - centre, axis=-1)) + 2)
    odds[2, :4] = 4.0 + 0.3 * rng.standard_normal()
    p = np.exp(odds + 0.2 * rng.standard_normal((3, 1, 1)))
    return (p / p.sum(axis=0)).astype(np.float32)


def stream(rng: np.random.Generator, n: int, start: int, radius: float = 4.0, number: int = 1) -> Batch:
    """Cases without a label, whose outputs are the shares of their masks; the images' embedding tells nothing new."""
    outputs = np.stack([shares(soft(rng, radius, number)) for _ in range(n)])
    return replace(batch(rng.standard_normal((n, 6)), outputs, start=start), target=np.full(n, -1))


def reference(rng: np.random.Generator, n: int = 120) -> Reference:
    return Reference(transform=stream(rng, 60, -1_000_000), calibrate=stream(rng, n, -500_000))


@settings(max_examples=40, deadline=None)
@given(st.integers(0, 10_000), st.integers(2, 4), st.floats(0.1, 20))
def test_shares_are_a_simplex_and_expected_dice_lies_between_0_and_1(seed: int, classes: int, sharp: float) -> None:
    """Whatever the probabilities are."""
    p = np.exp(sharp * np.random.default_rng(seed).standard_normal((classes, 5, 7)))
    p = (p / p.sum(axis=0)).astype(np.float32)

    assert shares(p).shape == (classes,)
    assert shares(p).min() >= 0 and shares(p).sum() == pytest.approx(1.0, abs=1e-12)
    assert 0 <= expected_dice(p) <= 1
    assert expected_dice(p) == expected_dice(p, p.argmax(axis=0).astype(np.uint8))


def test_expected_dice_worked_out_by_hand() -> None:
    """Four pixels at 0.9 with one at 0.4 beside them; a certain mask; none; one that is expected and not said."""
    p = np.zeros((2, 1, 10), np.float32)
    p[1, 0] = [0.9] * 4 + [0.4] + [0] * 5
    p[0] = 1 - p[1]
    sure, none, thin = np.zeros((3, 2, 1, 10), np.float32)
    sure[1, 0, :3], none[1], thin[1] = 1.0, 0.05, 0.3
    sure[0], none[0], thin[0] = 1 - sure[1], 1 - none[1], 1 - thin[1]

    assert expected_dice(p) == pytest.approx(2 * 3.6 / (4.0 + 4))
    assert shares(p) == pytest.approx([0.6, 0.4])
    assert (expected_dice(sure), expected_dice(none), expected_dice(thin)) == (1.0, 1.0, 0.0)


def test_expected_dice_of_calibrated_pixels_is_the_dice_that_comes() -> None:
    """Truth drawn pixel by pixel with the probabilities that the model gives."""
    rng, expected, came = np.random.default_rng(0), [], []
    for _ in range(60):
        p = soft(rng, 4.0)[:, 5:]
        draws = np.cumsum(p, axis=0) < rng.random((1, *p.shape[1:]))
        true, said = draws.sum(axis=0) == 1, p.argmax(axis=0) == 1
        expected.append(expected_dice(np.stack([1 - p[1], p[1]]), said.astype(np.uint8)))
        came.append(2 * (true & said).sum() / (true.sum() + said.sum()))

    assert np.mean(expected) == pytest.approx(np.mean(came), abs=0.02)


@pytest.mark.parametrize("change", [{"radius": 5.5}, {"number": 2}], ids=["larger", "more of them"])
def test_masks_of_another_size_or_number_are_noticed(change: dict) -> None:
    """The stream of answers goes over the shares as they are."""
    rng, monitor = np.random.default_rng(0), PredictionStream(365.0)
    monitor.fit(reference(rng))
    quiet = [monitor.update(stream(rng, 10, 1 + 10 * t)) for t in range(6)]
    loud = [monitor.update(stream(rng, 10, 101 + 10 * t, **change)) for t in range(6)]

    assert max(s.log_e for s in quiet) < quiet[0].threshold <= max(s.log_e for s in loud)


def test_unchanged_masks_alarm_no_oftener_than_promised() -> None:
    """With one false alarm in 60 ticks promised, 20 sites of 20 ticks each have at most about seven, and not twelve."""
    alarms = 0
    for seed in range(20):
        rng, monitor = np.random.default_rng(seed), PredictionStream(60.0)
        monitor.fit(reference(rng, 80))
        signals = [monitor.update(stream(rng, 10, 1 + 10 * t)) for t in range(20)]
        alarms += any(s.log_e >= s.threshold for s in signals)

    assert alarms <= 11  # Poisson with mean 20 / 3 exceeds 11 in 4 of 100


def test_no_change_of_masks_is_called_prevalence() -> None:
    """Shares are no classes of which a case has one: another size of masks is no other mix of diseases, and with images
    as they were it keeps its name for labels to give."""
    rng = np.random.default_rng(0)
    known, cases = reference(rng, 200), stream(rng, 150, 1, radius=5.5)
    found = attribute(known, cases, of_classes=False)

    assert found.shift is Shift.UNDETERMINED
    assert found.p_answers < 0.01
    assert found.p_before == found.p_after
    np.testing.assert_allclose(found.prevalence, cases.outputs.mean(axis=0))
    moved = replace(cases, embedding=cases.embedding + 1.5)
    found = attribute(known, moved, of_classes=False)
    assert found.shift is Shift.ACQUISITION
    assert "prevalence" not in found.says


def test_more_large_masks_are_no_other_mix_of_classes() -> None:
    """Two sizes, of which the larger becomes commoner: of classes that would be a change of prevalence, and is called
    so where the caller takes the shares for classes."""
    rng = np.random.default_rng(0)

    def sizes(n: int, large: int, start: int) -> Batch:
        outputs = np.stack([shares(soft(rng, 6.0 if i < large else 3.0)) for i in range(n)])
        return replace(batch(rng.standard_normal((n, 6)), outputs, start=start), target=np.full(n, -1))

    known = Reference(transform=sizes(60, 20, -1_000_000), calibrate=sizes(240, 80, -500_000))
    cases = sizes(150, 90, 1)

    assert attribute(known, cases).shift is Shift.PREVALENCE
    assert attribute(known, cases, of_classes=False).shift is Shift.UNDETERMINED


def test_masks_that_stay_are_given_no_name() -> None:
    """Whether or not the caller says what outputs are."""
    rng = np.random.default_rng(1)
    known, cases = reference(rng, 200), stream(rng, 150, 1)

    assert attribute(known, cases, of_classes=False).shift is Shift.UNDETERMINED
    assert attribute(known, cases, new_labels=cases.target, of_classes=False).shift is Shift.UNDETERMINED


def test_an_onset_is_found_in_shares() -> None:
    """Forty cases as before, then larger masks."""
    rng = np.random.default_rng(2)
    known, before, after = reference(rng), stream(rng, 40, 1), stream(rng, 60, 41, radius=6.0)
    parts = {name: np.concatenate([getattr(before, name), getattr(after, name)])
             for name in ("index", "unit", "stratum", "time", "outputs", "embedding", "quality", "target")}  # fmt: skip
    found = onset(known, Batch(**parts, version="v0", sensor="pinned"), since=45)

    assert found is not None
    assert found.low <= 41 <= found.high


def test_monitors_of_labels_have_nothing_to_say_of_masks_without_labels() -> None:
    """Fitting one is refused in a sentence; an update with such cases is no look."""
    rng = np.random.default_rng(3)
    known, cases = reference(rng, 60), stream(rng, 20, 1)
    with pytest.raises(ValueError, match="no case of the reference's calibration part has a label"):
        PerformanceStream().fit(known)
    monitor = PerformanceStream()
    labelled = replace(known.calibrate, target=known.calibrate.outputs.argmax(axis=1))
    monitor.fit(replace(known, calibrate=labelled))
    assert monitor.update(cases).n == 0
    none = Scores(probability=known.calibrate.outputs, target=known.calibrate.target, unit=known.calibrate.unit)
    assert estimate(CBPE(), none, cases.outputs, cases.unit).value is None


def test_harm_is_read_of_dice_as_of_right_answers() -> None:
    """Worths between 0 and 1 are bet on, and shares are no collapse while cases differ."""
    rng, harm = np.random.default_rng(4), PairedHarm()
    shown = [harm.update(promoted_right=d - 0.3, previous_right=d) for d in rng.uniform(0.6, 0.95, 60)]
    outputs = stream(rng, 30, 1).outputs

    assert shown[-1] and not shown[3]
    assert collapse(outputs, stream(rng, 40, 1).outputs) is None
    assert "same answer" in (collapse(np.repeat(outputs[:1], 30, axis=0), outputs) or "")
