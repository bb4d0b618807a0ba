"""The worker of one job: `job.json` in, `result.json` out; no store, no network.

Run as `python -m agent.updates.worker FOLDER`.
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from agent.tasks import Task, rows_of, task_named
from agent.updates import axes
from agent.updates.asked import QUESTIONS, SCRATCH, Finalist
from agent.updates.decide import Measures, choose, mean, suffices, worth_judging
from agent.updates.quality import developed, quality
from agent.workspace import write_atomically

if TYPE_CHECKING:
    from strategies.protocols import Candidate, Examples

Spec = Mapping[str, Any]


def train(spec: Spec, folder: Path, root: Path) -> dict[str, Any]:
    """Runs every recipe of the spec and measures each on *develop*; the finalist lies in `recipes/`.

    What is made so far is a result after each, so that a deep step beyond the plan's time or memory, or one that
    diverges, costs nothing of the cheaper ones; and so is what the plan asks of the finalist beside, step by step.
    Raises ValueError where none could be run.
    """
    import numpy as np

    job = _Training(spec, folder, root)
    table: dict[str, Measures] = {}
    made: dict[str, Any] = {}
    failed: dict[str, str] = {}
    before: Measures = {}
    bounds = spec["margin"], spec["shown"]
    result: dict[str, Any] = {}
    for position, name in enumerate(spec["recipes"]):
        out = folder / "recipes" / name
        try:
            candidate = job.run(name, out, f"{name} ({position + 1}/{len(spec['recipes'])})")
        except (ValueError, MemoryError) as error:
            failed[name] = str(error) or "it ran out of memory"
            continue
        if (change := _change(job.base, job.live, out, job.develop, spec["change"])) > spec["change"]:
            failed[name] = f"it changes what the encoder sees by {change:.2f}; plan.limits.change is {spec['change']:g}"
            continue
        made[name] = {**candidate.made, "peak_mib": _peak_mib()}
        table[name] = job.measured(out)
        before = before or job.measured(job.live)
        finalist = choose(table, before, *bounds)
        assert np.isfinite([m["quality"] for m in table[finalist].values()]).any()
        result = {
            "finalist": finalist,
            "worth_judging": worth_judging(table[finalist], before, *bounds),
            "develop": table,
            "before": before,
            "failed": failed,
            "made": made[finalist],
            "gained": mean(table[finalist]) - mean(before),
            "seconds": sum(one["seconds"] for one in made.values()),
        }
        write_atomically(folder / "result.json", json.dumps(result).encode())
        if spec["stop"] == "first" and suffices(table[name], before, *bounds):
            break
    if not result:
        raise ValueError("; ".join(f"{name}: {says}" for name, says in failed.items()))
    finalist = result["finalist"]
    out = folder / "recipes" / finalist
    result["axes"] = axes.of_network(job.task, job.base, job.live, out, job.develop, table[finalist])
    if spec["asked"] and (result["worth_judging"] or not spec["spares"]):
        of = job.finalist(before, table[finalist])
        for question in spec["asked"]:
            for found in QUESTIONS[question](of, partial(job.again, finalist)):
                result["axes"] = axes.joined(result["axes"], found)
                write_atomically(folder / "result.json", json.dumps(result).encode())
    return result


class _Training:
    """The material of a training job, and what is done with it: a recipe is run, a version is measured."""

    def __init__(self, spec: Spec, folder: Path, root: Path) -> None:
        classes, slices = tuple(spec["classes"]), spec.get("slices", 1)  # a job of an earlier version has none
        self.spec, self.folder, self.base, self.task = spec, folder, root / spec["base"], task_named(spec["task"])
        self.new, self.memory, self.develop = (
            ListedExamples(root, spec[part], classes, self.task, slices) for part in ("new", "memory", "develop")
        )
        self.live = root / spec["live"] if spec["live"] else None

    def run(self, name: str, out: Path, at: str, *, afresh: bool = False, **taught: Examples) -> Candidate:
        """A recipe on the job's material, of which `taught` replaces parts. Raises ValueError, MemoryError."""
        from strategies.recipes import RECIPES, run

        shutil.rmtree(out, ignore_errors=True)

        def tell(what: str, done: int, of: int) -> None:
            said = {"what": f"{at}: {what}", "done": done, "of": of}
            write_atomically(self.folder / "progress.json", json.dumps(said).encode())

        return run(
            RECIPES[name],
            base=self.base,
            live_parts=None if afresh else self.live,
            out=out,
            seed=self.spec["seed"],
            measure=partial(quality, self.task),
            progress=tell,
            latents=self.folder / "latents",
            new=taught.get("new", self.new),
            memory=taught.get("memory", self.memory),
            develop=taught.get("develop", self.develop),
        )

    def measured(self, parts: Path | None) -> Measures:
        """Of the base with these parts, on *develop*."""
        from strategies.predictor import Predictor

        develop, predictor = self.develop, Predictor.load(self.base, parts)
        said = _infer(predictor, develop, self.spec["batch"]).rows
        return {
            str(domain): developed(self.task.record(said[its], develop.label[its], develop.patient[its]))
            for domain in sorted(set(develop.domain))
            for its in [develop.domain == domain]
        }

    def finalist(self, before: Measures, after: Measures) -> Finalist:
        return Finalist(
            new=self.new,
            memory=self.memory,
            develop=self.develop,
            live_learnt=self.spec["learnt"],
            before=before,
            after=after,
            seed=self.spec["seed"],
        )

    def again(self, name: str, at: str, *, afresh: bool = False, **taught: Examples) -> tuple[Measures, str]:
        """See `agent.updates.asked.Again`; nothing of what is made here is kept."""
        out = self.folder / SCRATCH
        try:
            self.run(name, out, f"{name}, {at}", afresh=afresh, **taught)
            return self.measured(out), ""
        except (ValueError, MemoryError) as error:
            return {}, str(error) or "it ran out of memory"
        finally:
            shutil.rmtree(out, ignore_errors=True)


def _change(base: Path, live: Path | None, parts: Path, develop: ListedExamples, most: float) -> float:
    """1 - CKA of the encoder's last block; not asked where the plan sets no bound."""
    if most >= 1:
        return 0.0
    from strategies.axes import depth

    return depth(base, live, parts, axes.some_of(base, develop)).change[-1]


def _peak_mib() -> float:
    """Of this process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def infer(spec: Spec, folder: Path, root: Path) -> dict[str, Any]:
    """What each named version says of the first so many cases, and the rows that judge it: `outputs.npz`."""
    import numpy as np

    from strategies.predictor import Predictor

    arrays: dict[str, Any] = {}
    task = task_named(spec["task"])
    for version, (parts, n) in spec["versions"].items():
        predictor = Predictor.load(root / spec["base"], root / parts if parts else None)
        slices = predictor.preprocessing.slices
        cases = ListedExamples(root, spec["cases"][:n], tuple(spec["classes"]), task, slices)
        said = _infer(predictor, cases, spec["batch"], kept=True)
        arrays |= {f"scores_{version}": said.scores, f"rows_{version}": said.rows}
        if any(one is not None for one in said.kept):
            lengths, sure = zip(*((len(one.content), one.sure) for one in said.kept), strict=True)
            content = b"".join(one.content for one in said.kept)
            arrays |= {f"kept_{version}": np.frombuffer(content, np.uint8)}
            arrays |= {f"lengths_{version}": np.array(lengths), f"sure_{version}": np.array(sure)}
    with (folder / "outputs.npz").open("wb") as file:
        np.savez(file, **arrays)
    return {"outputs": "outputs.npz", "n": len(spec["cases"])}


class Said(NamedTuple):
    """Of n cases: scores [n, c] and what is kept beside them, where these are asked for; rows [n, m] beside the labels,
    of no meaning for a case without one."""

    scores: Any
    rows: Any
    kept: Sequence[Any]


def _infer(predictor: Any, cases: ListedExamples, batch: int, *, kept: bool = False) -> Said:
    """The same bytes under several cases are read once, and their labels by themselves."""
    import numpy as np
    import torch

    from agent.cases.images import sides
    from strategies.slices import fewer

    task, size = cases.task, predictor.preprocessing.size
    keys = [(file, cases.entries[i]["label"] if task.kind != "class" else "") for i, file in enumerate(cases.files)]
    first = {key: i for i, key in reversed(list(enumerate(keys)))}
    once = sorted(first.values())
    scores, rows, others = [], [], list[Any]()
    batch = fewer(batch, predictor.preprocessing.slices)
    for start in range(0, len(once), batch):
        some = once[start : start + batch]
        tensors, shapes = [], []
        for i in some:
            image = cases.image(i)
            tensors.append(predictor.prepare(image))
            shapes.append(sides(image.shape))
        probabilities = predictor.answer(torch.stack(tensors))
        rows.append(rows_of(task, probabilities, task.beside(cases, some, shapes, size)))
        if kept:
            said, more = task.read(predictor, probabilities, shapes)
            scores.append(said)
            others += more
    place = np.searchsorted(once, [first[key] for key in keys])
    return Said(
        np.concatenate(scores)[place] if kept else None,
        np.concatenate(rows)[place],
        [others[i] for i in place] if kept else (),
    )


class ListedExamples:
    """The cases that a job's spec lists; their images, and labels that are files, lie in the workspace's objects."""

    def __init__(
        self,
        root: Path,
        entries: Sequence[Mapping[str, Any]],
        classes: Sequence[str],
        task: Task,
        slices: int = 1,
    ) -> None:
        import numpy as np

        self.root, self.entries, self.task, self.classes, self.slices = root, entries, task, classes, slices
        self.files = [(root / entry["uri"], entry["media_type"]) for entry in entries]
        self.label = task.targets([entry["label"] for entry in entries], classes)
        self.patient = np.array([entry["patient"] for entry in entries], np.str_)
        self.domain = np.array([entry["domain"] for entry in entries], np.str_)

    def __len__(self) -> int:
        return len(self.files)

    def image(self, i: int) -> Any:
        from agent.cases.images import read_image

        return read_image(*self.files[i], slices=self.slices)

    def mask(self, i: int) -> Any:
        """Of a case without one: empty, which its label of -1 says not to count."""
        import numpy as np

        from agent.cases.masks import read_mask

        value = self.entries[i]["label"]
        if value:
            return read_mask(self.root / value, slices=self.slices)
        return np.zeros((1, 1) if self.slices == 1 else (self.slices, 1, 1), np.uint8)

    def boxes(self, i: int) -> Any:
        """[t, 5] class and corners; of a case without a list of them none, which its label of -1 says not to count."""
        from agent.cases.boxes import numbered, read_boxes

        value = self.entries[i]["label"]
        return numbered(read_boxes(self.root / value) if value else [], self.classes)


KINDS: dict[str, Callable[[Spec, Path, Path], dict[str, Any]]] = {"train": train, "infer": infer}


def main(folder: Path) -> int:
    """Exit code 0 with a result, 1 with a reason in `result.json`; anything else is a crash."""
    spec = json.loads((folder / "job.json").read_text())
    import torch

    torch.set_num_threads(spec["threads"])
    try:
        result = KINDS[spec["kind"]](spec, folder, folder.parent.parent)
    except (ValueError, OSError, MemoryError) as error:
        write_atomically(folder / "result.json", json.dumps({"error": f"{type(error).__name__}: {error}"}).encode())
        raise
    write_atomically(folder / "result.json", json.dumps(result).encode())
    return 0


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
