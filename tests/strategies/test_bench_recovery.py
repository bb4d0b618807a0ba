"""The recovery benchmark: when a way of updating counts as recovered, and what it costs until then."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.continual.streams import Stream
from benchmarks.recovery import BUDGETS, FULL, SUFFIX, Said, Seed, recipes, seconds_until, table, to_full
from benchmarks.recovery.figure import draw
from monitors.protocols import Scores

N = 200
TARGET = np.arange(N) % 2


def says(right: float) -> np.ndarray:
    """Probabilities of which so many are right, in both classes alike."""
    answer = np.where(np.arange(N) < right * N, TARGET, 1 - TARGET)
    return np.eye(2, dtype=np.float32)[answer] * 0.8 + 0.1


def said(home: float, new: float, seconds: float) -> Said:
    return Said(home=says(home), new=says(new), cpu_seconds=seconds)


def a_seed(made: dict[tuple[str, int], Said]) -> Seed:
    held = Scores(probability=says(0.5), target=TARGET, unit=np.arange(N).astype(str))
    frozen, joint = said(0.95, 0.5, 0.0), said(0.95, 0.9, 100.0)
    return Seed(
        frozen=frozen,
        joint=joint,
        made=made,
        home=Scores(probability=frozen.home, target=TARGET, unit=held.unit),
        new=held,
    )


def test_the_cheapest_run_counts_that_closes_the_gap_and_keeps_home() -> None:
    """0.86 closes nine tenths of the way from 0.5 to 0.9. Home may not fall by more than the plan's margin: a run that
    forgets does not count however fast it is, nor one that falls short."""
    found = a_seed(
        {
            (SUFFIX, 1): said(0.95, 0.84, 4.0),
            (SUFFIX, 3): said(0.95, 0.87, 6.0),
            (SUFFIX, 6): said(0.95, 0.9, 9.0),
            (FULL, 1): said(0.94, 0.87, 30.0),
            ("naive", 1): said(0.5, 0.9, 5.0),
            ("head", 12): said(0.95, 0.7, 2.0),
        }
    )
    assert seconds_until(found, SUFFIX) == 6.0
    assert seconds_until(found, "naive") is None and seconds_until(found, "head") is None
    assert to_full([found]) == {SUFFIX: pytest.approx(0.2), FULL: 1.0, "naive": None, "head": None}


def test_a_method_that_recovers_in_a_minority_of_seeds_has_no_ratio() -> None:
    good = a_seed({(SUFFIX, 1): said(0.95, 0.9, 5.0), (FULL, 1): said(0.95, 0.9, 10.0)})
    bad = a_seed({(SUFFIX, 1): said(0.95, 0.6, 5.0), (FULL, 1): said(0.95, 0.9, 10.0)})
    assert to_full([good, bad])[SUFFIX] is None
    assert to_full([good, good, bad])[SUFFIX] == pytest.approx(0.5)


def test_a_row_says_in_how_many_seeds_and_stands_beside_all_weights(tmp_path: Path) -> None:
    most = max(BUDGETS)
    good = a_seed({(SUFFIX, most): said(0.95, 0.8, 5.0), (FULL, most): said(0.95, 0.9, 10.0)})
    bad = a_seed({(SUFFIX, most): said(0.6, 0.9, 7.0), (FULL, most): said(0.95, 0.9, 10.0)})
    first, second = table(Stream("wbc", (), "", ("a", "b"), 64), [good, bad])
    assert (first["method"], first["home_passes"], first["recovers"], first["seeds"]) == (SUFFIX, 1, 0, 2)
    assert (first["new"], first["cpu_seconds"]) == (0.85, 6.0)
    low, high = first["beside_full"]
    assert low < -0.1 < high < 0, "of the first seed, in which the suffix gives ten right answers in a hundred less"
    assert second["beside_full"][0] <= 0 <= second["beside_full"][1]
    draw([first, second], tmp_path / "recovery.svg")
    assert (tmp_path / "recovery.svg").read_text(encoding="utf-8").startswith("<?xml")


def test_each_method_moves_more_than_the_one_before() -> None:
    """What is compared is how much of the network moves, from nothing but statistics to every weight."""
    from torch import nn

    from strategies.families import load_backbone
    from strategies.model import Classifier

    moved = []
    for name in ("statistics", "head", SUFFIX, "all_but_first_blocks", "all_blocks", FULL):
        backbone = load_backbone("mobilenet_v3_small")
        model = Classifier(backbone, nn.Linear(backbone.width, 2), ["a", "b"])
        parameters = [stage.parameter for stage in recipes()[name].stages if stage.parameter is not None]
        moved.append(sum(weight.numel() for one in parameters for weight in one.attach(model)))
    assert moved == sorted(set(moved)) and moved[0] == 0
