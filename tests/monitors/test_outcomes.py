"""The charts over labelled cases: quiet while the answers are as good as they were, and how soon they say otherwise."""

from __future__ import annotations

import numpy as np
import pytest
from streams import batch, drawn, see

from monitors import OF_LABELS, CalibrationStream, PerformanceStream, Reference, SubgroupStream
from monitors.outcomes import groups, labelled

RUN_LENGTH, PER_TICK = 100, 4
EVERY = pytest.mark.parametrize("kind", OF_LABELS, ids=lambda kind: kind.__name__)


def told(rng, n, start=1, *, flipped=0.0, among=None, doubtful=False):
    """n labelled cases of a model that is right as often as it says, but for a share of `flipped` labels (`among` one
    sex); `doubtful`: unsure answers are picked ten times as often as sure ones."""
    x, p = see(rng, 6 * n if doubtful else n)
    p = p**0.6 / (p**0.6).sum(axis=1, keepdims=True)
    if doubtful:
        chance = np.where(p.max(axis=1) < 0.8, 1.0, 0.1)
        picked = rng.choice(len(p), n, replace=False, p=chance / chance.sum())
        x, p = x[picked], p[picked]
    cases, truth = batch(x, p, start), drawn(rng, p)
    hit = (rng.random(n) < flipped) & ((cases.facts["sex"] == among) if among else True)
    cases.target[:] = np.where(hit, rng.integers(0, 3, n), truth)
    return cases


def fitted(kind, rng, n=160):
    monitor = kind(run_length=RUN_LENGTH)
    monitor.fit(Reference(transform=told(rng, 20, -1_000_000), calibrate=told(rng, n, -500_000)))
    return monitor


def looks(monitor, rng, horizon, **how) -> int:
    """Ticks to the first alarm, `horizon` where there is none."""
    for tick in range(horizon):
        signal = monitor.update(told(rng, PER_TICK, 1 + tick * PER_TICK, **how))
        if signal.log_e >= signal.threshold:
            return tick + 1
    return horizon


def rate(kind, references, **how) -> float:
    """False alarms per promised run length, over references with four streams each."""
    alarms, ticks = [], []
    for seed in range(references):
        rng = np.random.default_rng(seed)
        monitor = fitted(kind, rng)
        state = monitor.state()
        for _ in range(4):
            monitor.restore(state)
            n = looks(monitor, rng, 150, **how)
            alarms.append(n < 150)
            ticks.append(n)
            state |= {name: value for name, value in monitor.state().items() if name.startswith("levels")}
    return RUN_LENGTH * sum(alarms) / sum(ticks)


@EVERY
def test_it_keeps_quiet_while_nothing_changes(kind):
    """About as often as promised: at most twice in the promised run length, over twelve references."""
    assert rate(kind, 12) < 2


def seldom_wrong(rng, n, start=1):
    """n labelled cases of a model that is right 98 times of 100, and as sure."""
    p = np.column_stack([np.full(n, 0.98), np.full((n, 2), 0.01)])
    p = np.take_along_axis(p, np.argsort(rng.random((n, 3)), axis=1), axis=1)
    cases = batch(rng.standard_normal((n, 16)), p, start)
    cases.target[:] = drawn(rng, p)
    return cases


@EVERY
def test_a_model_that_is_seldom_wrong_may_be_wrong_again(kind):
    """A reference of a hundred patients with an error or none says little of how often there are any: the first ones
    that come are no alarm."""
    alarmed = 0
    for seed in range(20):
        rng = np.random.default_rng(seed)
        monitor = kind(run_length=4800.0)
        monitor.fit(Reference(transform=seldom_wrong(rng, 20, -1_000_000), calibrate=seldom_wrong(rng, 100, -500_000)))
        read = [monitor.update(seldom_wrong(rng, 10, 1 + 10 * tick)) for tick in range(60)]
        alarmed += max(signal.log_e for signal in read) >= read[0].threshold
    assert alarmed <= 2


@EVERY
def test_who_is_labelled_is_no_drift(kind):
    """Doubtful cases are labelled ten times as often, and are wrong far more often: the charts take their doubt off."""
    assert rate(kind, 8, doubtful=True) < 5
    rng = np.random.default_rng(0)
    usual, picked = (np.mean(told(rng, 500, doubtful=d).outputs.max(axis=1)) for d in (False, True))
    assert picked < usual - 0.1, "what is labelled does look otherwise"


@EVERY
def test_labels_that_disagree_are_found(kind):
    """Four in ten labels are another class: within a few dozen labels, the images being as before."""
    found = [looks(fitted(kind, np.random.default_rng(s)), np.random.default_rng(s + 50), 60, flipped=0.4)
             for s in range(5)]  # fmt: skip
    assert np.median(found) * PER_TICK < 120


def test_one_group_that_is_served_worse_is_named():
    """The women's labels disagree, the men's don't; after a hundred of them the evidence says by which fact, and not
    whose: a fact's value may be a name."""
    rng = np.random.default_rng(3)
    monitor = fitted(SubgroupStream, rng, 400)
    for tick in range(25):
        said = monitor.update(told(rng, PER_TICK, 1 + tick * PER_TICK, flipped=0.6, among="F"))
    assert said.log_e > said.threshold
    assert said.evidence["outcome"] == "sex"


def test_ages_are_parted_into_bands_and_unknown_is_no_group():
    """39 and 40 lie apart; nobody is put into a band by an age that is not known."""
    cases = batch(*see(np.random.default_rng(0), 4))
    cases.facts["age"][:] = [39.0, 40.0, 65.0, np.nan]
    assert groups(cases, "age").tolist() == ["20-39", "40-59", "60-79", ""]
    assert groups(cases, "height").tolist() == [""] * 4


@EVERY
def test_without_labels_there_is_nothing_to_compare(kind):
    """A reference without labels is refused by name, and unlabelled cases of a tick are left out."""
    rng = np.random.default_rng(0)
    plain = told(rng, 30)
    plain.target[:] = -1
    with pytest.raises(ValueError, match="label"):
        kind().fit(Reference(transform=plain, calibrate=plain))
    monitor, some = fitted(kind, rng), told(rng, 6)
    some.target[:4] = -1
    assert monitor.update(some).n == 2 and len(labelled(some)) == 2


def test_a_reference_without_an_error_still_reads():
    """A model that was never wrong: the first errors are unusual, and not infinitely so."""
    rng = np.random.default_rng(1)
    for kind in (PerformanceStream, CalibrationStream):
        perfect = told(rng, 100, -500_000)
        perfect.target[:] = perfect.outputs.argmax(axis=1)
        monitor = kind(run_length=RUN_LENGTH)
        monitor.fit(Reference(transform=perfect, calibrate=perfect))
        signal = monitor.update(told(rng, 4, flipped=1.0))
        assert np.isfinite(signal.log_e)
