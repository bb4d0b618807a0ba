"""Which remembered cases are replayed, and what is left out of a lesson."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest

from strategies.data import (
    CHOICES,
    Curated,
    NewCases,
    Rehearsal,
    by_class,
    by_domain,
    by_patient,
    by_style,
    hard_first,
    herding,
    reservoir,
)
from strategies.data.choices import Choice
from strategies.data.curation import copies, suspicious
from strategies.protocols import Lesson, Recorded

NEW = 5


def made(remembered: int = 60, classes: int = 3, per_patient: int | None = None, seed: int = 0) -> Lesson:
    """Five new cases, then remembered ones of two sites; patients have one to four images, or `per_patient`."""
    draw = np.random.default_rng(seed)
    n = NEW + remembered
    sizes = [per_patient] * n if per_patient else draw.integers(1, 5, n).tolist()
    patient = [f"p{i:03d}" for i, size in enumerate(sizes) for _ in range(size)][:n]
    label, features = draw.integers(0, classes, n), draw.normal(0, 1, (n, 8)).astype(np.float32)
    logits = draw.normal(0, 1, (n, classes)).astype(np.float32) + 2 * np.eye(classes, dtype=np.float32)[label]
    site = {name: "home" if int(name[1:]) % 3 else "other" for name in patient}
    return Lesson(
        label=label,
        domain=np.array(["new"] * NEW + [site[name] for name in patient[NEW:]]),
        patient=np.array([f"new{i}" for i in range(NEW)] + patient[NEW:]),
        new=NEW,
        remembered=remembered,
        features=lambda: features,
        logits=lambda: logits,
    )


def shuffled(lesson: Lesson, seed: int) -> tuple[Lesson, np.ndarray]:
    """The lesson with its remembered rows in another order; row i of it is row order[i] of the first."""
    order = np.concatenate([np.arange(NEW), NEW + np.random.default_rng(seed).permutation(lesson.remembered)])
    return replace(
        lesson,
        label=lesson.label[order],
        domain=lesson.domain[order],
        patient=lesson.patient[order],
        features=lambda: lesson.features()[order],
        logits=lambda: lesson.logits()[order],
    ), order


def test_every_choice_is_covered() -> None:
    """Seven, of different names."""
    assert len({choice.__name__ for choice in CHOICES}) == len(CHOICES) == 7


@pytest.mark.parametrize("choice", CHOICES)
@pytest.mark.parametrize("size", [0, 1, 7, 20, 59, 60, 1000])
def test_a_choice_is_bounded_and_keeps_patients_whole(choice: Choice, size: int) -> None:
    """At most `size` remembered rows, each once; all of a patient or none; everything where everything fits."""
    lesson = made()
    kept = list(choice(lesson, size, 0))
    assert len(kept) <= size
    assert kept == sorted(set(kept))
    assert all(NEW <= row < NEW + 60 for row in kept)
    inside, outside = ({str(lesson.patient[row]) for row in rows} for rows in (kept, set(range(NEW, 65)) - set(kept)))
    assert not inside & outside
    assert len(kept) >= min(size, 60) - 4, "there was room for another patient"


@pytest.mark.parametrize("choice", CHOICES)
def test_a_choice_is_repeatable_in_any_order(choice: Choice) -> None:
    """The same seed chooses the same cases, also where they come in another order: a retry changes nothing."""
    lesson = made()
    kept = list(choice(lesson, 20, 3))
    assert kept == list(choice(lesson, 20, 3))
    for seed in range(3):
        other, order = shuffled(lesson, seed)
        assert sorted(order[list(choice(other, 20, 3))].tolist()) == kept
    differs = choice not in (herding, hard_first)
    assert (kept != list(choice(lesson, 20, 4))) == differs, "these two draw nothing"


@pytest.mark.parametrize("choice", CHOICES)
def test_without_a_memory_nothing_is_chosen(choice: Choice) -> None:
    """The first update of a foreign base."""
    assert list(choice(replace(made(0), new=NEW), 20, 0)) == []


@pytest.mark.parametrize("choice", CHOICES)
def test_rehearsal_replays_what_was_chosen(choice: Choice) -> None:
    """Every chosen row is replayed and no other, beside every new one."""
    lesson = made()
    seen = {row for batch in Rehearsal(20, choose=choice).batches(lesson, 8, seed=2) for row in batch}
    assert seen == {*range(NEW), *choice(lesson, 20, 2)}


def test_by_class_evens_classes_and_by_domain_domains() -> None:
    """A rare class in a large site: by domain each site gets half, by class each class."""
    label = np.array([0] * NEW + [0] * 100 + [1] * 20 + [0] * 40)
    domain = np.array(["new"] * NEW + ["home"] * 120 + ["other"] * 40)
    lesson = replace(made(160, per_patient=1), label=label, domain=domain)
    of_class, of_domain = (list(choice(lesson, 40, 0)) for choice in (by_class, by_domain))
    assert Counter(label[of_class].tolist()) == {0: 20, 1: 20}
    assert Counter(domain[of_domain].tolist()) == {"home": 20, "other": 20}


def test_chances_of_cases_and_of_patients() -> None:
    """Ten patients of ten images and a hundred of one: by case half of what is replayed is of the ten, by patient one
    in eleven patients."""
    patient = np.array(
        [f"new{i}" for i in range(NEW)] + [f"many{i // 10}" for i in range(100)] + [f"one{i}" for i in range(100)]
    )
    lesson = replace(made(200, per_patient=1), patient=patient)
    first = {reservoir: 0, by_patient: 0}
    for choice in first:
        for seed in range(200):
            kept = list(choice(lesson, 10, seed))
            first[choice] += len(kept) == 10 and str(patient[kept[0]]).startswith("many")
    assert 70 < first[reservoir] < 130, (
        "the first case drawn is of the ten in half of the draws, and takes all ten places"
    )
    assert 5 < first[by_patient] < 35


def test_herding_is_icarls() -> None:
    """With a case per patient and one site they are the exemplars that avalanche's herding names first."""
    import torch
    from avalanche.training.storage_policy import HerdingSelectionStrategy

    lesson = replace(made(60, classes=1, per_patient=1), domain=np.array(["home"] * 65))
    unit = lesson.features() / np.linalg.norm(lesson.features(), axis=1, keepdims=True)
    theirs = object.__new__(HerdingSelectionStrategy)
    expected = theirs.make_sorted_indices_from_features(torch.tensor(unit[NEW:], dtype=torch.float64))
    assert [row - NEW for row in herding(lesson, 12, 0)] == sorted(expected[:12])


def test_herding_is_nearer_to_the_mean_than_chance() -> None:
    """The mean of the chosen cases of a class lies at less than half a drawn sample's distance."""
    lesson = made(300, classes=2, per_patient=2)
    lesson = replace(lesson, domain=np.array(["home"] * 305), label=(np.arange(305) - NEW) // 2 % 2)
    unit = lesson.features() / np.linalg.norm(lesson.features(), axis=1, keepdims=True)

    def mean(rows, c: int) -> np.ndarray:
        return unit[[row for row in rows if lesson.label[row] == c]].mean(axis=0)

    def far(rows: list[int]) -> float:
        return sum(float(np.linalg.norm(mean(rows, c) - mean(range(NEW, 305), c))) for c in (0, 1))

    drawn = np.mean([far(list(by_domain(lesson, 40, seed))) for seed in range(5)])
    assert far(herding(lesson, 40, 0)) < drawn / 2


def test_a_rare_style_stays_in_memory() -> None:
    """Ten of two hundred cases are of a scanner that nobody wrote down: by style all are kept, by chance two."""
    draw = np.random.default_rng(0)
    rare = np.arange(205) >= 195
    features = draw.normal(0, 1, (205, 8)) + 6.0 * rare[:, None]
    lesson = replace(made(200, classes=2, per_patient=1), domain=np.array(["home"] * 205), features=lambda: features)
    kept = [
        sum(rare[list(choice(lesson, 40, seed))].sum() for seed in range(5)) / 5 for choice in (by_style, by_domain)
    ]
    assert kept[0] >= 9
    assert kept[1] <= 4


def test_hard_cases_are_replayed_and_wrong_labels_are_not() -> None:
    """Of a hundred cases ten are hard and five have another's label; the hard ones come, the five don't."""
    draw = np.random.default_rng(0)
    n = NEW + 100
    label = np.arange(n) % 2
    hard, wrong = np.arange(n) >= n - 10, (np.arange(n) >= NEW) & (np.arange(n) < NEW + 5)
    margin = np.where(hard, 0.2, 3.0) + draw.normal(0, 0.05, n)
    logits = np.stack([margin * (label == 0), margin * (label == 1)], axis=1).astype(np.float32)
    given = np.where(wrong, 1 - label, label)
    lesson = replace(made(100, per_patient=1), label=given, domain=np.array(["home"] * n), logits=lambda: logits)
    kept = hard_first(lesson, 20, 0)
    assert hard[kept].sum() == 10
    assert wrong[kept].sum() == 0
    by_loss = np.argsort(np.where(wrong, -3, margin)[NEW:])[:20] + NEW
    assert wrong[by_loss].sum() == 5, "by the loss alone all five would have come first"


def planted() -> Lesson:
    """Forty-five cases that a good model knows; row 1 has a wrong label, row 20 is nearly row 3."""
    draw = np.random.default_rng(1)
    label = np.arange(45) % 3
    features = draw.normal(0, 1, (45, 16)).astype(np.float32)
    features[20] = features[3] + 0.001
    logits = (4 * np.eye(3)[label] + draw.normal(0, 0.5, (45, 3))).astype(np.float32)
    given = label.copy()
    given[1] = 2
    logits[1] = (0.0, 6.0, 0.0)
    given[20] = given[3]
    return replace(
        made(40, per_patient=1),
        label=given,
        domain=np.array(["home"] * 45),
        features=lambda: features,
        logits=lambda: logits,
    )


@pytest.mark.parametrize("inner", [NewCases(), Rehearsal(30)], ids=lambda one: one.name)
def test_curation_leaves_out_a_copy_and_a_wrong_label(inner) -> None:
    """Neither is in a batch, the others come in the rows of the whole lesson, and the record counts the missing."""
    lesson = planted()
    curated = Curated(inner)
    assert curated.remembers == inner.remembers
    batches = curated.batches(lesson, 8, seed=0)
    seen = {row for _ in range(3) for batch in batches for row in batch}
    assert not seen & {1, 20}
    assert seen >= {0, 2, 3, 4}
    assert all(0 <= row < 45 for row in seen)
    assert (max(seen) >= NEW) == inner.remembers
    assert isinstance(batches, Recorded)
    assert batches.record() == {"left_out": {"copies": 1, "suspicious_labels": 1}}


def test_copies_that_disagree_are_all_left_out() -> None:
    """Of two copies with two labels nobody knows which is right; a case without a label disagrees with none."""
    features = np.random.default_rng(0).normal(0, 1, (6, 16))
    features[4] = features[5] = features[0]
    assert copies(features, np.array([0, 1, 0, 1, 0, -1]), 0.995).tolist() == [False] * 4 + [True] * 2
    assert copies(features, np.array([0, 1, 0, 1, 1, -1]), 0.995).tolist() == [True] + [False] * 3 + [True] * 2


def test_a_class_that_the_model_does_not_know_is_not_held_for_wrong_labels() -> None:
    """At a new site it takes one class for another: that is what there is to learn, not 40 wrong labels."""
    label = np.repeat([0, 1], 50)
    logits = np.zeros((100, 2))
    logits[:, 1] = 3.0  # whatever it is shown, it says the second class, a little surer of the first's cases
    logits[:40, 1] = 4.0
    assert not suspicious(label, np.array(["new"] * 100), logits).any()
    logits[5:50] = (
        3.0,
        0.0,
    )  # where it knows both classes, five of the first that it takes for the second are suspicious
    assert suspicious(label, np.array(["new"] * 100), logits).tolist() == [True] * 5 + [False] * 95


def test_the_labels_of_a_new_site_are_judged_by_that_site() -> None:
    """Where the model is unsure of all, an answer of 0.6 for another class is much; at home it is little."""
    label = np.array([0, 0, 0, 0, 0, 1, 1, 1, 1, 1] * 2)
    p = np.array([0.55, 0.55, 0.55, 0.55, 0.35, 0.45, 0.45, 0.45, 0.45, 0.45] + [0.95] * 4 + [0.35] + [0.05] * 5)
    logits = np.log(np.stack([p, 1 - p], axis=1))
    domain = np.array(["new"] * 10 + ["home"] * 10)
    assert np.flatnonzero(suspicious(label, domain, logits)).tolist() == [4]


def test_a_lesson_of_nothing_but_contradictions_is_refused() -> None:
    """Two copies with two labels are nothing to learn from, which is said and not trained on."""
    features = np.random.default_rng(0).normal(0, 1, (NEW + 20, 8))
    features[:NEW] = features[0]
    lesson = replace(made(20, per_patient=1), features=lambda: features, label=np.arange(25) % 2)
    with pytest.raises(ValueError, match="nothing to learn from"):
        Curated().batches(lesson, 8, 0)
