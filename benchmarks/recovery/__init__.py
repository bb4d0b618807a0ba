"""How many CPU seconds each way of updating takes until a new site is served well and the old one as well as before.

`homeostat bench recovery --data DIR`: white cells of `DIR/wbc`, from Barcelona to Jiangxi, another microscope and
stain, by a small convolutional network; `--full` adds a vision transformer and takes three seeds for one. Without data,
generated heads of two scanners. Each recipe is run anew for 1, 3, 6 and 12 epochs, each with its whole cycle of the
learning rate; the seconds are those of the whole run: images read, what is frozen filled in, epochs, calibration. A
budget `recovers` where it closes 0.9 of the gap from the frozen model to joint training at the new site, and home
passes the plan's forgetting gate, both on held patients.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

import numpy as np

from benchmarks.continual import FROZEN, JOINT, Progress, Task, _tell, fit
from benchmarks.continual.streams import Stream, divide, generated, real
from benchmarks.workers import workers

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from monitors.protocols import Scores
    from strategies.protocols import Recipe

BUDGETS = (1, 3, 6, 12)  # epochs
ENOUGH = 0.9  # of the gap
FULL, SUFFIX = "all_weights", "suffix"


@dataclass(frozen=True)
class Said:
    """The probabilities [n, k] that a version gives the held cases of both sites; and what it cost."""

    home: NDArray[np.float32]
    new: NDArray[np.float32]
    cpu_seconds: float


def recipes() -> Mapping[str, Recipe]:
    """By the name of what moves: nothing, the head, or how much of the encoder; the rest of the recipe is the same."""
    from strategies.experimental import EXPERIMENTAL
    from strategies.parameter import LoRA
    from strategies.recipes import RECIPES

    lora = RECIPES["lora_rehearsal"]

    def blocks(frozen: float) -> Recipe:
        return replace(lora, stages=(replace(lora.stages[0], parameter=LoRA(frozen=frozen)), *lora.stages[1:]))

    return {
        "statistics": EXPERIMENTAL["batch_statistics_banked"],
        "head": RECIPES["linear_probe"],
        SUFFIX: blocks(0.75),
        "early_blocks": EXPERIMENTAL["early_blocks_rehearsal"],
        "all_but_first_blocks": lora,
        "all_blocks": blocks(0.0),
        FULL: RECIPES["full_rehearsal"],
        "all_weights_no_rehearsal": RECIPES["full_finetune"],
    }


def bench(
    data: Path | None,
    seed: int = 0,
    input: Path | None = None,
    full: bool = False,
    figure: Path | None = None,
    progress: Progress | None = None,
) -> dict[str, Any]:
    """{"name", "rows", "ratios"}: a row per stream, method and epochs with medians over seeds; draws them, with a
    `figure`. Ratios: of each method that recovers in more than half of the seeds, its seconds until then to those of
    all weights."""
    seeds = range(seed, seed + (3 if full else 1))
    rows: list[dict[str, Any]] = []
    ratios: dict[str, float | None] = {}
    with tempfile.TemporaryDirectory(prefix="homeostat-recovery-") as scratch:
        for stream in streams(data, Path(scratch), seed, full):
            found = play(stream, seeds, Path(scratch), progress or _tell)
            rows += table(stream, found)
            ratios |= {f"{stream.name}.{name}.seconds_to_full": value for name, value in to_full(found).items()}
    if figure is not None:
        from benchmarks.recovery.figure import draw

        draw(rows, figure)
    return {"name": "recovery", "rows": rows, "ratios": ratios}


def streams(data: Path | None, scratch: Path, seed: int, full: bool) -> list[Stream]:
    """The first two sites of one stream, through one network or two."""
    whole = generated(scratch, seed) if data is None else real(data)[0]
    first = replace(whole, sites=whole.sites[:2])
    transformer = replace(first, name=f"{first.name}_transformer", backbone="dinov2-tiny", size=96)
    return [first, transformer] if full else [first]


@dataclass(frozen=True)
class Seed:
    """What one seed's versions say of the held patients, by method and epochs; an alignment has no epoch."""

    frozen: Said
    joint: Said
    made: Mapping[tuple[str, int], Said]
    home: Scores
    new: Scores


def play(stream: Stream, seeds: Sequence[int], scratch: Path, progress: Progress, processes: int = 2) -> list[Seed]:
    """Bases first, then what builds on them; in processes of one thread each."""
    folders = {seed: scratch / f"{stream.name}-{seed}" for seed in seeds}
    bases = [Task(stream, seed, FROZEN, folder) for seed, folder in folders.items()]
    others = [task for base in bases for task in (replace(base, method=JOINT), *_of(base))]
    found: dict[tuple[int, str], Said] = {}
    with workers(processes) as pool:
        for tasks in (bases, others):
            for task, said in zip(tasks, pool.map(perform, tasks), strict=True):
                found[task.seed, task.method] = said
                progress(f"{stream.name}, seed {task.seed}: {task.method}", len(found), len(bases) + len(others))
    return [
        _judged(stream, seed, {method: said for (of, method), said in found.items() if of == seed}) for seed in seeds
    ]


def _of(base: Task) -> Iterator[Task]:
    for name, recipe in recipes().items():
        trains = any(stage.parameter is not None for stage in recipe.stages)
        for epochs in BUDGETS if trains else (0,):
            stages = [replace(one, epochs=epochs if one.parameter is not None else 0) for one in recipe.stages]
            yield replace(base, method=f"{name}/{epochs}", recipe=replace(recipe, stages=stages))


def perform(task: Task) -> Said:
    """Runs one task in this process; what is imported is not counted."""
    import avalanche.benchmarks.utils.data_loader  # noqa: F401
    import peft  # noqa: F401
    import torch

    from benchmarks.continual.ours import Joint, Updated, answers
    from strategies.predictor import Predictor

    torch.set_num_threads(1)
    parts, base = divide(task.stream, task.seed), task.folder / "base"
    began = time.process_time()
    if task.method == FROZEN:
        fit(task, parts[0])
        answer = answers(Predictor.load(base))
    elif task.recipe is None:
        answer = Joint(base, parts, task.folder / JOINT, task.seed).arrive(1)
    else:
        answer = Updated(task.recipe, base, parts, task.folder / task.method.replace("/", "-"), task.seed).arrive(1)
    seconds = time.process_time() - began
    return Said(home=answer(parts[0].judge), new=answer(parts[1].judge), cpu_seconds=seconds)


def _judged(stream: Stream, seed: int, said: Mapping[str, Said]) -> Seed:
    from monitors.protocols import Scores

    parts = divide(stream, seed)
    home, new = (
        Scores(probability=probability, target=part.judge.label, unit=part.judge.patient)
        for probability, part in zip((said[FROZEN].home, said[FROZEN].new), parts, strict=True)
    )
    made = {}
    for name, one in said.items():
        if name not in (FROZEN, JOINT):
            method, epochs = name.split("/")
            made[method, int(epochs)] = one
    return Seed(frozen=said[FROZEN], joint=said[JOINT], made=made, home=home, new=new)


def table(stream: Stream, found: Sequence[Seed]) -> list[dict[str, Any]]:
    """A row per method and epochs; `recovers` is in how many seeds it does, `home_passes` in how many home is kept.

    `beside_full` is the interval (95 %) of the change at the new site from all weights to this, in the first seed.
    """
    rows = []
    for method, epochs in found[0].made:
        each = [_measured(one, one.made[method, epochs]) for one in found]
        row: dict[str, Any] = {"data": stream.name, "method": method, "epochs": epochs, "seeds": len(found)}
        for name in ("home", "new", "gap_closed", "cpu_seconds"):
            values = [one[name] for one in each]
            row[name] = round(median(values), 4)
            row[f"{name}_range"] = [round(min(values), 4), round(max(values), 4)]
        row["home_passes"] = sum(one["home_passes"] for one in each)
        row["recovers"] = sum(one["recovers"] for one in each)
        row["beside_full"] = _beside(found[0], method, epochs)
        rows.append(row)
    return rows


def to_full(found: Sequence[Seed]) -> dict[str, float | None]:
    """Per method the median over seeds of its seconds until recovered to those of all weights; None where one of the
    two does not recover in half of the seeds."""
    names = dict.fromkeys(method for method, _ in found[0].made)
    ratios: dict[str, float | None] = {}
    for name in names:
        pairs = [(seconds_until(one, name), seconds_until(one, FULL)) for one in found]
        known = [ours / full for ours, full in pairs if ours is not None and full is not None]
        ratios[name] = median(known) if 2 * len(known) > len(found) else None
    return ratios


def seconds_until(found: Seed, method: str) -> float | None:
    """The CPU seconds of the cheapest run of a method that recovers; None where none does."""
    done = [said.cpu_seconds for (name, _), said in found.made.items() if name == method and _recovers(found, said)]
    return min(done, default=None)


def _recovers(found: Seed, said: Said) -> bool:
    return bool(_measured(found, said)["recovers"])


def _measured(found: Seed, said: Said) -> dict[str, Any]:
    from agent.plan import Plan
    from monitors import Forgetting, Verdict, balanced_accuracy

    def recall(site: Scores, probability: NDArray[np.float32]) -> float:
        return float(balanced_accuracy(replace(site, probability=probability))[0])

    before, after = recall(found.new, found.frozen.new), recall(found.new, said.new)
    bound = recall(found.new, found.joint.new)
    closed = (after - before) / (bound - before) if bound > before else float("nan")
    gate = Forgetting(margin=Plan().gates["forgetting"].margin)
    kept = gate.judge(found.home, replace(found.home, probability=said.home)).verdict is Verdict.PASS
    return {
        "home": recall(found.home, said.home),
        "new": after,
        "gap_closed": closed,
        "cpu_seconds": said.cpu_seconds,
        "home_passes": kept,
        "recovers": kept and closed >= ENOUGH,
    }


def _beside(found: Seed, method: str, epochs: int) -> list[float] | None:
    from monitors.intervals import paired_change
    from monitors.measures import balanced_accuracy

    most = max(BUDGETS)
    if (FULL, most) not in found.made:
        return None
    full, this = (replace(found.new, probability=found.made[key].new) for key in ((FULL, most), (method, epochs)))
    low, high = paired_change(balanced_accuracy, full, this, better=1, resamples=2000, seed=0).interval(0.025)
    return [round(low, 4), round(high, 4)]
