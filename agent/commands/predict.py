"""predict and evaluate: what a version says, and what it is worth."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from agent.answer import Answer, table
from agent.errors import HomeostatError
from agent.progress import progress_bar
from agent.trust import trust_now
from agent.versions import registry
from agent.workspace import Workspace, write_atomically


def predict(args: argparse.Namespace) -> Answer:
    """Answers of the live, or the named, version; a file that can't be read is told beside the others."""
    import numpy as np

    from agent.cases.images import read_image, sides
    from agent.observe import FarOutGuard, load_version
    from agent.tasks import answer, task_named

    workspace = Workspace(args.workspace)
    version, trust = _chosen(workspace, args.version)
    predictor = load_version(workspace, version)
    guard, task = FarOutGuard(workspace, version), task_named(predictor.task)
    rows: list[dict[str, Any]] = []
    for name in args.files:
        row: dict[str, Any] = {"file": name, "version": version, "trust": trust}
        try:
            image = read_image(Path(name), slices=predictor.preprocessing.slices)
            said = answer(task, predictor, [predictor.prepare(image)], [sides(image.shape)])
        except (HomeostatError, ValueError, OSError) as error:
            rows.append({**row, "prediction": None, "error": str(error)})
            continue
        abstained = not np.isfinite(said.scores).all() or bool(guard.far(said.embedding)[0])
        told = task.told(predictor, said, 0)
        kept = said.kept[0]
        if args.out is not None and kept is not None:
            written = task.kind if task.kind not in told else f"{task.kind}_file"
            told[written] = str(_written(Path(args.out), name, kept.content, task.suffix))
        rows.append({**row, **told, **({"prediction": None} if abstained else {}), "abstained": abstained})
    if all("error" in row for row in rows):
        raise HomeostatError(f"none of the {len(rows)} files can be read: {rows[0]['error']}")
    return Answer(rows, lambda: table(rows, ["file", "version", "trust", "prediction", "probability", "error"]))


def evaluate(args: argparse.Namespace) -> Answer:
    """Measures a version on a labelled data folder, whole, by site and by group."""
    import numpy as np

    from agent.cases.datafolder import TRUTHS, read_folder
    from agent.cases.examples import FolderExamples
    from agent.observe import load_version
    from agent.tasks import task_named
    from agent.tasks.task import Detailed
    from agent.updates.judge import age_band

    workspace = Workspace(args.workspace)
    version, _ = _chosen(workspace, args.version)
    predictor = load_version(workspace, version)
    task, every = task_named(predictor.task), read_folder(Path(args.dir), args.where).rows
    known = task.targets([task.said(row) for row in every], predictor.classes) >= 0
    rows = [row for row, one in zip(every, known, strict=True) if one]
    if not rows:
        asked = f"with a {task.kind}" if task.kind in TRUTHS else f"of the classes {', '.join(predictor.classes)}"
        raise HomeostatError(f"{args.dir} has no case {asked}: check its cases.csv")
    with progress_bar() as progress:
        examples = FolderExamples(rows, predictor.classes, task, predictor.preprocessing.slices)
        found = task.measured(predictor, examples, progress)
    groups = {}
    for column in workspace.config.monitors.subgroups:
        values = [row.scanner if column == "scanner" else row.facts.get(column, "") for row in rows]
        named = np.array([age_band(v) if column == "age" else (v or "") for v in values], np.str_)
        if of_column := _by(found, named):
            groups[column] = of_column
    value: dict[str, Any] = {
        "version": version,
        "n": len(rows),
        "unreadable": 0,
        "measures": found.measures(),
        "by_site": _by(found, np.array([row.site or "" for row in rows], np.str_)),
        "by_group": groups,
        **(found.details() if isinstance(found, Detailed) else {}),
    }
    sites = [{"site": "all", "n": len(rows), **value["measures"]}]
    sites += [{"site": site, **measures} for site, measures in value["by_site"].items()]
    return Answer(value, lambda: table(sites, ["site", "n", *task.measures]))


def _by(found: Any, groups: Any) -> dict[str, dict[str, Any]]:
    """The measures within each group, with the number of cases; groups [n], "" for unknown, which is left out."""
    names = sorted({*groups.tolist()} - {""})
    return {name: {"n": int((groups == name).sum()), **found.measures(groups == name)} for name in names}


def _written(folder: Path, name: str, content: bytes, suffix: str) -> Path:
    """A label map, or boxes, beside the others, under the image's own name; of two the second has a number."""
    folder.mkdir(parents=True, exist_ok=True)
    stem, number = Path(name).name, 0
    file = folder / f"{stem}{suffix}"
    while file.exists():
        number += 1
        file = folder / f"{stem}.{number}{suffix}"
    write_atomically(file, content)
    return file


def _chosen(workspace: Workspace, name: str | None) -> tuple[str, str]:
    with workspace.store.read() as connection:
        version = registry.resolve(connection, name or "champion")
        return version, trust_now(connection)
