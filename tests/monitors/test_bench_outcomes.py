"""The benchmark of late labels: streams of the patients that nothing is compared with, with labels and without."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from streams import batch, see

from agent.errors import HomeostatError
from benchmarks import outcomes


def test_labels_are_what_makes_the_difference() -> None:
    """Where another reader's labels come in, the images say nothing, and the labels do; unchanged, both keep quiet."""
    rng = np.random.default_rng(0)
    taught, unseen = batch(*see(rng, 100), -1_000_000), batch(*see(rng, 500), -500_000)
    rows = list(outcomes.played("made", taught, unseen, 0, 6, lambda *_: None))
    alarms = {(row["stream"], row["labels"]): row["alarms"] for row in rows}

    assert len(rows) == 2 * len(outcomes.STREAMS)
    assert alarms["unchanged", True] == alarms["unchanged", False] == alarms["another standard", False] == 0
    assert alarms["another standard", True] >= 4 and alarms["worse answers", True] >= 3
    assert outcomes.ratios(rows)["another_standard.without_labels"] == 0.0


def test_a_changed_stream_is_changed_in_what_it_says() -> None:
    """The images stay, and the labels or the answers don't."""
    cases = batch(*see(np.random.default_rng(0), 400))
    for name, changed in outcomes.STREAMS.items():
        after = changed(cases, np.random.default_rng(1))
        assert np.array_equal(after.embedding, cases.embedding)
        assert (after.target != cases.target).any() == (name == "another standard")
        assert (after.outputs != cases.outputs).any() == (name == "worse answers")
        assert dataclasses.fields(after) == dataclasses.fields(cases)


def test_it_asks_for_the_real_sites(tmp_path) -> None:
    """One sentence that says what is missing."""
    with pytest.raises(HomeostatError, match="--data"):
        outcomes.bench(None, 0)
    with pytest.raises(HomeostatError, match="--input"):
        outcomes.bench(None, 0, input=tmp_path)
