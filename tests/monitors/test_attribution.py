"""A change is named by what remains of it once the reference is weighed to the new prevalence, or it is not named."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from streams import batch

from benchmarks.drift.worlds import SHIFTS, Stream, World
from monitors import Batch, Reference, Shift, attribute
from monitors.attribution import changed_part
from monitors.hotelling import apart, hotelling

WORLD = World(seed=3, dim=24)
KINDS = {"mean": Shift.ACQUISITION, "cov": Shift.ACQUISITION, "ramp": Shift.ACQUISITION,
         "subpop": Shift.POPULATION, "prevalence": Shift.PREVALENCE}  # fmt: skip


def seen(stream: Stream, start: int) -> Batch:
    return batch(stream.x, np.column_stack([1 - stream.score, stream.score]), start=start)


def reference(n: int = 800) -> tuple[Reference, np.ndarray]:
    known = WORLD.stream(200 + n, 1)
    parts = [Stream(*(part[where] for part in known)) for where in (slice(200), slice(200, None))]
    return Reference(transform=seen(parts[0], 1), calibrate=seen(parts[1], 201)), parts[1].label.astype(int)


REFERENCE, LABELS = reference()


def changed(shift: str | None, n: int = 500, seed: int = 0) -> Batch:
    whole = WORLD.stream(n + 600, (7, seed), shift)
    return seen(Stream(*(part[600:] for part in whole)), 10_000)


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("shift", SHIFTS)
def test_each_kind_is_named_at_five_hundred_patients(shift: str, labelled: bool) -> None:
    """With the reference's labels or with the model's probabilities in their place, in five streams of five."""
    found = [attribute(REFERENCE, changed(shift, seed=s), LABELS if labelled else None).shift for s in range(5)]

    assert found.count(KINDS[shift]) >= 4
    assert {*found} <= {KINDS[shift], Shift.UNDETERMINED}


def test_new_images_are_never_called_a_change_of_prevalence() -> None:
    """Its remedy, another threshold, would harm: of forty streams with few and with many patients none."""
    found = [
        attribute(REFERENCE, changed(shift, n, seed), LABELS).shift
        for shift in ("mean", "ramp") for n in (100, 200) for seed in range(10)
    ]  # fmt: skip

    assert Shift.PREVALENCE not in found


def two_classes(
    rng: np.random.Generator, n: int, start: int, positive: float, moved: float
) -> tuple[Batch, np.ndarray]:
    """(n patients of two classes whose means lie 3 apart, every image moved along that way; their classes)."""
    label = (rng.random(n) < positive).astype(int)
    x = rng.standard_normal((n, 16))
    x[:, 0] += 3.0 * label + moved
    positive_odds = np.exp(3.0 * x[:, 0] - 4.5) * 0.25
    score = positive_odds / (1 + positive_odds)
    return seen(Stream(x.astype(np.float32), score, label.astype(bool)), start), label


@pytest.mark.parametrize(("moved", "positive"), [(1.0, 0.2), (0.0, 0.5)])
def test_a_scanner_that_moves_images_from_class_to_class_is_no_other_mix(moved: float, positive: float) -> None:
    """The mean goes where more positives would take it, and each image keeps its place in its class: that is not called
    prevalence, whose remedy would harm. Where half of the patients are positive, it is."""
    called = []
    for seed in range(12):
        rng = np.random.default_rng(seed)
        known, labels = two_classes(rng, 400, -5_000, 0.2, 0.0)
        taught, _ = two_classes(rng, 200, -9_000, 0.2, 0.0)
        cases, _ = two_classes(rng, 300, 1, positive, moved)
        called.append(attribute(Reference(transform=taught, calibrate=known), cases, labels, alpha=0.002).shift)
    share = called.count(Shift.PREVALENCE) / len(called)
    assert share >= 0.75 if positive == 0.5 else share <= 0.1


def test_where_nothing_changed_nothing_is_named() -> None:
    """A false alarm is mostly left unnamed."""
    found = [attribute(REFERENCE, changed(None, 300, seed), LABELS).shift for seed in range(20)]

    assert found.count(Shift.UNDETERMINED) >= 18


def test_the_new_prevalence_is_estimated() -> None:
    """From 15 to 40 %, within five points, with labels of the reference and without."""
    for labels in (LABELS, None):
        answer = attribute(REFERENCE, changed("prevalence", 1000), labels)
        assert answer.was[1] == pytest.approx(0.15, abs=0.05)
        assert answer.prevalence[1] == pytest.approx(0.40, abs=0.05)


def test_few_patients_name_nothing_mild() -> None:
    """Seven patients are too few for anything, and forty for a change of prevalence."""
    assert attribute(REFERENCE, changed("mean", 7), LABELS).shift is Shift.UNDETERMINED
    assert attribute(REFERENCE, changed("prevalence", 40), LABELS).shift is not Shift.PREVALENCE


def test_another_modality_is_far_out() -> None:
    """Nothing else is asked of it."""
    cases = changed(None, 60)
    answer = attribute(REFERENCE, replace(cases, embedding=cases.embedding + 60.0), LABELS)

    assert (answer.shift, answer.driver) == (Shift.FAR_OUT, "far-out")


def test_an_unknown_scanner_that_looks_different_is_an_acquisition_shift_at_once() -> None:
    """Twelve patients are enough where the images come from a place that the reference has none of."""
    cases = changed("mean", 12)
    cases = replace(cases, embedding=cases.embedding + 2 * WORLD.shift.astype(np.float32))

    assert attribute(REFERENCE, cases, LABELS, new_domain=True).shift is Shift.ACQUISITION


def test_other_patients_are_told_by_their_age() -> None:
    """The same change of images is another population where the patients are of another age, and that is the driver."""
    rng = np.random.default_rng(0)
    old = {"age": rng.normal(60, 10, len(REFERENCE.calibrate)), "sex": np.full(len(REFERENCE.calibrate), "F")}
    known = Reference(transform=REFERENCE.transform, calibrate=replace(REFERENCE.calibrate, facts=old))
    cases = changed("mean", 200)
    young = replace(cases, facts={"age": rng.normal(8, 3, 200), "sex": np.full(200, "F")})
    answer = attribute(known, young, LABELS)

    assert (answer.shift, answer.driver) == (Shift.POPULATION, "age")


@pytest.mark.parametrize("n", [120, 500])
def test_the_distance_is_the_size_of_the_change_and_not_the_evidence_for_it(n: int) -> None:
    """The world's mean moves by one standard deviation, its ramp to twice as far: with many patients and with few, of
    whom the direction is known less well. Another spread has no such distance."""
    far = {
        shift: [attribute(REFERENCE, changed(shift, n, seed), LABELS).distance for seed in range(4)]
        for shift in ("mean", "ramp", "cov")
    }

    assert np.mean(far["mean"]) == pytest.approx(0.8, abs=0.2)
    assert np.mean(far["ramp"]) == pytest.approx(1.7, abs=0.2)
    assert far["cov"] == [None] * 4


def test_cases_with_nan_are_left_out() -> None:
    """What a sensor could not see names nothing, and doesn't keep the others from being named."""
    cases = changed("mean", 300)
    embedding, outputs = cases.embedding.copy(), cases.outputs.copy()
    embedding[3, 2], outputs[7] = np.nan, np.nan
    answer = attribute(REFERENCE, replace(cases, embedding=embedding, outputs=outputs), LABELS)
    assert (answer.n, answer.shift) == (298, Shift.ACQUISITION)


@pytest.mark.filterwarnings("error")
def test_a_sensor_that_never_varies_breaks_nothing() -> None:
    """All its embeddings are zero: labels and answers are compared, and no part of the cases is said to have moved."""
    parts = [
        replace(part, embedding=np.zeros_like(part.embedding)) for part in (REFERENCE.transform, REFERENCE.calibrate)
    ]
    cases, told = after("annotation", 0)
    blind = replace(cases, embedding=np.zeros_like(cases.embedding))
    answer = attribute(Reference(transform=parts[0], calibrate=parts[1]), blind, LABELS, new_labels=told)

    assert (answer.part, answer.distance) == (None, None)
    assert answer.labelled == 300


def test_a_patient_counts_once() -> None:
    """Three hundred images of five patients are five observations."""
    cases = changed("mean", 300)
    assert attribute(REFERENCE, replace(cases, unit=np.array([f"p{i % 5}" for i in range(300)])), LABELS).n == 5


def after(shift: str, seed: int, told: int = 300) -> tuple[Batch, np.ndarray]:
    """(600 patients after a change that labels tell, the class of `told` of them and -1)."""
    rng = np.random.default_rng((9, seed))
    whole = WORLD.stream(1200, (8, seed), "prevalence" if shift == "mixed" else None)
    x, label = whole.x[600:].astype(float), whole.label[600:].copy()
    x += {"manifestation": 3.0 * label[:, None], "mixed": np.ones((600, 1))}.get(shift, 0.0) * WORLD.shift
    if shift == "annotation":
        label |= rng.random(600) < 0.3
    known = np.where(rng.permutation(600) < told, label, -1)
    return seen(Stream(x.astype(np.float32), WORLD.score(x), label), 10_000), known.astype(int)


@pytest.mark.parametrize("kind", ["manifestation", "annotation", "mixed"])
def test_what_labels_tell_is_named_with_labels_only(kind: str) -> None:
    """In six streams of ten at least, and never wrongly; without the labels no such name is given."""
    made = [after(kind, seed) for seed in range(10)]
    found = [attribute(REFERENCE, cases, LABELS, new_labels=told).shift for cases, told in made]
    blind = [attribute(REFERENCE, cases, LABELS).shift for cases, _ in made]

    assert found.count(Shift(kind)) >= 6
    assert {*found} <= {Shift(kind), Shift.UNDETERMINED}
    assert not {*blind} & {Shift.MANIFESTATION, Shift.ANNOTATION, Shift.MIXED}


def test_a_new_scanner_is_the_reason_why_its_images_look_otherwise() -> None:
    """One class looks different on it above all: an acquisition shift that can be learnt, and no other disease."""
    made = [after("manifestation", seed) for seed in range(6)]
    kinds = [
        {attribute(REFERENCE, cases, LABELS, new_labels=told, new_domain=new).shift for cases, told in made}
        for new in (False, True)
    ]
    assert Shift.MANIFESTATION in kinds[0] and kinds[1] == {Shift.ACQUISITION}


@pytest.mark.parametrize("shift", SHIFTS)
def test_labels_take_no_name_from_the_others(shift: str) -> None:
    """What is named rightly without labels is with them, or left open."""
    for seed in range(4):
        whole = WORLD.stream(1100, (7, seed), shift)
        told = np.where(np.arange(500) % 2, whole.label[600:], -1).astype(int)
        answer = attribute(REFERENCE, changed(shift, seed=seed), LABELS, new_labels=told)
        assert answer.shift in (KINDS[shift], Shift.UNDETERMINED)
        assert answer.labelled == 250


def test_few_labels_and_chosen_ones_say_nothing() -> None:
    """Twenty-nine labels are too few; nor is anything named by those of the cases that the model is sure of."""
    cases, told = after("annotation", 0, told=29)
    assert attribute(REFERENCE, cases, LABELS, new_labels=told).shift is Shift.UNDETERMINED

    cases, told = after("annotation", 0, told=600)
    chosen = np.where(cases.outputs[:, 1] > 0.3, told, -1)
    assert (chosen >= 0).sum() > 60
    assert attribute(REFERENCE, cases, LABELS, new_labels=chosen).shift is Shift.UNDETERMINED


def test_a_rare_class_that_looks_different_is_no_annotation() -> None:
    """Its labels disagree with the answers as well, and among all images it hardly shows."""
    found = []
    for seed in range(10):
        cases, told = after("none", seed)
        x = cases.embedding - 2.0 * WORLD.class_offset * (told == 1)[:, None]
        hidden = seen(Stream(x.astype(np.float32), WORLD.score(x), told == 1), 10_000)
        found.append(attribute(REFERENCE, hidden, LABELS, new_labels=told).shift)

    assert Shift.ANNOTATION not in found


def test_labels_of_a_patients_first_case_count() -> None:
    """Three hundred labelled images of five patients are five labels, which name nothing."""
    cases, told = after("annotation", 0, told=600)
    cases = replace(cases, unit=np.array([f"p{i % 5}" for i in range(600)]))
    answer = attribute(REFERENCE, cases, LABELS, new_labels=told)
    assert (answer.labelled, answer.shift) == (5, Shift.UNDETERMINED)


@given(st.integers(0, 10_000), st.integers(1, 8))
@settings(max_examples=30, deadline=None)
def test_weights_of_one_change_nothing(seed: int, k: int) -> None:
    """Hotelling's test with equal weights is the one without, whatever their scale."""
    rng = np.random.default_rng(seed)
    known, new = rng.standard_normal((60, k)), rng.standard_normal((30, k)) + 0.3
    assert hotelling(known, new, np.full(60, 7.0)) == pytest.approx(hotelling(known, new), rel=1e-6)


def test_hotellings_p_values_are_uniform_where_nothing_changed() -> None:
    """Five in a hundred are below 0.05."""
    rng = np.random.default_rng(0)
    p = np.array([hotelling(rng.standard_normal((80, 5)), rng.standard_normal((40, 5))) for _ in range(600)])
    assert 0.03 <= np.mean(p < 0.05) <= 0.075


@pytest.mark.parametrize("length", [0.0, 0.5, 1.5])
def test_the_distance_of_two_means_lies_within_its_bounds(length: float) -> None:
    """Each bound errs in about one of twenty samples."""
    rng, below, above = np.random.default_rng(0), 0, 0
    for _ in range(200):
        found = apart(rng.standard_normal((80, 6)), rng.standard_normal((40, 6)) + length * np.eye(6)[0])
        below += found.at_least(0.05) > length**2
        above += found.at_most(0.05) < length**2
    assert below <= 20 and above <= 20
    assert length == 0 or (below, above) != (0, 0)


@pytest.mark.parametrize("part", [0.25, 0.5, 1.0])
def test_the_part_that_changed_is_estimated(part: float) -> None:
    """A quarter, a half and all of the cases moved by three standard deviations."""
    rng = np.random.default_rng(0)
    new = rng.standard_normal((600, 8))
    new[rng.random(600) < part, 0] += 3.0
    found = changed_part(rng.standard_normal((800, 8)), new, np.ones(800))

    assert found is not None
    assert found[0] == pytest.approx(part, abs=0.12)
    assert found[1] == pytest.approx(3.0 * part, abs=0.2)
