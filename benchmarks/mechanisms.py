"""What each mechanism on trial moves by itself: white cells from Barcelona to Jiangxi, switched on and off.

`homeostat bench mechanisms --data DIR`. Alignments see the new site's training images without a label and no label of
its other cases; pretraining sees the images of all its training patients, and the labels of a few. With a bank, how
much of each site was answered by the new parts stands beside it. One seed; three with `--full`.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from agent.cases.examples import FolderExamples
from benchmarks.loop import (
    MEMORY,
    Progress,
    Shift,
    Task,
    _generated,
    _make_base,
    _measures,
    _parts,
    _real,
    _tell,
    recall,
)

FEW = 16  # labelled patients of the new site, where labels are few
UNLABELLED = ("batch_statistics", "feature_statistics", "coral", "prototypes", "prior_correction", "test_time")
BANKED = tuple(f"{name}_banked" for name in UNLABELLED)
TRAINED = ("full_from_base", "contrastive_full_rehearsal", "masked_full_rehearsal", "lora_banked", "lora_mixture")
METHODS = ("frozen", *UNLABELLED, *BANKED, *TRAINED)


def bench(
    data: Path | None, seed: int = 0, input: Path | None = None, full: bool = False, progress: Progress | None = None
) -> dict[str, Any]:
    """{"name", "rows", "ratios"}: a row per method, with the median over the seeds of each measure.

    home and new are balanced accuracy on the judge patients, sent_home and sent_new the mean shares of an answer
    that are the new parts'. Ratios: gain at the new site over the frozen base, of each alignment alone.
    """
    progress, seeds = progress or _tell, range(seed, seed + (3 if full else 1))
    found: dict[str, list[dict[str, float]]] = {method: [] for method in METHODS}
    with tempfile.TemporaryDirectory(prefix="homeostat-mechanisms-") as scratch:
        shift = (_generated(Path(scratch), seed) if data is None else _real(data))[0]
        for one in seeds:
            part = _parts(shift, one)
            for i, method in enumerate(METHODS):
                found[method].append(perform(Task(shift, one, method, Path(scratch) / f"{shift.name}-{one}"), part))
                progress(f"{shift.name}, seed {one}: {method}", i + 1, len(METHODS))
    rows = [_row(shift, method, found[method]) for method in METHODS]
    gain = {row["method"]: row["new"] - rows[0]["new"] for row in rows}
    return {"name": "mechanisms", "rows": rows, "ratios": {f"{name}.gain": round(gain[name], 4) for name in UNLABELLED}}


def perform(task: Task, part: Mapping[tuple[str, str], FolderExamples]) -> dict[str, float]:
    """Runs one method in this process; answers with what it measured on the judge patients of both sites."""
    from strategies.predictor import Predictor

    began = time.process_time()
    if task.method == "frozen":
        _make_base(task, part)
    else:
        update(task, part)
    seconds = time.process_time() - began
    predictor = Predictor.load(task.folder / "base", None if task.method == "frozen" else task.folder / task.method)
    measured = {"cpu_seconds": seconds}
    for site in ("home", "new"):
        measured |= {name.format(site): value for name, value in _measures(predictor, part[site, "judge"]).items()}
        measured[f"sent_{site}"] = _sent(predictor, part[site, "judge"])
    return measured


def update(task: Task, part: Mapping[tuple[str, str], FolderExamples]) -> None:
    """The candidate of one method, beside the base; an alignment is given no label of the new site."""
    from strategies.base import Chosen
    from strategies.experimental import EXPERIMENTAL
    from strategies.lessons import Joined
    from strategies.memory import balanced_by_domain
    from strategies.recipes import run

    home, new = part["home", "train"], part["new", "train"]
    trains = task.method in TRAINED
    few = np.isin(new.patient, np.unique(new.patient)[:FEW]) & trains
    ids = [str(i) for i in range(len(home))]
    kept = balanced_by_domain(ids, home.domain.tolist(), home.label.tolist(), home.patient.tolist(), MEMORY, task.seed)
    develop = (part["home", "develop"], part["new", "develop"]) if trains else (part["home", "develop"],)
    run(
        EXPERIMENTAL[task.method],
        base=task.folder / "base",
        live_parts=None,
        new=Chosen(new, np.flatnonzero(few)),
        memory=Chosen(home, np.array(sorted(map(int, kept)), dtype=int)),
        develop=Joined(*develop),
        unlabelled=Unlabelled(Chosen(new, np.flatnonzero(~few))),
        out=task.folder / task.method,
        seed=task.seed,
        measure=recall,
    )


class Unlabelled:
    """Cases whose labels are kept back."""

    def __init__(self, examples: Any) -> None:
        self.label = np.full(len(examples), -1)
        self.patient, self.domain, self.image = examples.patient, examples.domain, examples.image

    def __len__(self) -> int:
        return len(self.label)


def _sent(predictor: Any, cases: FolderExamples) -> float:
    import torch

    batches = np.array_split(np.arange(len(cases)), -(-len(cases) // 64))
    seen = [predictor.embed(torch.stack([predictor.prepare(cases.image(i)) for i in rows])) for rows in batches]
    return float(predictor.shares(torch.from_numpy(np.concatenate(seen)))[:, :-1].sum(axis=1).mean())


def _row(shift: Shift, method: str, runs: list[dict[str, float]]) -> dict[str, Any]:
    names = ("home", "new", "ece_home", "ece_new", "sent_home", "sent_new", "cpu_seconds")
    medians = {name: round(float(np.median([one[name] for one in runs])), 4) for name in names}
    return {"data": shift.name, "method": method, "seeds": len(runs)} | medians
