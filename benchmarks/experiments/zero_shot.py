"""A base of one site at all sites of its data set: what a model is worth where nobody has adapted it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from agent.cases.datafolder import read_folder
from agent.cases.examples import FolderExamples
from agent.tasks import task_named
from benchmarks.tasks import FROZEN, Change, Job, Progress, divide, perform

PROMPT = "none: the base answers end to end"
RESAMPLES, LEVEL = 1000, (0.025, 0.975)


def ask(changes: Sequence[Change], seed: int, scratch: Path, progress: Progress) -> list[dict[str, Any]]:
    """A row per data set and site: the task's figure with a 95 % interval over patients, n, and the prompt's source. Of
    home the judge patients alone; other sites whole."""
    rows = []
    for number, change in enumerate(changes):
        job = Job(change, seed, FROZEN, scratch / f"{change.name}-{seed}")
        perform(job)
        rows += list(_sites(job))
        progress(f"zero-shot: {change.name}", number + 1, len(changes))
    return rows


def _sites(job: Job) -> Any:
    from monitors import FORMS, patient_weights
    from strategies.predictor import Predictor

    change, task = job.change, task_named(job.change.task)
    predictor = Predictor.load(job.folder / "base")
    parts = divide(change, job.seed)
    home = change.home.removeprefix("site=")
    every = [row for row in read_folder(change.folder).rows if task.said(row)]
    sites = {home: parts["home", "judge"]}
    sites |= {site: [r for r in every if r.site == site] for site in sorted({r.site or "" for r in every} - {home})}
    for site, some in sites.items():
        found = task.measured(predictor, FolderExamples(some, predictor.classes, task), lambda *_: None)
        record = found.record
        measure = FORMS[type(record)].quality[1]
        drawn = np.concatenate([measure(record, weights) for weights in patient_weights(record.unit, RESAMPLES, 0)])
        low, high = np.nanquantile(drawn, LEVEL)
        yield {
            "data": change.name,
            "site": site,
            "trained_at": home,
            "n": len(found),
            "quality": round(float(measure(record, None)[0]), 4),
            "low": round(float(low), 4),
            "high": round(float(high), 4),
            "prompt": PROMPT,
        }
