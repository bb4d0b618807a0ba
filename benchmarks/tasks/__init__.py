"""Tasks: the loop on what is no classification: masks of nuclei, cells and vessels, boxes of blood cells, from one real
site to another.

`homeostat bench tasks --data DIR` plays `DIR/nuclei` (fluorescence to H&E), `DIR/wbcseg` (Jiangxi to BCCD),
`DIR/retina` (DRIVE to CHASE_DB1) and `DIR/blooddet` (Barcelona to BCCD). For each: a base fitted at the first site;
what each recipe makes of it with the labels of the second, beside joint training, on held patients of both; and the
agent itself, which watches the second site come without labels, and learns it once they are there. Without data,
generated cells of two stains take their place. `--full` takes three seeds and every recipe. Each training is a process
of its own, on one thread.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from agent.cases.datafolder import Row, read_folder, sharing_bytes
from agent.cases.examples import FolderExamples
from agent.cases.split import Split
from agent.tasks import task_named
from agent.updates.quality import quality
from benchmarks.loop import peak_mib
from benchmarks.workers import workers

if TYPE_CHECKING:
    from strategies.protocols import Candidate

SEEDS = 3
MEMORY = 200  # cases
LABELLED = 120  # training patients of the new site, at most
MARGIN = 0.05  # of forgetting, as in the default plan
NULL = 0.02  # where joint training gains less over the frozen base, there is no gap to close
FROZEN, JOINT, OURS, NAIVE, PLAYED = "frozen", "joint", "lora_rehearsal", "full_finetune", "the agent"
METHODS = (FROZEN, "recalibrate", "linear_probe", OURS, "full_rehearsal", NAIVE, JOINT)
SHORT = (FROZEN, OURS, NAIVE, JOINT)  # of them, in the short form
PARTS = ("train", "develop", "judge")

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Change:
    """From a home site to a new one, in a data folder; `task` is what is answered of its images, of volumes by so many
    `slices`; `backbone` is the task's default where none is named."""

    name: str
    folder: Path
    home: str
    new: str
    task: str = "segmentation"
    size: int | None = None
    epochs: int | None = None
    backbone: str | None = None
    slices: int = 1


@dataclass(frozen=True)
class Job:
    """One method on one change and one seed, which draws the split, the memory and the training; of the new site so
    many labelled patients."""

    change: Change
    seed: int
    method: str
    folder: Path
    labelled: int = LABELLED


def real(data: Path) -> list[Change]:
    """From the first site of each data folder to one that looks otherwise."""
    return [
        Change("nuclei", data / "nuclei", "site=fluo_a_256", "site=he_white_bg"),
        Change("wbcseg", data / "wbcseg", "site=jiangxi_tecom", "site=bccd"),
        # Vessels are a few pixels wide, and images few: finer ones, and as many steps as elsewhere.
        Change("retina", data / "retina", "site=drive_nl", "site=chase_uk", size=256, epochs=150),
        Change("blooddet", data / "blooddet", "site=pbc_barcelona", "site=bccd_us", task="detection"),
    ]


def bench(
    data: Path | None, seed: int = 0, input: Path | None = None, full: bool = False, progress: Progress | None = None
) -> dict[str, Any]:
    """{"name", "rows", "ratios"}: a row per change and method with medians over seeds and ranges, and one of the agent.

    Ratios by change: `new_site_gap_closed` of LoRA with rehearsal, (ours - frozen) / (joint - frozen), None where joint
    training gains less than NULL; `old_site_change`, after less before at home; `naive_old_site_change`; and, of the
    agent, `alarm_after_cases` of the new site, None without an alarm, and `false_alarms` before.
    """
    with tempfile.TemporaryDirectory(prefix="homeostat-tasks-") as scratch:
        if data is None:
            from benchmarks.tasks.generated import changes

            played = changes(Path(scratch), seed)
        else:
            played = real(data)
        seeds = range(seed, seed + (SEEDS if full else 1))
        methods = METHODS if full else SHORT
        found = play(played, seeds, methods, Path(scratch), progress or tell)
    rows = [row(change, method, found) for change in played for method in (*methods, PLAYED)]
    ratios: dict[str, Any] = {}
    for change in played:
        ratios |= {f"{change.name}.{name}": value for name, value in ratios_of(change, rows).items()}
    return {"name": "tasks", "rows": rows, "ratios": ratios}


Found = Mapping[tuple[str, str], list[dict[str, Any]]]


def play(
    changes: Sequence[Change], seeds: Sequence[int], methods: Sequence[str], scratch: Path, progress: Progress
) -> Found:
    """Bases first, then what builds on them."""
    bases = [Job(c, seed, FROZEN, scratch / f"{c.name}-{seed}") for c in changes for seed in seeds]
    rest = [Job(base.change, base.seed, m, base.folder) for base in bases for m in (*methods[1:], PLAYED)]
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    with workers(2, tasks_each=1) as pool:
        for jobs in (bases, rest):
            for job, one in zip(jobs, pool.map(perform, jobs), strict=True):
                found.setdefault((job.change.name, job.method), []).append(one)
                done = sum(len(some) for some in found.values())
                progress(f"{job.change.name}, seed {job.seed}: {job.method}", done, len(bases) + len(rest))
    return found


def perform(job: Job) -> dict[str, Any]:
    """Runs one job in this process."""
    import torch

    torch.set_num_threads(1)
    rows = divide(job.change, job.seed)
    if job.method == PLAYED:
        from benchmarks.tasks.agent import watch

        return watch(job.change, job.seed, rows, job.folder)
    parts = examples(job, rows)
    began, made = time.process_time(), None
    if job.method == FROZEN:
        _fit(job, parts, rows)
    else:
        made = _update(job, parts)
    found: dict[str, Any] = {"cpu_seconds": time.process_time() - began, "peak_mib": peak_mib()}
    found["labelled"] = len({*parts["new", "train"].patient.tolist()})
    if made is not None:
        found["trainable_parameters"] = made.made["trainable_parameters"]
        found["bytes"] = sum(file.stat().st_size for file in made.folder.iterdir() if file.is_file())
    return {**found, **_measured(job, made.folder if made else None, parts)}


def divide(change: Change, seed: int) -> dict[tuple[str, str], list[Row]]:
    """Labelled rows by site, "home" or "new", and part of the split: drawn at home as `fit` does; others fall where
    they hash."""
    split = split_of(change, seed)
    return {
        (name, part): [row for row in _rows(change, where) if split.assign(row.patient_id) == part]
        for name, where in (("home", change.home), ("new", change.new))
        for part in PARTS
    }


def split_of(change: Change, seed: int) -> Split:
    """Of the home site's patients, as `fit` draws it."""
    home = _rows(change, change.home)
    return Split.draw((row.patient_id for row in home), seed, together=sharing_bytes(home))


def _rows(change: Change, where: str) -> list[Row]:
    task = task_named(change.task)
    return [row for row in read_folder(change.folder, (where,)).rows if task.said(row)]


def examples(job: Job, rows: Mapping[tuple[str, str], Sequence[Row]]) -> dict[tuple[str, str], FolderExamples]:
    """The same as they are learnt from: of the new site the job's labelled training patients, drawn by the seed."""
    task = task_named(job.change.task)
    classes = task.classes([row for some in rows.values() for row in some], job.change.slices)
    patients = sorted({row.patient_id for row in rows["new", "train"]})
    few = {*np.random.default_rng(job.seed).permutation(patients)[: job.labelled].tolist()}
    taught = {**rows, ("new", "train"): [row for row in rows["new", "train"] if row.patient_id in few]}
    return {key: FolderExamples(some, classes, task, job.change.slices) for key, some in taught.items()}


def _fit(job: Job, parts: Mapping[tuple[str, str], FolderExamples], rows: Any) -> None:
    from strategies.base import DEFAULT_EPOCHS, fit_base

    task = task_named(job.change.task)
    job.folder.mkdir(parents=True, exist_ok=True)
    fit_base(
        parts["home", "train"],
        parts["home", "develop"],
        task.classes([row for some in rows.values() for row in some], job.change.slices),
        task=task.name,
        backbone=job.change.backbone,
        size=job.change.size,
        slices=job.change.slices,
        epochs=job.change.epochs or DEFAULT_EPOCHS,
        seed=job.seed,
        out=job.folder / "base",
        measure=partial(quality, task),
    )


def _update(job: Job, parts: Mapping[tuple[str, str], FolderExamples]) -> Candidate:
    from strategies.base import Chosen
    from strategies.lessons import Joined
    from strategies.memory import balanced_by_domain
    from strategies.recipes import RECIPES, run

    home, new, joint = parts["home", "train"], parts["new", "train"], job.method == JOINT
    ids = [str(i) for i in range(len(home))]
    kept = balanced_by_domain(ids, home.domain.tolist(), ["one"] * len(home), home.patient.tolist(), MEMORY, job.seed)
    return run(
        RECIPES[NAIVE if joint else job.method],
        base=job.folder / "base",
        live_parts=None,
        new=Joined(home, new) if joint else new,
        memory=Chosen(home, np.array(sorted(map(int, [] if joint else kept)), dtype=int)),
        develop=Joined(parts["home", "develop"], parts["new", "develop"]),
        out=job.folder / f"{job.method}-{job.labelled}",
        seed=job.seed,
        measure=partial(quality, task_named(job.change.task)),
    )


def _measured(job: Job, made: Path | None, parts: Mapping[tuple[str, str], FolderExamples]) -> dict[str, Any]:
    """On held patients of both sites; and what the gate of forgetting says of home, beside the base."""
    from monitors import Forgetting
    from strategies.predictor import Predictor

    task, found = task_named(job.change.task), dict[str, Any]()
    predictor, base = Predictor.load(job.folder / "base", made), Predictor.load(job.folder / "base")
    for site in ("home", "new"):
        held = task.measured(predictor, parts[site, "judge"], lambda *_: None)
        found |= {f"n_{site}": len(held), **{f"{name}_{site}": v for name, v in held.measures().items()}}
        found[site] = held.measures()[task.column]
    if made is not None:
        before, after = (task.measured(one, parts["home", "judge"], lambda *_: None) for one in (base, predictor))
        said = Forgetting(margin=MARGIN, alpha=0.05).judge(before.record, after.record)
        found["forgetting_gate"] = str(said.verdict)
    return found


MEASURED = ("home", "new", "forgetting", "gap_closed", "cpu_seconds", "peak_mib", "alarm_after_cases")


def row(change: Change, method: str, found: Found) -> dict[str, Any]:
    """Medians over seeds, and under NAME_range the least and the most; what is no number of all seeds as a list."""
    runs = [
        {**one, **_beside(one, frozen, joint)}
        for one, frozen, joint in zip(*(found[change.name, name] for name in (method, FROZEN, JOINT)), strict=True)
    ]
    answer: dict[str, Any] = {"data": change.name, "home_site": change.home, "new_site": change.new, "method": method}
    answer["seeds"] = len(runs)
    for name in sorted({name for one in runs for name in one}):
        values = [one.get(name) for one in runs]
        numbers = [float(value) for value in values if isinstance(value, (int, float)) and not isinstance(value, bool)]
        if len(numbers) == len(runs):
            answer[name] = round(median(numbers), 4)
            answer[f"{name}_range"] = [round(min(numbers), 4), round(max(numbers), 4)]
        else:
            answer[name] = values
    return answer


def _beside(one: Mapping[str, Any], frozen: Mapping[str, Any], joint: Mapping[str, Any]) -> dict[str, float | None]:
    if one.get("new") is None:
        return {}
    gap = joint["new"] - frozen["new"]
    return {
        "forgetting": frozen["home"] - one["home"],
        "gap": gap,
        "gap_closed": (one["new"] - frozen["new"]) / gap if gap >= NULL else None,
    }


def ratios_of(change: Change, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """See `bench`; `naive_refused` is the share of seeds in which the gate of forgetting refuses naive fine-tuning."""
    of = {row["method"]: row for row in rows if row["data"] == change.name}
    closed = of[OURS]["gap_closed"]
    return {
        "new_site_gap_closed": closed if isinstance(closed, float) else None,
        "old_site_change": -of[OURS]["forgetting"],
        "naive_old_site_change": -of[NAIVE]["forgetting"],
        "naive_refused": of[NAIVE]["forgetting_gate"].count("FAIL") / of[NAIVE]["seeds"],
        "alarm_after_cases": of[PLAYED]["alarm_after_cases"],
        "false_alarms": of[PLAYED]["false_alarms"],
    }


def tell(what: str, done: int, of: int) -> None:
    print(f"{done}/{of} {what}", file=sys.stderr, flush=True)
