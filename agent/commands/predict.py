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
from agent.workspace import Workspace


def predict(args: argparse.Namespace) -> Answer:
    """Answers of the live, or the named, version; a file that can't be read is told beside the others."""
    import numpy as np

    from agent.cases.images import read_image
    from agent.observe import FarOutGuard, answers, load_version

    workspace = Workspace(args.workspace)
    version, trust = _chosen(workspace, args.version)
    predictor = load_version(workspace, version)
    guard = FarOutGuard(workspace, version)
    rows: list[dict[str, Any]] = []
    for name in args.files:
        row: dict[str, Any] = {"file": name, "version": version, "trust": trust}
        try:
            scores, embedding = answers(predictor, [predictor.prepare(read_image(Path(name)))])
        except (HomeostatError, ValueError, OSError) as error:
            rows.append({**row, "prediction": None, "error": str(error)})
            continue
        abstained = not np.isfinite(scores).all() or bool(guard.far(embedding)[0])
        best = int(predictor.decide(scores)[0])
        rows.append(
            {
                **row,
                "prediction": None if abstained else predictor.classes[best],
                "probability": round(float(scores[0, best]), 6),
                "probabilities": {c: round(float(p), 6) for c, p in zip(predictor.classes, scores[0], strict=True)},
                "abstained": abstained,
            }
        )
    if all("error" in row for row in rows):
        raise HomeostatError(f"none of the {len(rows)} files can be read: {rows[0]['error']}")
    return Answer(rows, lambda: table(rows, ["file", "version", "trust", "prediction", "probability", "error"]))


def evaluate(args: argparse.Namespace) -> Answer:
    """Measures a version on a labelled data folder, whole, by site and by group."""
    import numpy as np

    from agent.cases.datafolder import read_folder
    from agent.cases.examples import FolderExamples
    from agent.observe import load_version
    from agent.updates.judge import age_band
    from agent.updates.measure import measures_by, measures_of, scores_of

    workspace = Workspace(args.workspace)
    version, _ = _chosen(workspace, args.version)
    predictor = load_version(workspace, version)
    rows, unreadable = [], 0
    for row in read_folder(Path(args.dir), args.where).rows:
        if row.label in predictor.classes:
            rows.append(row)
    if not rows:
        raise HomeostatError(
            f"{args.dir} has no case of the classes {', '.join(predictor.classes)}: check its cases.csv"
        )
    with progress_bar() as progress:
        scores = scores_of(predictor, FolderExamples(rows, predictor.classes), progress)
    groups = {}
    for column in workspace.config.monitors.subgroups:
        values = [row.scanner if column == "scanner" else row.facts.get(column, "") for row in rows]
        named = np.array([age_band(v) if column == "age" else (v or "") for v in values], np.str_)
        if found := measures_by(scores, named):
            groups[column] = found
    value: dict[str, Any] = {
        "version": version,
        "n": len(rows),
        "unreadable": unreadable,
        "measures": measures_of(scores),
        "by_site": measures_by(scores, np.array([row.site or "" for row in rows], np.str_)),
        "by_group": groups,
    }
    sites = [{"site": "all", "n": len(rows), **value["measures"]}]
    sites += [{"site": site, **measures} for site, measures in value["by_site"].items()]
    return Answer(
        value, lambda: table(sites, ["site", "n", "accuracy", "balanced_accuracy", "auroc", "ece", "brier", "nll"])
    )


def _chosen(workspace: Workspace, name: str | None) -> tuple[str, str]:
    with workspace.store.read() as connection:
        version = registry.resolve(connection, name or "champion")
        return version, trust_now(connection)
