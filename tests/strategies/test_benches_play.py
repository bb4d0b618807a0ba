"""The benchmarks of learning from the command line to the answer, on a few small generated sites."""

from __future__ import annotations

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent import cli
from agent.demo.scanners import A, B, generate
from benchmarks import continual, families, loop, mechanisms, recovery
from benchmarks.continual import ours
from benchmarks.continual.streams import Site, Stream
from strategies.protocols import Recipe

SIDE, START, CLASSES = 32, datetime(2026, 1, 5, tzinfo=UTC), ("cyst", "ring", "solid")

pytestmark = pytest.mark.slow


def small(scratch: Path, seed: int) -> Stream:
    """Three sites of few patients and tiny images, and a base of one epoch."""
    scanners = (A, B, replace(B, name="C", t2=False))
    sites = tuple(
        Site(s.name, generate(scratch / s.name, scanner=s, patients=40, seed=seed, start=START, size=SIDE))
        for s in scanners
    )
    return Stream("generated", sites, "mobilenet_v3_small", CLASSES, SIDE, epochs=1)


def short(recipe: Recipe) -> Recipe:
    """The same recipe, one epoch a stage."""
    return replace(recipe, stages=tuple(replace(stage, epochs=min(stage.epochs, 1)) for stage in recipe.stages))


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """`homeostat bench NAME --json` on small sites, one seed."""
    known, moved = ours.recipes, recovery.recipes

    def played(name: str) -> dict[str, Any]:
        assert cli.main(["bench", name, "--json"]) == 0
        return json.loads(capsys.readouterr().out)

    def few(full: bool) -> dict[str, Recipe]:
        return {name: short(recipe) for name, recipe in known(full).items()}

    for module in (continual, families, recovery):
        monkeypatch.setattr(module, "generated", small)
    monkeypatch.setattr(continual, "SEEDS", 1)
    monkeypatch.setattr(continual, "PEERS", ("replay",))
    monkeypatch.setattr(ours, "recipes", few)
    monkeypatch.setattr(families, "recipes", few)
    monkeypatch.setattr(recovery, "BUDGETS", (1,))
    monkeypatch.setattr(recovery, "recipes", lambda: {name: moved()[name] for name in ("statistics", recovery.FULL)})
    return played


def test_continual(play: Any) -> None:
    """A row for each recipe of the plan, avalanche's, joint training and the portfolio; and the issue's ratios."""
    said = play("continual")
    assert {row["method"] for row in said["rows"]} >= {
        "frozen", "joint", "homeostat", "lora_rehearsal", "avalanche replay", "avalanche cumulative",
    }  # fmt: skip
    names = ("average_to_best_avalanche", "gap_to_joint", "forgetting", "seconds_to_joint")
    assert {f"generated.{name}" for name in names} <= said["ratios"].keys()


def test_families(play: Any) -> None:
    said = play("families")
    assert [row["family"] for row in said["rows"]] == [
        "supervised fine-tuning",
        *(family.name for family in families.FAMILIES if family.pretrained),
        *(family.name for family in families.ADAPTERS),
    ]
    assert said["left_out"].keys() == {"multimodal"}


def test_recovery(play: Any) -> None:
    said = play("recovery")
    assert [(row["method"], row["epochs"]) for row in said["rows"]] == [("statistics", 0), (recovery.FULL, 1)]
    assert all(row["cpu_seconds"] > 0 for row in said["rows"])
    assert said["ratios"].keys() == {f"generated.{name}.seconds_to_full" for name in ("statistics", recovery.FULL)}


def test_mechanisms(play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every alignment by itself and banked; a bank leaves home as it was."""
    from strategies.experimental import EXPERIMENTAL

    def shift(scratch: Path, seed: int) -> list[loop.Shift]:
        home, new, _ = small(scratch, seed).sites
        return [loop.Shift("generated", loop.Site(home.folder), loop.Site(new.folder), "mobilenet_v3_small", CLASSES)]

    for name in mechanisms.METHODS[1:]:
        monkeypatch.setitem(EXPERIMENTAL, name, short(EXPERIMENTAL[name]))
    monkeypatch.setattr(mechanisms, "_generated", shift)
    said = play("mechanisms")
    assert [row["method"] for row in said["rows"]] == list(mechanisms.METHODS)
    assert said["ratios"].keys() == {f"{name}.gain" for name in mechanisms.UNLABELLED}


def test_tasks_are_played_from_the_fit_to_the_alarm(play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every method once on generated cells of two stains, the agent beside them; the base of few epochs is poor."""
    from benchmarks import tasks
    from benchmarks.tasks import generated as cells

    monkeypatch.setattr(cells, "SIDE", 32)
    both = cells.changes
    monkeypatch.setattr(cells, "changes", lambda scratch, seed: both(scratch, seed)[:1])
    found = play("tasks")
    methods = [row["method"] for row in found["rows"]]
    assert methods == [*tasks.SHORT, tasks.PLAYED]
    assert all(0 <= row["home"] <= 1 and 0 <= row["new"] <= 1 for row in found["rows"])
    assert found["ratios"].keys() == {
        f"cells.{name}"
        for name in ("new_site_gap_closed", "old_site_change", "naive_old_site_change", "naive_refused",
                     "alarm_after_cases", "false_alarms")
    }  # fmt: skip
    assert found["ratios"]["cells.false_alarms"] == 0 and found["ratios"]["cells.alarm_after_cases"] <= 20


@pytest.mark.parametrize("name", ["zero-shot", "lora-vs-full", "cross-modality", "universal-or-specialist", "2d-or-3d"])
def test_an_experiment_answers_with_a_table_and_a_figure(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """On few generated cells, or volumes, by the command."""
    from benchmarks.experiments import flat_or_deep
    from benchmarks.tasks import generated as cells

    monkeypatch.setattr(cells, "SIDE", 32)
    drawn = cells.changes
    monkeypatch.setattr(cells, "changes", lambda scratch, seed: drawn(scratch, seed, (40, 24)))
    monkeypatch.setattr(flat_or_deep, "EPOCHS", 1)
    monkeypatch.setattr(flat_or_deep, "PATIENTS", (16, 8))
    assert cli.main(["experiment", name, "--figure", str(tmp_path / "a.svg"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["name"] == name and found["rows"] and (tmp_path / "a.svg").read_text().startswith("<?xml")
    assert all(0 <= row["quality"] <= 1 for row in found["rows"])
    if name == "zero-shot":
        assert [row["site"] for row in found["rows"]] == ["dark", "bright"]
        assert all(row["low"] <= row["quality"] <= row["high"] for row in found["rows"])
    if name == "universal-or-specialist":
        kept = {(row["model"], row["models"], row["site"]) for row in found["rows"]}
        assert len(kept) == len(found["rows"]) == 6 and {models for _, models, _ in kept} == {1, 2}
    if name == "2d-or-3d":
        asked = {(row["data"], row["reads"]) for row in found["rows"]}
        assert len(asked) == 2 * len(flat_or_deep.NETWORKS) and all(row["n"] for row in found["rows"])
    if name == "lora-vs-full":
        assert {row["asked"] for row in found["rows"]} == {100}, "there are fewer labels: the rest would be the same"
        moved = {row["method"]: row["trainable_parameters"] for row in found["rows"]}
        assert moved["lora_rehearsal"] < moved["full_finetune"]


def test_an_experiment_that_there_is_none_of_is_refused_in_a_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["experiment", "alchemy"]) == 2
    assert "zero-shot, lora-vs-full, cross-modality" in capsys.readouterr().err


def test_tasks_are_played_on_boxes(play: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """Every method once on generated cells of two stains, the agent beside them; the base of few epochs is poor."""
    from benchmarks import tasks
    from benchmarks.tasks import generated as cells

    both = cells.changes
    monkeypatch.setattr(cells, "EPOCHS", 4)
    monkeypatch.setattr(cells, "changes", lambda scratch, seed: both(scratch, seed)[1:])
    found = play("tasks")
    assert [row["method"] for row in found["rows"]] == [*tasks.SHORT, tasks.PLAYED]
    assert {row["data"] for row in found["rows"]} == {"boxes"}
    assert all(0 <= row["home"] <= 1 and 0 <= row["new"] <= 1 for row in found["rows"])
    assert {"map50_new", "map_new", "froc_new"} <= found["rows"][0].keys()
    assert {"boxes.new_site_gap_closed", "boxes.old_site_change", "boxes.alarm_after_cases"} <= found["ratios"].keys()
