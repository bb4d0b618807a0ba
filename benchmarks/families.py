"""Families: five ways of coming by a model for many sites, on one stream of three; and a bank of adapters beside one.

`homeostat bench families --data DIR` plays chest films of `DIR/cxr`, because the weights in `DIR/models` are of that
domain; `--full` plays white cells of `DIR/wbc` and five seeds too. Everything else is as in `benchmarks.continual`. A
family whose recipe isn't there yet, and text beside images, which comes in a later part, are named in `left_out`.
"""

from __future__ import annotations

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from benchmarks import continual
from benchmarks.continual.ours import recipes
from benchmarks.continual.streams import Stream, generated, real

if TYPE_CHECKING:
    from strategies.protocols import Recipe

SCRATCH = "mobilenet_v3_small"  # its weights drawn at random
PRETRAINING = "contrastive_full_rehearsal"  # without labels, then with them
HYBRID = "contrastive_lora_rehearsal"
MULTIMODAL = "text beside images comes in a later part"


@dataclass(frozen=True)
class Family:
    """A way of coming by a model: where its encoder starts, and the recipe by which it learns the sites to come."""

    name: str
    recipe: str
    pretrained: bool = True  # on images of the domain; else from nothing


FAMILIES = (
    Family("supervised fine-tuning", "full_rehearsal", pretrained=False),
    Family("domain-specific pretraining", "full_rehearsal"),
    Family("parameter-efficient", "lora_rehearsal"),
    Family("self-supervised", PRETRAINING),
    Family("hybrid: self-supervised, then parameter-efficient", HYBRID),
)
ADAPTERS = (
    Family("one merged adapter", "lora_rehearsal"),
    Family("a bank of adapters", "lora_banked"),
)


def bench(
    data: Path | None,
    seed: int = 0,
    input: Path | None = None,
    full: bool = False,
    progress: continual.Progress | None = None,
) -> dict[str, Any]:
    """{"name", "rows", "ratios", "left_out"}: a row per stream and family as `continual` has them, `family` named."""
    known = dict(recipes(full=True))
    known |= hybrid(known)
    seeds = range(seed, seed + (continual.MANY_SEEDS if full else continual.SEEDS))
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory(prefix="homeostat-families-") as scratch:
        streams = [generated(Path(scratch), seed)] if data is None else real(data)[::-1]
        for stream in streams if full else streams[:1]:
            rows += play(stream, seeds, known, Path(scratch), progress or continual._tell)
    left_out = {
        family.name: f"there is no recipe {family.recipe}"
        for family in (*FAMILIES, *ADAPTERS)
        if family.recipe not in known
    }
    return {"name": "families", "rows": rows, "ratios": ratios(rows), "left_out": left_out | {"multimodal": MULTIMODAL}}


def play(
    stream: Stream, seeds: range, known: Mapping[str, Recipe], scratch: Path, progress: continual.Progress
) -> list[dict[str, Any]]:
    """Each start is one stream of its own, whose base all its families share; each recipe is played once."""
    rows = []
    for pretrained in (False, True):
        some = [f for f in (*FAMILIES, *ADAPTERS) if f.pretrained is pretrained and f.recipe in known]
        begun = stream if pretrained else replace(stream, backbone=SCRATCH)
        methods = {family.recipe: known[family.recipe] for family in some}
        runs = continual.play(begun, seeds, methods, scratch / f"{pretrained}", progress)
        of = {row["method"]: row for row in continual.table(begun, runs)}
        rows += [{"data": stream.name, "family": family.name, **of[family.recipe]} for family in some]
    return rows


def hybrid(known: Mapping[str, Recipe]) -> dict[str, Recipe]:
    """Pretraining without labels, then what is parameter-efficient on top: one recipe of several stages."""
    if PRETRAINING not in known:
        return {}
    first, then = known[PRETRAINING], known["lora_rehearsal"]
    return {HYBRID: replace(first, name=HYBRID, stages=(first.stages[0], *then.stages))}


def ratios(rows: list[dict[str, Any]]) -> dict[str, float]:
    """By stream: how far the average of each family is above supervised fine-tuning's from nothing; and a bank's above
    one merged adapter's."""
    found = {}
    for stream in dict.fromkeys(row["data"] for row in rows):
        average = {row["family"]: row["average"] for row in rows if row["data"] == stream}
        for family in FAMILIES[1:]:
            if family.name in average:
                name = family.name.split(":")[0].replace(" ", "_")
                found[f"{stream}.{name}_gain"] = average[family.name] - average[FAMILIES[0].name]
        one, bank = (average.get(family.name) for family in ADAPTERS)
        if one is not None and bank is not None:
            found[f"{stream}.bank_gain"] = bank - one
    return found
