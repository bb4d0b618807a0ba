"""What every monitor of the registry, experimental ones included, owes to those who run it."""

from __future__ import annotations

import dataclasses
import sys
from pathlib import Path

import numpy as np
import pytest

import monitors
from monitors import EXPERIMENTAL, MONITORS, Monitor, default_monitors

sys.path.append(str(Path(__file__).parents[1] / "monitors"))

from streams import batch, reference, see, silent_day

READING = (
    "embedding",
    "prediction",
    "far-out",
    "quality",
    "performance",
    "calibration",
    "subgroups",
    "kernel",
    "classifier",
)
ALL = (*MONITORS, *EXPERIMENTAL)
EVERY = pytest.mark.parametrize("kind", ALL, ids=lambda kind: kind.__name__)


def fitted(kind: type, n: int = 100) -> Monitor:
    monitor = kind()
    monitor.fit(reference(np.random.default_rng(0), n))
    return monitor


def ticks(n: int, seed: int = 1) -> list:
    rng = np.random.default_rng(seed)
    return [batch(*see(rng, 10, 0.6 * (t > n // 2)), start=1 + 10 * t, tick_time=86_400.0 * (4 + t)) for t in range(n)]


def test_the_registry_is_covered() -> None:
    """Ten monitors stand in the registry, each under a name of its own; facts and groups are watched where some are
    named, image quality where the reference has it, the form where it is recorded, outcomes where there are labels."""
    names = [monitor.name for monitor in default_monitors()]

    assert names == ["embedding", "prediction", "volume", "far-out"]
    all_on = default_monitors(facts=["age"], looks=True, forms=True, labels=True, subgroups=["sex"])
    assert {type(monitor) for monitor in all_on} == set(MONITORS)
    assert len(MONITORS) == len({monitor.name for monitor in all_on}) == 10
    assert {kind.__name__ for kind in ALL} <= set(monitors.__all__)
    assert not {*EXPERIMENTAL} & {*MONITORS}, "what is on trial has no share of the budget"
    assert all(hasattr(monitors, name) for name in monitors.__all__)


@EVERY
def test_it_speaks_the_protocol(kind: type) -> None:
    """A signal carries the monitor's name, finite numbers, and the number of cases."""
    monitor = fitted(kind)
    signal = monitor.update(ticks(1)[0])

    assert isinstance(monitor, Monitor)
    assert (signal.monitor, signal.n) == (kind.name, 10)
    assert np.isfinite([signal.log_e, signal.statistic, signal.threshold]).all()


@EVERY
def test_seeded_twins_agree(kind: type) -> None:
    """Two monitors with one seed read one stream alike."""
    one, other = fitted(kind), fitted(kind)

    assert [one.update(t) for t in ticks(6)] == [other.update(t) for t in ticks(6)]


@EVERY
def test_a_restored_monitor_continues_identically(kind: type) -> None:
    """Saved in mid-stream as plain arrays and restored, the rest of the stream is read to the last digit the same."""
    going_on, stream = fitted(kind), ticks(24)
    for tick in stream[:12]:
        going_on.update(tick)
    state = {key: value.copy() for key, value in going_on.state().items()}
    restored = fitted(kind)
    restored.restore(state)

    assert all(isinstance(v, np.ndarray) and v.dtype != object for v in state.values())
    assert [going_on.update(t) for t in stream[12:]] == [restored.update(t) for t in stream[12:]]


@EVERY
def test_saved_state_does_not_change_behind_the_back(kind: type) -> None:
    """What `state` returned stays as it was while the monitor goes on."""
    monitor, stream = fitted(kind), ticks(6)
    monitor.update(stream[0])
    state = monitor.state()
    before = {key: value.copy() for key, value in state.items()}
    for tick in stream[1:]:
        monitor.update(tick)

    assert all(np.array_equal(before[key], state[key]) for key in before)


@EVERY
def test_a_newer_state_is_refused(kind: type) -> None:
    """An older program says that it met a newer workspace."""
    monitor = fitted(kind)

    with pytest.raises(ValueError, match="newer"):
        monitor.restore(monitor.state() | {"version": np.array(99)})


@EVERY
def test_the_input_is_not_mutated(kind: type) -> None:
    """The arrays of a batch are the caller's."""
    monitor, tick = fitted(kind), ticks(1)[0]
    before = {
        f.name: np.copy(getattr(tick, f.name)) for f in dataclasses.fields(tick) if f.name not in ("facts", "form")
    }
    monitor.update(tick)

    for name, value in before.items():
        np.testing.assert_array_equal(value, getattr(tick, name))


@EVERY
def test_an_empty_tick_is_legal(kind: type) -> None:
    """A silent day, or a tick in which nothing could be read, is no error for anybody."""
    monitor = fitted(kind)
    nothing = batch(np.empty((0, 0)), np.empty((0, 0)), version="", sensor="")

    assert [monitor.update(nothing).n, monitor.update(silent_day(0)).n] == [0, 0]


@EVERY
def test_a_reference_of_twenty_cases_is_watched_with(kind: type) -> None:
    """Small is slow, not broken."""
    monitor = kind()
    monitor.fit(reference(np.random.default_rng(0), 20, transform=20))

    assert all(np.isfinite(monitor.update(t).log_e) for t in ticks(5))


@EVERY
def test_gross_change_is_read_as_more_evidence_than_none(kind: type) -> None:
    """After 40 common days, five of another world with eight times the cases: each monitor sees what it is for."""
    rng, calm, changed = np.random.default_rng(7), fitted(kind, 400), fitted(kind, 400)
    for tick in ticks(40):
        common = dataclasses.replace(tick, outputs=see(rng, 10)[1], embedding=see(rng, 10)[0])
        calm.update(common)
        changed.update(common)
    for t in range(40, 45):
        day = 86_400.0 * (4 + t)
        quiet = calm.update(batch(*see(rng, 10), start=1 + 10 * t, tick_time=day))
        loud = changed.update(batch(*see(rng, 80, 3.0), start=1 + 80 * t, tick_time=day))

    assert loud.log_e > quiet.log_e + 2


def test_what_is_not_a_number_is_refused() -> None:
    """NaN in what a monitor reads raises; volume counts cases; to facts an unknown value is a value."""
    refused = []
    for kind in ALL:
        rng = np.random.default_rng(0)
        x, p = see(rng, 10)
        x[3, 2], p[4, 1] = np.nan, np.nan
        try:
            fitted(kind).update(batch(x, p))
        except ValueError as error:
            refused.append((kind.name, "NaN" in str(error)))

    assert refused == [(name, True) for name in READING]


def test_sensors_and_versions_are_not_mixed() -> None:
    """Another sensor or another version than the reference's is an error, not drift."""
    rng, refused = np.random.default_rng(0), []
    for kind in ALL:
        try:
            fitted(kind).update(batch(*see(rng, 10), version="v1", sensor="another"))
        except ValueError:
            refused.append(kind.name)

    assert refused == [name for name in READING if name != "quality"]
