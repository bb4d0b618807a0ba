"""An adapter with rehearsal beside all weights, with and without it, by the number of labels: cost and what is kept."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.tasks import FROZEN, NAIVE, OURS, Change, Job, Progress, perform

LABELS = (100, 200, 500)
METHODS = (OURS, "full_rehearsal", NAIVE)
COLUMNS = ("labelled", "home", "new", "n_home", "n_new", "trainable_parameters", "bytes", "cpu_seconds", "peak_mib")


def ask(changes: Sequence[Change], seed: int, scratch: Path, progress: Progress) -> list[dict[str, Any]]:
    """A row per data set, method and number of labelled patients: `asked`, and `labelled`, as many as there are. What
    would be the same training again is left out. `forgetting` is home's loss."""
    rows = []
    for change in changes:
        folder = scratch / f"{change.name}-{seed}"
        frozen = perform(Job(change, seed, FROZEN, folder))
        done: set[int] = set()
        for asked in LABELS:
            for number, method in enumerate(METHODS, 1):
                found = perform(Job(change, seed, method, folder, labelled=asked))
                if found["labelled"] in done:
                    break
                row = {"data": change.name, "method": method, "asked": asked}
                row |= {name: _rounded(found[name]) for name in COLUMNS}
                rows.append({**row, "forgetting": round(frozen["home"] - found["home"], 4), "quality": row["new"]})
                progress(f"{change.name}: {method}, {found['labelled']} labels", number, len(METHODS))
            else:
                done.add(found["labelled"])
                continue
            break
    return rows


def _rounded(value: Any) -> Any:
    return round(value, 4) if isinstance(value, float) else value
