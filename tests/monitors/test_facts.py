"""The chart over facts: new scanners, other ages, missing values; quiet while they come as before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from streams import batch

from monitors import Batch, FactStream, Reference


def cases(n: int, seed: int, start: int, *, kernel: tuple[str, ...] = ("B30", "B60", ""), age: float = 60.0) -> Batch:
    rng = np.random.default_rng(seed)
    facts = {
        "kernel": rng.choice(
            kernel, n, p=np.array([0.6, 0.3, 0.1])[: len(kernel)] / sum([0.6, 0.3, 0.1][: len(kernel)])
        ),
        "age": np.where(rng.random(n) < 0.1, np.nan, rng.normal(age, 12, n)),
        "kvp": rng.choice(["80", "120"], n),
    }
    return replace(batch(np.zeros((n, 1)), np.ones((n, 1)), start=start), facts=facts)


def fitted(run_length: float = 365.0, names: tuple[str, ...] = ("kernel", "age", "kvp")) -> FactStream:
    monitor = FactStream(names, run_length)
    monitor.fit(Reference(transform=cases(50, 1, -2000), calibrate=cases(200, 2, -1000)))
    return monitor


def alarmed(monitor: FactStream, ticks: int, **change: object) -> tuple[int | None, str]:
    """(the tick of the alarm, the fact that drives it)."""
    for t in range(ticks):
        signal = monitor.update(cases(10, 100 + t, 1 + 10 * t, **change))  # type: ignore[arg-type]
        if signal.log_e >= signal.threshold:
            return t, str(signal.evidence["fact"])
    return None, ""


def test_facts_that_come_as_before_are_quiet() -> None:
    """Forty days of the reference's own mix."""
    assert alarmed(fitted(), 40) == (None, "")


@pytest.mark.parametrize(
    ("change", "fact"),
    [({"kernel": ("B31s",)}, "kernel"), ({"kernel": ("B60",)}, "kernel"), ({"age": 8.0}, "age")],
    ids=["a value never seen", "another share", "children"],
)
def test_each_kind_of_change_is_found_and_its_fact_named(change: dict, fact: str) -> None:
    """Within five days of ten cases."""
    found, driver = alarmed(fitted(), 8, **change)
    assert found is not None and found <= 5
    assert driver == fact


def test_one_new_value_is_no_alarm() -> None:
    """A single case with a kernel that nobody has seen is as unusual as one in two hundred."""
    monitor = fitted()
    for t in range(5):
        monitor.update(cases(10, 100 + t, 1 + 10 * t))
    tick = cases(10, 200, 51)
    tick.facts["kernel"][3] = "new"
    signal = monitor.update(tick)
    assert signal.log_e < np.log(365)


def test_a_typing_error_is_no_drift() -> None:
    """An age of 6000 years counts as four standard deviations."""
    monitor = fitted()
    tick = cases(10, 200, 1)
    tick.facts["age"][0] = 6000.0
    assert monitor.update(tick).log_e < np.log(365)


def test_a_fact_that_nobody_has_is_missing_and_says_nothing() -> None:
    """A column that is named in the config and stands in no folder: all values are missing, before and after."""
    monitor = fitted(names=("kernel", "nowhere"))
    assert alarmed(monitor, 20) == (None, "")


def test_values_beyond_the_commonest_are_one_value() -> None:
    """A hundred serial numbers don't make a hundred columns."""
    many = replace(cases(300, 1, 1), facts={"serial": np.array([f"SN{i % 100}" for i in range(300)])})
    monitor = FactStream(("serial",))
    monitor.fit(Reference(transform=many, calibrate=many))
    assert monitor.chart.known.shape[1] <= 12


def test_rare_values_that_become_common_are_a_change() -> None:
    """Nine cases of ten come from one scanner, the rest from thirty, each too rare to be told apart; then only some of
    these."""
    names = np.array(["SN0"] * 270 + [f"SN{i}" for i in range(1, 31)])
    known = replace(cases(300, 1, 1), facts={"serial": names})
    monitor = FactStream(("serial",))
    monitor.fit(Reference(transform=known, calibrate=known))
    for t in range(5):
        rare = np.array([f"SN{20 + (t + i) % 11}" for i in range(10)])
        signal = monitor.update(replace(cases(10, 3, 1000 + 10 * t), facts={"serial": rare}))
    assert signal.log_e >= signal.threshold
