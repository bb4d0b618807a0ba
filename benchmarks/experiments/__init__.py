"""Questions that reviews of the field leave open, asked of real masks: `homeostat experiment NAME --data DIR`.

Each prints a table and draws a figure. Bases are fitted at one site; nothing is measured on a patient who was trained
on. Without data, generated cells of two stains take their place; volumes are always drawn.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from benchmarks.experiments import cross_modality, flat_or_deep, lora_vs_full, universal, zero_shot
from benchmarks.experiments.figure import draw
from benchmarks.tasks import Change, Progress, real, tell

Ask = Callable[[Sequence[Change], int, Path, Progress], list[dict[str, Any]]]


def _cells(scratch: Path, seed: int) -> list[Change]:
    from benchmarks.tasks.generated import changes

    return [change for change in changes(scratch, seed) if change.task == "segmentation"]


@dataclass(frozen=True, kw_only=True)
class Experiment:
    """`of` names the real data sets that are asked, of which there may be none; `drawn` draws others. The figure has
    `across` on its axis, a mark per `mark`."""

    ask: Ask
    shows: str
    of: tuple[str, ...]
    across: str
    mark: str
    drawn: Callable[[Path, int], list[Change]] = _cells


EXPERIMENTS: Mapping[str, Experiment] = {
    "zero-shot": Experiment(
        ask=zero_shot.ask,
        shows="a model at sites that it was not made for, with intervals",
        of=("nuclei", "wbcseg", "retina"),
        across="site",
        mark="data",
    ),
    "lora-vs-full": Experiment(
        ask=lora_vs_full.ask,
        shows="an adapter beside all weights, at 100, 200 and 500 labels",
        of=("wbcseg",),
        across="labelled",
        mark="method",
    ),
    "cross-modality": Experiment(
        ask=cross_modality.ask,
        shows="trained on one modality, tested on another, then recovered",
        of=("nuclei",),
        across="method",
        mark="new_site",
    ),
    "universal-or-specialist": Experiment(
        ask=universal.ask,
        shows="one model for two sites, or a specialist for each",
        of=("nuclei", "wbcseg"),
        across="site",
        mark="model",
    ),
    "2d-or-3d": Experiment(
        ask=flat_or_deep.ask,
        shows="a network that reads slices beside one of volumes",
        of=(),
        across="data",
        mark="reads",
        drawn=flat_or_deep.changes,
    ),
}


def experiment(
    name: str, data: Path | None, seed: int = 0, figure: Path | None = None, progress: Progress | None = None
) -> dict[str, Any]:
    """{"name", "rows", "figure"}. Raises KeyError for an experiment that is none of EXPERIMENTS."""
    asked = EXPERIMENTS[name]
    with tempfile.TemporaryDirectory(prefix="homeostat-experiment-") as scratch:
        if data is None or not asked.of:
            played = asked.drawn(Path(scratch), seed)
        else:
            played = [change for change in real(data) if change.name in asked.of]
        rows = asked.ask(played, seed, Path(scratch), progress or tell)
    if figure is not None:
        draw(rows, asked.across, asked.mark, figure)
    return {"name": name, "rows": rows, "figure": str(figure) if figure else None}
