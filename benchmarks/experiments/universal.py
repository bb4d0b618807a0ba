"""One model for both sites, or a specialist for each: what sharing costs at either."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.tasks import FROZEN, JOINT, NAIVE, OURS, Change, Job, Progress, perform

# model -> the method whose version answers at home, and the one that answers at the new site
MODELS = {
    "a specialist for each": (FROZEN, NAIVE),
    "one, trained on both together": (JOINT, JOINT),
    "one, taught the second by LoRA with rehearsal": (OURS, OURS),
}


def ask(changes: Sequence[Change], seed: int, scratch: Path, progress: Progress) -> list[dict[str, Any]]:
    """A row per data set, model and site. The specialist of the new site is home's, fine-tuned on the new site alone;
    `models` says how many have to be kept, and an image to be sent to the right one."""
    methods = dict.fromkeys(method for pair in MODELS.values() for method in pair)
    rows = []
    for change in changes:
        folder, found = scratch / f"{change.name}-{seed}", {}
        for number, method in enumerate(methods, 1):
            found[method] = perform(Job(change, seed, method, folder))
            progress(f"{change.name}: {method}", number, len(methods))
        for model, pair in MODELS.items():
            for place, site, method in zip(("home", "new"), (change.home, change.new), pair, strict=True):
                one = found[method]
                rows.append(
                    {
                        "data": change.name,
                        "model": model,
                        "models": len({*pair}),
                        "site": site.removeprefix("site="),
                        "n": one[f"n_{place}"],
                        "quality": round(one[place], 4),
                    }
                )
    return rows
