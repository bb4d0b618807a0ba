"""The form of cases: a column that is filled no more, another type of file; quiet while forms come in the same mix."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from streams import MONDAY, batch, reference, silent_day

from monitors import Batch, SchemaStream


def cases(n: int, seed: int, start: int, *, ages: float = 0.9, dicom: float = 0.0, columns: int = 1) -> Batch:
    """n cases of which a share `ages` tells the age and a share `dicom` is DICOM; more columns are filled always."""
    rng = np.random.default_rng(seed)
    form = {f"column {i}": np.full(n, "there") for i in range(columns)}
    form |= {
        "age": np.where(rng.random(n) < ages, "there", ""),
        "type of file": np.where(rng.random(n) < dicom, "application/dicom", "image/png"),
    }
    return replace(batch(np.zeros((n, 1)), np.ones((n, 1)), start=start), form=form)


def watching() -> SchemaStream:
    monitor = SchemaStream(365.0)
    monitor.fit(reference(np.random.default_rng(0), 20))
    return monitor


def alarmed(monitor: SchemaStream, ticks: int, first: int = 0, **change: float) -> tuple[int | None, str]:
    """(the tick of the alarm, the column that drives it)."""
    for t in range(first, first + ticks):
        signal = monitor.update(cases(10, 100 + t, 1 + 10 * t, **change))  # type: ignore[arg-type]
        if signal.log_e >= signal.threshold:
            return t - first, str(signal.evidence["column"])
    return None, ""


@pytest.mark.parametrize(
    "change",
    [{}, {"ages": 1.0, "columns": 4}, {"ages": 0.5, "dicom": 0.5}],
    ids=["some ages missing", "one form only", "two routes"],
)
def test_forms_in_the_same_mix_are_quiet(change: dict) -> None:
    """Of ten feeds of a hundred days each, at one false alarm in 365 days, six or more are never alarmed."""
    loud = 0
    for seed in range(10):
        monitor = watching()
        loud += any(
            (signal := monitor.update(cases(10, 1000 * seed + t, 1 + 10 * t, **change))).log_e >= signal.threshold
            for t in range(100)
        )
    assert loud <= 4


@pytest.mark.parametrize(
    ("change", "column"),
    [({"ages": 0.0}, "age"), ({"dicom": 1.0}, "type of file"), ({"ages": 0.3}, "age")],
    ids=["ages are gone", "another type of file", "most ages are gone"],
)
def test_another_form_is_found_and_the_column_named(change: dict, column: str) -> None:
    """After twenty days of ten cases, within five."""
    monitor = watching()
    assert alarmed(monitor, 20) == (None, "")
    found, driver = alarmed(monitor, 8, 20, **change)
    assert found is not None and found <= 5
    assert driver == column


def test_one_odd_case_is_no_alarm() -> None:
    """After two hundred days a single file of another type is a curiosity."""
    monitor = watching()
    for t in range(200):
        monitor.update(cases(10, 100 + t, 1 + 10 * t, ages=1.0))
    tick = cases(10, 5000, 2001, ages=1.0)
    tick.form["type of file"] = np.array(["image/tiff"] + ["image/png"] * 9)
    assert monitor.update(tick).log_e < np.log(365)


def arriving(refused: int, t: int, n: int = 10) -> Batch:
    """A tick of ten cases for which n patients came to the intake, some of them with files that nobody could read."""
    return replace(cases(10, 100 + t, 1 + 10 * t), arrivals={"taken": n - refused, "unreadable": refused})


def test_a_feed_that_sends_what_nobody_can_read_is_told_of() -> None:
    """After thirty days with one refusal in a hundred, half of what comes is refused: within five days, by its reason;
    days on which nothing but refusals comes are read too."""
    for change in (lambda t: arriving(5, t), lambda t: replace(silent_day(t), arrivals={"unreadable": 10})):
        monitor, rng = watching(), np.random.default_rng(2)
        for t in range(30):
            signal = monitor.update(arriving(int(rng.binomial(10, 0.01)), t))
            assert signal.log_e < signal.threshold and signal.evidence["arrivals"] == 10 * (t + 1)
        found = [monitor.update(change(t)) for t in range(30, 35)]
        assert found[-1].log_e >= found[-1].threshold
        assert found[-1].evidence["intake"] == "unreadable" and "column" not in found[-1].evidence
        assert found[-1].since is not None and found[-1].since > 290


def test_refusals_in_the_same_share_are_quiet() -> None:
    """Of ten feeds of a hundred days that always had a tenth refused, eight or more are never alarmed; nor are those
    in which fewer are refused than before."""
    loud, better = 0, 0
    for seed in range(10):
        rng, monitor = np.random.default_rng(seed), watching()
        read = [monitor.update(arriving(int(rng.binomial(10, 0.1 if t < 100 else 0.0)), t)) for t in range(120)]
        loud += any(signal.log_e >= signal.threshold for signal in read[:100])
        better += any(signal.log_e >= signal.threshold for signal in read[100:])
    assert loud <= 2 and better <= 2


def test_a_state_of_before_arrivals_were_read_goes_on() -> None:
    """A workspace that an older program kept: its cases are remembered, and arrivals begin."""
    monitor, older = watching(), watching()
    for t in range(5):
        monitor.update(cases(10, t, 1 + 10 * t))
    state = {key: value for key, value in monitor.state().items() if not key.startswith("arrivals") and key != "last"}
    older.restore(state | {"rarest": np.array("age")})
    assert older.update(arriving(1, 5)).evidence["cases"] == 60


def test_memory_is_the_forms_and_not_the_cases() -> None:
    """A thousand cases of four forms leave four rows."""
    monitor = watching()
    monitor.update(cases(1000, 1, 1, ages=0.5, dicom=0.5))
    assert len(monitor.state()["forms"]) == 4 and monitor.state()["counts"].sum() == 1000


@pytest.mark.parametrize("batches", ["scanner by the day", "weekends", "patients who stay"])
def test_forms_that_come_in_batches_are_quiet(batches: str) -> None:
    """Two scanners with files of their own take turns; few ages are told at weekends; the same ten patients are imaged
    on five days running: a year of it, at one false alarm in a hundred years of days, alarms nowhere."""
    monitor = SchemaStream(36_500.0)
    monitor.fit(reference(np.random.default_rng(0), 20))
    highest = -np.inf
    for day in range(365):
        scanner, weekend = day % 2, day % 7 > 4
        change = {
            "scanner by the day": {"dicom": float(scanner)},
            "weekends": {"ages": 0.6 if weekend else 0.95},
            "patients who stay": {},
        }[batches]
        seed = day // 5 if batches == "patients who stay" else day
        tick = cases(10, seed, 1 + 10 * day, **change)
        tick = replace(tick, stratum=np.full(10, f"scanner {scanner}"), tick_time=MONDAY + 86_400.0 * day)
        if batches == "patients who stay":
            tick = replace(tick, unit=np.array([f"week {day // 5}, patient {i}" for i in range(10)]))
        highest = max(highest, monitor.update(tick).log_e)
    assert highest < np.log(36_500)
