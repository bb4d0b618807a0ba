"""The worker of one job: `job.json` in, `result.json` out; no store, no network.

Run as `python -m agent.updates.worker FOLDER`.
"""

from __future__ import annotations

import json
import resource
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.updates import axes
from agent.updates.decide import choose, mean, suffices, worth_judging
from agent.workspace import write_atomically

Spec = Mapping[str, Any]


def train(spec: Spec, folder: Path, root: Path) -> dict[str, Any]:
    """Runs every recipe of the spec and measures each on *develop*; the finalist lies in `recipes/`.

    What is made so far is a result after each, so that a deep step beyond the plan's time or memory, or one that
    diverges, costs nothing of the cheaper ones. Raises ValueError where none could be run.
    """
    import numpy as np

    from monitors import Scores, balanced_accuracy, brier
    from strategies.predictor import Predictor
    from strategies.recipes import RECIPES, run

    classes = tuple(spec["classes"])
    new, memory, develop = (ListedExamples(root, spec[part], classes) for part in ("new", "memory", "develop"))
    live_parts = root / spec["live"] if spec["live"] else None
    base = root / spec["base"]

    def recall(probability: Any, target: Any) -> float:
        return float(balanced_accuracy(Scores(probability=probability, target=target, unit=target.astype(str)))[0])

    def measured(parts: Path | None) -> dict[str, dict[str, float]]:
        scores = _infer(Predictor.load(base, parts), develop, spec["batch"])
        by_domain = {}
        for domain in sorted(set(develop.domain)):
            rows = develop.domain == domain
            record = Scores(probability=scores[rows], target=develop.label[rows], unit=develop.patient[rows])
            by_domain[str(domain)] = {
                "balanced_accuracy": float(balanced_accuracy(record)[0]),
                "brier": float(brier(record)[0]),
                "n": int(rows.sum()),
            }
        return by_domain

    table: dict[str, dict[str, dict[str, float]]] = {}
    made: dict[str, Any] = {}
    failed: dict[str, str] = {}
    before: dict[str, dict[str, float]] = {}
    bounds = spec["margin"], spec["shown"]
    result: dict[str, Any] = {}
    for position, name in enumerate(spec["recipes"]):
        out = folder / "recipes" / name
        shutil.rmtree(out, ignore_errors=True)

        def tell(what: str, done: int, of: int, at: str = f"{name} ({position + 1}/{len(spec['recipes'])})") -> None:
            said = {"what": f"{at}: {what}", "done": done, "of": of}
            write_atomically(folder / "progress.json", json.dumps(said).encode())

        try:
            candidate = run(
                RECIPES[name],
                base=base,
                live_parts=live_parts,
                new=new,
                memory=memory,
                develop=develop,
                out=out,
                seed=spec["seed"],
                measure=recall,
                progress=tell,
                latents=folder / "latents",
            )
        except (ValueError, MemoryError) as error:
            failed[name] = str(error) or "it ran out of memory"
            continue
        if (change := _change(base, live_parts, out, develop, spec["change"])) > spec["change"]:
            failed[name] = f"it changes what the encoder sees by {change:.2f}; plan.limits.change is {spec['change']:g}"
            continue
        made[name] = {**candidate.made, "peak_mib": _peak_mib()}
        table[name] = measured(out)
        before = before or measured(live_parts)
        finalist = choose(table, before, *bounds)
        assert np.isfinite([m["balanced_accuracy"] for m in table[finalist].values()]).any()
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
    return result | {"axes": axes.of_network(base, live_parts, out, develop, table[finalist])}


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
    """What each named version says of the first so many cases: `outputs.npz`."""
    import numpy as np

    from strategies.predictor import Predictor

    arrays = {}
    for version, (parts, n) in spec["versions"].items():
        cases = ListedExamples(root, spec["cases"][:n], tuple(spec["classes"]))
        predictor = Predictor.load(root / spec["base"], root / parts if parts else None)
        arrays[f"scores_{version}"] = _infer(predictor, cases, spec["batch"])
    with (folder / "outputs.npz").open("wb") as file:
        np.savez(file, **arrays)
    return {"outputs": "outputs.npz", "n": len(spec["cases"])}


def _infer(predictor: Any, cases: ListedExamples, batch: int) -> Any:
    """Scores [n, k]; the same bytes under several cases are read once."""
    import numpy as np
    import torch

    first = {file: i for i, file in reversed(list(enumerate(cases.files)))}
    once = sorted(first.values())
    scores = []
    for start in range(0, len(once), batch):
        tensors = [predictor.prepare(cases.image(i)) for i in once[start : start + batch]]
        scores.append(predictor.answer(torch.stack(tensors)))
    return np.concatenate(scores)[np.searchsorted(once, [first[file] for file in cases.files])]


class ListedExamples:
    """The cases that a job's spec lists; their images lie in the workspace's objects."""

    def __init__(self, root: Path, entries: Sequence[Mapping[str, Any]], classes: Sequence[str]) -> None:
        import numpy as np

        number = {name: i for i, name in enumerate(classes)}
        self.files = [(root / entry["uri"], entry["media_type"]) for entry in entries]
        self.label = np.array([number.get(entry["label"], -1) for entry in entries], np.int64)
        self.patient = np.array([entry["patient"] for entry in entries], np.str_)
        self.domain = np.array([entry["domain"] for entry in entries], np.str_)

    def __len__(self) -> int:
        return len(self.files)

    def image(self, i: int) -> Any:
        from agent.cases.images import read_image

        return read_image(*self.files[i])


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
