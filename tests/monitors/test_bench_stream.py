"""The benchmark of real streams: its ratios are of what was played, and what is played through the monitors alone."""

from __future__ import annotations

import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from streams import batch, reference, see

from agent.errors import HomeostatError
from benchmarks.sensed import first_alarm, play_sensed, quiet_cases
from benchmarks.stream import ALL, BLIND, CHANGES, IN_TIME, MIXED_QUIET, Change, _other_mix, bench, ratios, row_of
from monitors import Reference


def test_ratios_are_of_each_change_and_of_the_first_without_a_name() -> None:
    """Four shuffles: two in time, one before the change, one never; the median is of cases after the change."""
    first, other = Change("cells", "here", "there"), Change("cells", "here", "elsewhere")
    rows = [row_of(first, "change", i, 100, alarm, 40, ALL) for i, alarm in enumerate([110, 120, 90, None])]
    rows += [row_of(first, "null", i, 100, alarm, 0, ALL) for i, alarm in enumerate([None, None, None, 30])]
    rows += [row_of(other, "change", i, 100, 110 + 10 * i, 40, ALL) for i in range(3)]
    rows += [row_of(first, "blur", 0, 70, alarm, 80, which) for alarm, which in ((90, ALL), (None, BLIND))]
    found = ratios(rows)
    assert (found["in_time"], found["before_the_change"], found["null_alarms"]) == (0.5, 0.25, 0.25)
    assert found["cases_to_the_alarm"] is None, "half of the shuffles have none in time: their median is no number"
    assert found["cells: here -> there.in_time"] == 0.5
    assert found["cells: here -> elsewhere.cases_to_the_alarm"] == 20.0
    assert found["cells: here -> there.blur.with_quality"] == 20 / 80, "where none came all cases count"
    assert "cells: here -> elsewhere.null_alarms" not in found, "a home's null stream is played once"


def test_another_mix_is_drawn_from_cases_that_were_not_quiet() -> None:
    """Nobody is played twice in a stream, and after the change there is one label only."""
    unseen = [(i, None) for i in range(2 * MIXED_QUIET)]
    quiet, after = _other_mix(unseen, [i % 4 == 0 for i in range(len(unseen))])(random.Random(0))
    assert len(quiet) == MIXED_QUIET and 10 <= len(after) <= IN_TIME
    assert not {i for i, _ in quiet} & {i for i, _ in after} and all(i % 4 == 0 for i, _ in after)


def test_a_change_that_only_a_sensor_sees_is_alarmed_at_the_end_of_its_tick() -> None:
    """Without answers: thirty common cases, then another world; and nothing where nothing changes."""
    rng = np.random.default_rng(0)
    known = reference(rng, 200)
    known = Reference(**{
        name: replace(part, outputs=np.ones((len(part), 1)), version="v0", sensor="sensor")
        for name, part in (("transform", known.transform), ("calibrate", known.calibrate))
    })  # fmt: skip
    quiet, after = batch(*see(rng, 30)), batch(*see(rng, 30, 4.0), start=31)
    assert first_alarm(known, [quiet]) is None
    assert first_alarm(known, [quiet, after]) == 40
    assert first_alarm(known, [quiet, batch(*see(rng, 9, 4.0), start=31)]) is None, "a tick that isn't full decides not"


@pytest.mark.parametrize(("home", "quiet"), [(212, 70), (25, 10), (8, 10)])
def test_a_quiet_stream_is_whole_ticks(home: int, quiet: int) -> None:
    """A third of home, so that the change begins with a tick, and one tick at least: none would be silent by force."""
    assert quiet_cases(home) == quiet


def test_missing_folders_are_one_sentence(tmp_path: Path) -> None:
    """Which folder is missing, and the flag that names it."""
    with pytest.raises(HomeostatError, match="name their folder with --data"):
        bench(None, 0)
    with pytest.raises(HomeostatError, match="wbc is no data folder"):
        bench(tmp_path, 0)
    with pytest.raises(HomeostatError, match="name the folder that holds it with --data"):
        play_sensed(tmp_path, CHANGES, 0, tmp_path)
