"""The families benchmark: what it compares with what, and that it says what it leaves out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import families
from benchmarks.continual.streams import Stream
from strategies.recipes import RECIPES


def test_a_family_is_compared_with_its_start_alone_changed(monkeypatch: pytest.MonkeyPatch) -> None:
    """From nothing and from the domain's weights the same recipe is played; families share a base where they can; one
    whose recipe isn't there is named in left_out."""
    played: list[tuple[str, list[str]]] = []

    def play(stream: Any, seeds: object, methods: dict, *rest: object) -> list[str]:
        played.append((stream.backbone, [*methods]))
        return [*methods]

    def table(stream: Any, runs: list[str]) -> list[dict[str, Any]]:
        started = 0.25 if stream.backbone == families.SCRATCH else 0.75
        return [{"method": name, "average": started} for name in runs]

    monkeypatch.setattr(families, "recipes", lambda full: dict(RECIPES))
    monkeypatch.setattr(families.continual, "play", play)
    monkeypatch.setattr(families.continual, "table", table)
    monkeypatch.setattr(families, "real", lambda data: [_stream("wbc"), _stream("cxr")])
    answer = families.bench(Path())
    assert played == [(families.SCRATCH, ["full_rehearsal"]), ("weights", ["full_rehearsal", "lora_rehearsal"])]
    assert {row["data"] for row in answer["rows"]} == {"cxr"}
    assert answer["ratios"]["cxr.domain-specific_pretraining_gain"] == 0.5
    assert {"self-supervised", "a bank of adapters", "multimodal"} <= {*answer["left_out"]}


def test_the_hybrid_is_pretraining_and_then_the_adapter() -> None:
    """Of the recipe that pretrains without labels it takes the first stage, and all of the adapter's after it."""
    pretrained = RECIPES["full_rehearsal"]
    found = families.hybrid({**RECIPES, families.PRETRAINING: pretrained})[families.HYBRID]
    assert found.stages == (pretrained.stages[0], *RECIPES["lora_rehearsal"].stages)
    assert families.hybrid(dict(RECIPES)) == {}


def _stream(name: str) -> Stream:
    return Stream(name, (), "weights", (), 64)
