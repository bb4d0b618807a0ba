"""Continual: sites that come one after the other, and what each way of learning makes of all of them.

`homeostat bench continual --data DIR` plays white cells of `DIR/wbc` (Barcelona, Jiangxi, BCCD); `--full` plays five
seeds, the experimental recipes, and chest films of `DIR/cxr` (Guangzhou's children, Bethesda's adults, films of the
web) too. The first site's model starts from the weights in `DIR/models`; each other site brings at most 120 labelled
patients. Without data, generated heads of three scanners take their place. Our recipes go beside avalanche's
strategies, its Cumulative, and joint training. Each method on each seed is a process of its own, on one thread.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from agent.drift.domains import HOME
from agent.plan import LADDER, Plan
from agent.updates.decide import choose
from benchmarks.continual.scores import Run, Said, matrix, scores
from benchmarks.continual.streams import Parts, Stream, divide, generated, real
from benchmarks.workers import workers

if TYPE_CHECKING:
    from benchmarks.continual.ours import Answers
    from strategies.protocols import Recipe

    Methods = Mapping[str, Recipe | None]

SEEDS, MANY_SEEDS = 3, 5
FROZEN, JOINT, PORTFOLIO = "frozen", "joint", "homeostat"
PEERS = ("naive", "replay", "ewc", "lwf", "agem", "der")
BOUND = "cumulative"
AVALANCHE = "avalanche "  # before the name of a strategy of theirs

Progress = Callable[[str, int, int], None]
Runs = dict[str, list[Run]]  # method -> one run per seed


@dataclass(frozen=True)
class Task:
    """One method on one stream and one seed, which draws the split, the memory and the training.

    `recipe` is that of a method of ours; `folder` is the stream's and the seed's, and holds the base.
    """

    stream: Stream
    seed: int
    method: str
    folder: Path
    recipe: Recipe | None = None


def bench(
    data: Path | None,
    seed: int = 0,
    input: Path | None = None,
    full: bool = False,
    figure: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """{"name", "rows", "ratios"}: a row per stream and method with medians over seeds and ranges; draws them, with a
    `figure`. Ratios by stream are those of `ratios`."""
    from benchmarks.continual.ours import recipes

    seeds = range(seed, seed + (MANY_SEEDS if full else SEEDS))
    others = (FROZEN, *(AVALANCHE + name for name in (*PEERS, BOUND)), JOINT)
    methods: Methods = {**recipes(full), **dict.fromkeys(others)}
    rows: list[dict[str, Any]] = []
    found: dict[str, float] = {}
    with tempfile.TemporaryDirectory(prefix="homeostat-continual-") as scratch:
        streams = [generated(Path(scratch), seed)] if data is None else real(data)
        for stream in streams if full else streams[:1]:
            runs = play(stream, seeds, methods, Path(scratch), progress or _tell)
            runs |= portfolio(runs)
            rows += table(stream, runs)
            found |= {f"{stream.name}.{name}": value for name, value in ratios(runs, len(stream.classes)).items()}
    if figure is not None:
        from benchmarks.continual.figure import draw

        draw(rows, figure)
    return {"name": "continual", "rows": rows, "ratios": found}


def play(
    stream: Stream, seeds: Sequence[int], methods: Methods, scratch: Path, progress: Progress, processes: int = 2
) -> Runs:
    """Bases first, then what builds on them; every task in a fresh process, so that its peak of memory is its own.

    `methods` are our recipes by name, and without a recipe FROZEN, JOINT and avalanche's.
    """
    bases = [Task(stream, seed, FROZEN, scratch / f"{stream.name}-{seed}") for seed in seeds]
    others = [
        Task(stream, one.seed, method, one.folder, recipe)
        for one in bases
        for method, recipe in methods.items()
        if method != FROZEN
    ]
    done: dict[tuple[str, int], Run] = {}
    with workers(processes, tasks_each=1) as pool:
        for tasks in (bases, others):
            for future in as_completed(running := {pool.submit(perform, task): task for task in tasks}):
                task = running[future]
                done[task.method, task.seed] = future.result()
                progress(f"{stream.name}, seed {task.seed}: {task.method}", len(done), len(bases) + len(others))
    return {
        method: [_with_first(done[method, seed], done[FROZEN, seed]) for seed in seeds] for method in (FROZEN, *methods)
    }


def _with_first(run: Run, base: Run) -> Run:
    """The versions of a run begin with the base, which stays where there was no update."""
    if run is base:
        return run
    return Run(
        said=[base.said[0], *run.said],
        develop=run.develop,
        cpu_seconds=run.cpu_seconds,
        last_seconds=run.last_seconds,
        peak_mib=run.peak_mib,
    )


def portfolio(runs: Runs) -> Runs:
    """What the default plan would keep: of its recipes the one that an update's job would choose on develop cases, at
    the cost of all."""
    tried = [name for name in LADDER if name in runs]
    if not tried:
        return {}
    rule, chosen = Plan().gates["forgetting"], []
    for base, *of_seed in zip(runs[FROZEN], *(runs[name] for name in tried), strict=True):
        by_name = dict(zip(tried, of_seed, strict=True))
        table = {name: run.develop for name, run in by_name.items()}
        best = by_name[choose(table, base.develop, rule.margin, (rule.elsewhere or rule.burden) == "no_harm_found")]
        chosen.append(
            Run(
                said=best.said,
                develop=best.develop,
                cpu_seconds=sum(run.cpu_seconds for run in of_seed),
                last_seconds=sum(run.last_seconds for run in of_seed),
                peak_mib=max(run.peak_mib for run in of_seed),
            )
        )
    return {PORTFOLIO: chosen}


def perform(task: Task) -> Run:
    """Runs one task in this process: all arrivals, and after each what the version says of held patients of all sites.

    The versions of its run begin with the first update; those of the base's own task are the base, again and again, and
    its seconds are those of the fit.
    """
    import torch

    from benchmarks.continual.ours import answers
    from benchmarks.loop import peak_mib
    from strategies.predictor import Predictor

    torch.set_num_threads(1)
    parts = divide(task.stream, task.seed)
    said: list[list[Said]] = []
    seconds: list[float] = []
    if task.method == FROZEN:
        began = time.process_time()
        fit(task, parts[0])
        answer = answers(Predictor.load(task.folder / "base"))
        said = [[_said(answer, part) for part in parts]] * len(parts)
        seconds = [time.process_time() - began]
    else:
        learner = _learner(task, parts)
        for site in range(1, len(parts)):
            began = time.process_time()
            answer = learner.arrive(site)
            seconds.append(time.process_time() - began)
            said.append([_said(answer, part) for part in parts])
    names = [HOME, *(site.name for site in task.stream.sites[1:])]
    develop = {name: _developed(answer, part) for name, part in zip(names, parts, strict=True)}
    return Run(said=said, develop=develop, cpu_seconds=sum(seconds), last_seconds=seconds[-1], peak_mib=peak_mib())


def fit(task: Task, first: Parts) -> None:
    """The first site's model, in the task's folder."""
    from benchmarks.loop import recall
    from strategies.base import fit_base

    stream = task.stream
    task.folder.mkdir(parents=True, exist_ok=True)
    fit_base(
        first.train,
        first.develop,
        stream.classes,
        backbone=stream.backbone,
        size=stream.size,
        epochs=stream.epochs,
        seed=task.seed,
        out=task.folder / "base",
        measure=recall,
    )


def _learner(task: Task, parts: Sequence[Parts]) -> Any:
    """With everything imported that it needs, so that no import is counted as learning."""
    from benchmarks.continual.ours import Joint, Updated

    base, out = task.folder / "base", task.folder / task.method
    if task.recipe is not None:
        import peft  # noqa: F401

        return Updated(task.recipe, base, parts, out, task.seed)
    if task.method == JOINT:
        return Joint(base, parts, out, task.seed)
    from benchmarks.continual.peers import Peer

    return Peer(task.method.removeprefix(AVALANCHE), base, parts, task.seed)


def _said(answer: Answers, part: Parts) -> Said:
    from monitors.measures import balanced_accuracy, ece
    from monitors.protocols import Scores

    probability = answer(part.judge)
    given = Scores(probability=probability, target=part.judge.label, unit=part.judge.patient)
    return Said(
        right=probability.argmax(axis=1) == part.judge.label,
        accuracy=float(balanced_accuracy(given)[0]),
        ece=float(ece(given)[0]),
    )


def _developed(answer: Answers, part: Parts) -> dict[str, float]:
    from monitors.measures import balanced_accuracy, brier
    from monitors.protocols import Scores

    given = Scores(probability=answer(part.develop), target=part.develop.label, unit=part.develop.patient)
    return {
        "quality": float(balanced_accuracy(given)[0]),
        "brier": float(brier(given)[0]),
        "n": float(len(given)),
    }


def table(stream: Stream, runs: Runs) -> list[dict[str, Any]]:
    """A row per method: medians over seeds, and under NAME_range the least and the most.

    `to_best_avalanche` is the average less that of the best of avalanche's strategies, seed by seed; `matrix` is the
    median of the accuracies after each site, at each site.
    """
    classes, best = len(stream.classes), best_peer(runs, len(stream.classes))
    rows = []
    for method, some in runs.items():
        row: dict[str, Any] = {"data": stream.name, "method": method, "seeds": len(some)}
        measured = [scores(run, classes) for run in some]
        if best is not None:
            for one, against in zip(measured, runs[best], strict=True):
                one["to_best_avalanche"] = one["average"] - scores(against, classes)["average"]
        for name in measured[0]:
            values = [one[name] for one in measured]
            row[name] = round(median(values), 4)
            row[f"{name}_range"] = [round(min(values), 4), round(max(values), 4)]
        row["matrix"] = np.median([matrix(run) for run in some], axis=0).round(4).tolist()
        row["sites"] = [site.name for site in stream.sites]
        row["n_held"] = [int(median(len(run.said[0][site].right) for run in some)) for site in range(len(stream.sites))]
        rows.append(row)
    return rows


def best_peer(runs: Runs, classes: int) -> str | None:
    """Of avalanche's strategies (its upper bound left out) the one with the best average, by its median over seeds."""
    theirs = [AVALANCHE + name for name in PEERS if AVALANCHE + name in runs]
    return max(theirs, key=lambda name: _median(runs[name], "average", classes), default=None)


def _median(runs: Sequence[Run], name: str, classes: int) -> float:
    return median(scores(run, classes)[name] for run in runs)


def ratios(runs: Mapping[str, list[Run]], classes: int) -> dict[str, float]:
    """Of the portfolio, medians over seeds: its average over that of the best avalanche strategy, how far its average
    is below joint training's, its forgetting, and the seconds of all its updates over one joint training on all."""
    ours, joint, best = runs[PORTFOLIO], runs[JOINT], best_peer(dict(runs), classes)
    found = {}
    if best is not None:
        found["average_to_best_avalanche"] = median(
            scores(one, classes)["average"] / scores(other, classes)["average"]
            for one, other in zip(ours, runs[best], strict=True)
        )
    pairs = [(scores(one, classes), scores(all_, classes)) for one, all_ in zip(ours, joint, strict=True)]
    found["gap_to_joint"] = median(all_["average"] - one["average"] for one, all_ in pairs)
    found["forgetting"] = _median(ours, "forgetting", classes)
    found["seconds_to_joint"] = median(
        one.cpu_seconds / all_.last_seconds for one, all_ in zip(ours, joint, strict=True)
    )
    return found


def _tell(what: str, done: int, of: int) -> None:
    print(f"{done}/{of} {what}", file=sys.stderr, flush=True)
