"""What `bench estimates` reports: estimates beside the truth and beside the guess that nothing has changed."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from agent.errors import HomeostatError
from benchmarks.estimates import HOW, bench, ratios, seeded, summary


def silent(what: str, done: int, of: int) -> None:
    """Nobody looks."""


@pytest.fixture(scope="module")
def rows() -> list[dict]:
    return list(seeded([0], silent))


def test_every_estimator_has_a_row_for_every_shift(rows: list[dict]) -> None:
    """Seven rules, seven kinds of stream, two of each; a row adds up what its streams said."""
    found = summary(rows)

    assert len(HOW) == 7 and len(found) == 7 * 7 and len(rows) == 2 * len(found)
    one = [row for row in rows if (row["shift"], row["estimator"]) == ("mean", "ATC")]
    told = next(row for row in found if (row["shift"], row["estimator"]) == ("mean", "ATC"))
    assert told["error"] == pytest.approx(np.mean([abs(row["estimated"] - row["true"]) for row in one]), abs=1e-3)


def test_the_ratio_is_of_errors_to_those_of_guessing_unchanged(rows: list[dict]) -> None:
    """One is no better than that guess; the kind of change that real images stand for is not mixed with made ones."""
    by_hand = [{"kind": "site", "estimator": "CBPE", "error": error, "unchanged": 0.2} for error in (0.1, 0.2)]
    assert ratios(by_hand) == {"CBPE.error_to_unchanged": pytest.approx(0.75)}
    assert {*ratios(rows)} == {f"worlds.{name}.error_to_unchanged" for name in HOW}
    assert ratios(rows)["worlds.CBPE.error_to_unchanged"] < 1


def test_where_labels_given_images_stay_calibrated_estimates_follow(rows: list[dict]) -> None:
    """Other patients, of whom the model is less sure: CBPE's error is less than half of that of the guess."""
    of = [row for row in rows if (row["shift"], row["estimator"]) == ("other patients", "CBPE")]
    assert np.mean([row["error"] for row in of]) < 0.5 * np.mean([row["unchanged"] for row in of])


def test_another_mix_is_what_its_rule_is_for(rows: list[dict]) -> None:
    """Where the prevalence rises it halves the plain rule's error; where all cases move it is no nearer."""

    def error(shift: str, name: str) -> float:
        return float(np.mean([row["error"] for row in rows if (row["shift"], row["estimator"]) == (shift, name)]))

    assert error("prevalence", "CBPE, another mix") < 0.5 * error("prevalence", "CBPE")
    assert error("mean", "CBPE, another mix") >= error("mean", "CBPE")


def test_what_it_cant_read_is_said(tmp_path: Path) -> None:
    """Streams of somebody else hold no labels for it; a folder without data is named."""
    with pytest.raises(HomeostatError, match="leave --input out"):
        bench(None, 0, input=tmp_path)
