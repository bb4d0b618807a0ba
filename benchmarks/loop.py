"""What each way of updating gains on a new site and forgets on the old one, on held patients of both.

`homeostat bench loop --data DIR` takes white cells of `DIR/wbc` from Barcelona to Jiangxi; `--full` adds the chest
films of `DIR/cxr` from Guangzhou's children to Bethesda's adults. Both bases start from the weights in `DIR/models`.
Without data, generated heads of two scanners take their place. Each training is a process of its own, on one thread.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from agent.cases.datafolder import read_folder, sharing_bytes
from agent.cases.examples import FolderExamples
from agent.cases.split import Split
from benchmarks.workers import workers

SEEDS = 3
MEMORY = 200
LABELLED = 120  # training patients of the new site, at most: labels are few
MODEL = "mobilenetv3_small_kermany_cxr.npz"
METHODS = (
    "frozen",
    "recalibrate",
    "linear_probe",
    "full_finetune",
    "naive_lora",
    "full_rehearsal",
    "lora_rehearsal",
    "joint",
)
OURS, NAIVE = "lora_rehearsal", "full_finetune"
MEASURED = (
    "home",
    "new",
    "forgetting",
    "gap_closed",
    "ece_home",
    "ece_new",
    "brier_home",
    "brier_new",
    "cpu_seconds",
    "peak_mib",
)

Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Site:
    """A data folder, and the part of it that is one hospital."""

    folder: Path
    where: tuple[str, ...] = ()


@dataclass(frozen=True)
class Shift:
    """From a home site to a new one, and the model that is there before.

    It is fitted at home from `backbone`, or came with its head and takes images of `deployed_at` pixels a side.
    """

    name: str
    home: Site
    new: Site
    backbone: str
    classes: tuple[str, ...]
    deployed_at: int | None = None


@dataclass(frozen=True)
class Task:
    """One method on one shift and one seed; the seed draws the split, the memory and the training."""

    shift: Shift
    seed: int
    method: str
    folder: Path


def bench(
    data: Path | None, seed: int = 0, input: Path | None = None, full: bool = False, progress: Progress | None = None
) -> dict[str, Any]:
    """{"name", "rows", "ratios"}: a row per shift and method with the median over three seeds and their range.

    Ratios are those of the first shift. gap closed = (ours - frozen) / (joint - frozen) on the new site, change = after
    - before at home, in balanced accuracy. Short form: the first shift alone.
    """
    progress = progress or _tell
    with tempfile.TemporaryDirectory(prefix="homeostat-loop-") as scratch:
        shifts = _generated(Path(scratch), seed) if data is None else _real(data)
        shifts = shifts if full else shifts[:1]
        found = _run_all(shifts, seed, Path(scratch), progress)
    rows = [_row(shift, method, found) for shift in shifts for method in METHODS]
    first = {row["method"]: row for row in rows if row["data"] == shifts[0].name}
    ratios = {
        "new_site_gap_closed": first[OURS]["gap_closed"],
        "old_site_change": -first[OURS]["forgetting"],
        "naive_old_site_change": -first[NAIVE]["forgetting"],
    }
    return {"name": "loop", "rows": rows, "ratios": ratios}


def _real(data: Path) -> list[Shift]:
    weights = f"mobilenet_v3_small:{data / 'models' / MODEL}"
    return [
        Shift(
            name="wbc",
            home=Site(data / "wbc", ("site=pbc_barcelona",)),
            new=Site(data / "wbc", ("site=jiangxi_tecom",)),
            backbone=weights,
            classes=("basophil", "eosinophil", "lymphocyte", "monocyte", "neutrophil"),
        ),
        Shift(
            name="cxr",
            home=Site(data / "cxr", ("site=kermany_guangzhou",)),
            new=Site(data / "cxr", ("site=nih_bethesda",)),
            backbone=weights,
            classes=("normal", "pneumonia"),
            deployed_at=224,
        ),
    ]


def _generated(scratch: Path, seed: int) -> list[Shift]:
    from agent.demo.scanners import KINDS, A, B, generate

    start = datetime(2026, 1, 5, tzinfo=UTC)
    home = generate(scratch / "home", scanner=A, patients=240, seed=seed, start=start)
    new = generate(scratch / "new", scanner=B, patients=120, seed=seed, start=start)
    return [Shift("generated", Site(home), Site(new), "mobilenet_v3_small", tuple(sorted(KINDS)))]


def _run_all(
    shifts: Sequence[Shift], seed: int, scratch: Path, progress: Progress
) -> dict[tuple[str, str], list[dict[str, float]]]:
    """Bases first, then what builds on them; every task in a fresh process, so that its peak of memory is its own."""
    bases = [
        Task(shift, seed + i, "frozen", scratch / f"{shift.name}-{seed + i}") for shift in shifts for i in range(SEEDS)
    ]
    updates = [Task(base.shift, base.seed, method, base.folder) for base in bases for method in METHODS[1:]]
    found: dict[tuple[str, str], list[dict[str, float]]] = {}
    done = 0
    with workers(4, tasks_each=1) as pool:
        for tasks in (bases, updates):
            for task, measured in zip(tasks, pool.map(perform, tasks), strict=True):
                found.setdefault((task.shift.name, task.method), []).append(measured)
                done += 1
                progress(f"{task.shift.name}, seed {task.seed}: {task.method}", done, len(bases) + len(updates))
    return found


def perform(task: Task) -> dict[str, float]:
    """Runs one task in this process; answers with what it measured on the judge patients of both sites."""
    import torch

    from strategies.predictor import Predictor

    torch.set_num_threads(1)
    part = _parts(task.shift, task.seed)
    began = time.process_time()
    parts = None
    if task.method == "frozen":
        _make_base(task, part)
    else:
        parts = _update(task, part)
    seconds = time.process_time() - began
    predictor = Predictor.load(task.folder / "base", parts)
    measured = {"cpu_seconds": seconds, "peak_mib": peak_mib()}
    for site in ("home", "new"):
        measured |= {name.format(site): value for name, value in _measures(predictor, part[site, "judge"]).items()}
    return measured


def _parts(shift: Shift, seed: int) -> dict[tuple[str, str], FolderExamples]:
    """Labelled cases by site and part of the split, drawn at home as `fit` does; others fall where they hash."""
    rows = {
        name: [row for row in read_folder(site.folder, site.where).rows if row.label in shift.classes]
        for name, site in (("home", shift.home), ("new", shift.new))
    }
    split = Split.draw((row.patient_id for row in rows["home"]), seed, together=sharing_bytes(rows["home"]))
    parts = {
        (name, part): [row for row in some if split.assign(row.patient_id) == part]
        for name, some in rows.items()
        for part in ("train", "develop", "judge")
    }
    labelled = set(sorted({row.patient_id for row in parts["new", "train"]}, key=_order(seed))[:LABELLED])
    parts["new", "train"] = [row for row in parts["new", "train"] if row.patient_id in labelled]
    return {key: FolderExamples(some, shift.classes) for key, some in parts.items()}


def _order(seed: int) -> Callable[[str], str]:
    """A random order of patients that depends on nothing but the seed and their ids."""
    return lambda patient: sha256(f"{seed} {patient}".encode()).hexdigest()


def _make_base(task: Task, part: Mapping[tuple[str, str], FolderExamples]) -> None:
    from strategies.base import fit_base, import_base

    shift, out = task.shift, task.folder / "base"
    task.folder.mkdir(parents=True, exist_ok=True)
    if shift.deployed_at is not None:
        import_base(shift.backbone, shift.classes, out, size=shift.deployed_at)
        return
    fit_base(
        part["home", "train"],
        part["home", "develop"],
        shift.classes,
        backbone=shift.backbone,
        epochs=15,
        seed=task.seed,
        out=out,
        measure=recall,
    )


def _update(task: Task, part: Mapping[tuple[str, str], FolderExamples]) -> Path:
    from strategies.base import Chosen
    from strategies.lessons import Joined
    from strategies.memory import balanced_by_domain
    from strategies.recipes import COMPARISONS, RECIPES, run

    home, new = part["home", "train"], part["new", "train"]
    ids = [str(i) for i in range(len(home))]
    kept = balanced_by_domain(ids, home.domain.tolist(), home.label.tolist(), home.patient.tolist(), MEMORY, task.seed)
    joint = task.method == "joint"
    candidate = run(
        RECIPES[NAIVE] if joint else (RECIPES | COMPARISONS)[task.method],
        base=task.folder / "base",
        live_parts=None,
        new=Joined(home, new) if joint else new,
        memory=Chosen(home, np.array(sorted(map(int, [] if joint else kept)), dtype=int)),
        develop=Joined(part["home", "develop"], part["new", "develop"]),
        out=task.folder / task.method,
        seed=task.seed,
        measure=recall,
    )
    return candidate.folder


def recall(probability: NDArray[np.floating], target: NDArray[np.integer]) -> float:
    """Probabilities [n, k], classes [n] -> balanced accuracy."""
    from monitors.measures import balanced_accuracy
    from monitors.protocols import Scores

    return float(balanced_accuracy(Scores(probability=probability, target=target, unit=target.astype(str)))[0])


def _measures(predictor: Any, cases: FolderExamples) -> dict[str, float]:
    import torch

    from monitors.measures import balanced_accuracy, brier, ece
    from monitors.protocols import Scores

    batches = np.array_split(np.arange(len(cases)), -(-len(cases) // 64))
    said = [predictor.observe(torch.stack([predictor.prepare(cases.image(i)) for i in rows])) for rows in batches]
    scores = Scores(
        probability=np.concatenate([one.probabilities for one in said]), target=cases.label, unit=cases.patient
    )
    measures = {"{}": balanced_accuracy, "ece_{}": ece, "brier_{}": brier}
    return {"n_{}": float(len(cases))} | {name: float(measure(scores)[0]) for name, measure in measures.items()}


def _row(shift: Shift, method: str, found: Mapping[tuple[str, str], list[dict[str, float]]]) -> dict[str, Any]:
    ours, frozen, joint = (found[shift.name, name] for name in (method, "frozen", "joint"))
    runs = [
        one
        | {"forgetting": before["home"] - one["home"]}
        | {"gap_closed": _share(one["new"] - before["new"], bound["new"] - before["new"])}
        for one, before, bound in zip(ours, frozen, joint, strict=True)
    ]
    row: dict[str, Any] = {"data": shift.name, "method": method, "seeds": len(runs)}
    for name in ("n_home", "n_new"):
        row[name] = int(np.median([one[name] for one in runs]))
    for name in MEASURED:
        values = [one[name] for one in runs]
        row[name] = round(float(np.median(values)), 4)
        row[f"{name}_range"] = [round(min(values), 4), round(max(values), 4)]
    return row


def _share(part: float, whole: float) -> float:
    return part / whole if whole > 0 else float("nan")


def peak_mib() -> float:
    """The peak of this process's own resident memory; getrusage would pass on the parent's from before the exec."""
    status = Path("/proc/self/status")
    if status.exists():
        return int(status.read_text().split("VmHWM:")[1].split()[0]) / 1024
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**20 if sys.platform == "darwin" else 1024)


def _tell(what: str, done: int, of: int) -> None:
    print(f"{done}/{of} {what}", file=sys.stderr, flush=True)
