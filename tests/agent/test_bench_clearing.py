"""The benchmark of clearing: what ends alarms, and what must not."""

from __future__ import annotations

import numpy as np
import pytest

from agent.errors import HomeostatError
from benchmarks import clearing


def test_a_creep_that_confidence_shows_ends_no_alarm() -> None:
    """The plain rule believes labels of weeks ago; unharmed sites are cleared by both."""
    rng, ended = np.random.default_rng(0), {}
    for name in ("as before", "creep, confidence falls"):
        played = [clearing.played(clearing.SITES[name], rng) for _ in range(30)]
        ended[name] = {rule: sum(one[rule] is not None for one in played) for rule in ("now", "plain")}
    assert min(ended["as before"].values()) > 20
    assert ended["creep, confidence falls"]["now"] == 0 < ended["creep, confidence falls"]["plain"]


def test_it_reads_nothing(tmp_path) -> None:
    """Folders that it would ignore are refused in a sentence."""
    with pytest.raises(HomeostatError, match="simulated"):
        clearing.bench(tmp_path, 0)


def test_the_ratios_are_of_the_rows(monkeypatch) -> None:
    """A few alarms of each site give every ratio that the docs name."""
    monkeypatch.setattr(clearing, "ALARMS", 2)
    found = clearing.bench(None, 0, progress=lambda what, done, of: None)
    assert len(found["rows"]) == 2 * len(clearing.SITES)
    assert {"now.margin.to_alpha", "plain.margin.to_alpha", "as_before.days.to_plain"} <= {*found["ratios"]}
