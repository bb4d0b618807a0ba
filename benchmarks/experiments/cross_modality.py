"""Trained on one modality, tested on another, then recovered: fluorescence and stained tissue under the microscope."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.tasks import FROZEN, JOINT, OURS, Change, Job, Progress, perform

METHODS = (FROZEN, OURS, "full_rehearsal", JOINT)


def ask(changes: Sequence[Change], seed: int, scratch: Path, progress: Progress) -> list[dict[str, Any]]:
    """A row per data set and method: quality at home and on the other modality; `recovered` is the share of the gap to
    joint training."""
    rows = []
    for change in changes:
        folder = scratch / f"{change.name}-{seed}"
        found = {}
        for number, method in enumerate(METHODS, 1):
            found[method] = perform(Job(change, seed, method, folder))
            progress(f"{change.name}: {method}", number, len(METHODS))
        gap = found[JOINT]["new"] - found[FROZEN]["new"]
        for method, one in found.items():
            rows.append(
                {
                    "data": change.name,
                    "home_site": change.home.removeprefix("site="),
                    "new_site": change.new.removeprefix("site="),
                    "method": method,
                    "home": round(one["home"], 4),
                    "new": round(one["new"], 4),
                    "n_home": one["n_home"],
                    "n_new": one["n_new"],
                    "recovered": round((one["new"] - found[FROZEN]["new"]) / gap, 4) if gap > 0 else None,
                    "cpu_seconds": round(one["cpu_seconds"], 1),
                    "quality": round(one["new"], 4),
                }
            )
    return rows
