"""The benchmarks of cost and of attribution: their ratios are of what they played, and nothing is left out."""

from __future__ import annotations

from pathlib import Path

import pytest

import benchmarks.attribution
import benchmarks.monitors
from agent.errors import HomeostatError
from benchmarks.attribution import KINDS, LABELLED, TOLD, confusion, ratios
from benchmarks.drift.worlds import SHIFTS
from monitors import Shift


def quiet(what: str, done: int, of: int) -> None:
    return None


def test_cost_is_read_at_the_start_and_at_the_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stream cut short: the same looks, each detector beside, and the ratios that are asked for."""
    monkeypatch.setattr(benchmarks.monitors, "STREAM", 8_000)
    monkeypatch.setattr(benchmarks.monitors, "DIMENSION", 32)
    answer = benchmarks.monitors.bench(None, 0, progress=quiet)
    of = {row["what"]: row for row in answer["rows"]}

    assert {"first cases", "last cases", "river ADWIN", "river KSWIN", "permutation MMD"} <= {*of}
    assert {"torchdrift MMD", "menelaus HDDDM"} <= {*of}, "the group peers is installed where tests run"
    assert {"ms_per_case", "ms_per_case_at_8000", "rss_growth", "setup_seconds"} <= {*answer["ratios"]}
    for trial in ("kernel", "classifier"):
        assert answer["ratios"][f"{trial}_ms_per_case"] == of[f"{trial}, on trial"]["ms_per_case"] > 0
        assert answer["ratios"][f"{trial}_setup_seconds"] == of[f"{trial}, on trial: set-up"]["seconds"] > 0
    assert answer["ratios"]["ms_per_case"] == of["first cases"]["ms_per_case"] > 0
    assert answer["ratios"]["rss_growth"] == pytest.approx(of["last cases"]["rss_mib"] / of["first cases"]["rss_mib"])


def test_it_reads_no_files(tmp_path: Path) -> None:
    """One sentence instead of a table that ignores them."""
    with pytest.raises(HomeostatError, match="leave --input out"):
        benchmarks.monitors.bench(None, 0, input=tmp_path)


def test_every_seeded_shift_is_played_and_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """One world: five shifts with four streams each, nearly all named and named rightly; with labels three more, and
    streams without a change."""
    monkeypatch.setattr(benchmarks.attribution, "SHORT", 1)
    answer = benchmarks.attribution.bench(None, 0, progress=quiet)
    of = {source: [row for row in answer["rows"] if row["source"] == source] for source in
          ("worlds", *(f"worlds, {n} labels" for n in LABELLED))}  # fmt: skip

    assert {row["shift"] for row in of["worlds"]} == {*SHIFTS} == {*KINDS}
    assert all({row["shift"] for row in of[f"worlds, {n} labels"]} == {"none", *KINDS, *TOLD} for n in LABELLED)
    names = {str(kind) for kind in Shift} - {"none"}
    assert all(sum(row[name] for name in names) == 4 for row in answer["rows"])
    asked = {"named", "right_of_named", "prevalence_right", "acquisition_called_prevalence"}
    assert asked | {f"{n}_labels.{key}" for n in LABELLED for key in asked} == {*answer["ratios"]}
    assert answer["ratios"]["named"] >= 0.8
    assert answer["ratios"]["250_labels.right_of_named"] >= 0.95


def test_ratios_count_what_they_say() -> None:
    """Four streams by hand: one unnamed, one wrong; real ones apart from seeded ones."""

    def row(truth: str, called: str, source: str = "worlds") -> dict:
        distance = {"acquisition": 1.5, "prevalence": 0.5}.get(called)
        return {"source": source, "shift": truth, "is": truth, "called": called, "part": None, "distance": distance}

    rows = [row("acquisition", "acquisition"), row("acquisition", "prevalence"), row("prevalence", "prevalence"),
            row("prevalence", "undetermined")]  # fmt: skip
    assert ratios(rows) == {"named": 0.75, "right_of_named": pytest.approx(2 / 3), "prevalence_right": 0.5,
                            "acquisition_called_prevalence": 0.5}  # fmt: skip
    pairs = (("mixed", "mixed"), ("none", "acquisition"), ("acquisition", "mixed"), ("prevalence", "mixed"))
    told = [row(truth, called, "worlds, 250 labels") for truth, called in pairs]
    assert ratios(rows + told)["named"] == 0.75
    assert ratios(rows + told)["250_labels.right_of_named"] == pytest.approx(1 / 3)
    real = [*rows, row("prevalence", "prevalence", "site"), row("acquisition", "acquisition", "site"),
            row("acquisition", "prevalence", "site, labelled")]  # fmt: skip
    assert ratios(real)["named"] == 0.75
    assert (ratios(real)["real.prevalence_right"], ratios(real)["real.site_called_prevalence"]) == (1.0, 0.0)
    assert confusion(real)[0]["prevalence"] == 1
    assert [line["distance"] for line in confusion([*rows, row("annotation", "undetermined")])] == [1.0, 0.5, None]
