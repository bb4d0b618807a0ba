"""saliency: where versions look, beside masks or boxes, and whether one looks elsewhere while it answers as well."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.answer import Answer, table
from agent.errors import HomeostatError
from agent.progress import progress_bar
from agent.report.frame import to_write
from agent.versions import registry
from agent.workspace import Workspace

if TYPE_CHECKING:
    from agent.saliency.look import Cases, Found

SERVED = ("active", "probation", "retired", "rolled_back")


def saliency(args: argparse.Namespace) -> Answer:
    """A row per version, each beside the first. Exit 1 where one took a shortcut, 3 where too few patients have a
    mask."""
    out, workspace = to_write(args.out) if args.out else None, Workspace(args.workspace)
    versions = _versions(workspace, args.version)

    from agent.observe import load_version
    from agent.saliency.look import chosen, look
    from strategies.saliency import attribution_for

    found: list[Found] = []
    with progress_bar() as progress:
        for version in versions:
            predictor = load_version(workspace, version)
            try:
                method = attribution_for(predictor, args.method)
            except ValueError as error:
                raise HomeostatError(str(error)) from error
            if not found:
                cases = chosen(workspace, Path(args.dir), args.where, predictor.classes)
            found.append(look(version, predictor, cases.rows, method, progress))
    values = [_value(one, found[0], cases, method.name) for one in found]
    if out:
        from agent.saliency.page import page

        out.write_text(page(cases.rows, found, values), encoding="utf-8")
    verdicts = {value["shortcut"] for value in values[1:]} or {False}
    code = 1 if True in verdicts else 3 if None in verdicts else 0
    lines = [value["says"] for value in values] + ([f"the page is {args.out}"] if args.out else [])
    columns = ["version", "patients", "pointing_game", "iou", "balanced_accuracy", "auroc", "shortcut"]
    return Answer(values, lambda: "\n".join([table(values, columns), "", *lines]), code)


def _versions(workspace: Workspace, named: Sequence[str]) -> list[str]:
    """Those that are named, or all that are or were live, the oldest first."""
    with workspace.store.read() as connection:
        if named:
            return list(dict.fromkeys(registry.resolve(connection, name) for name in named))
        return [row["id"] for row in registry.versions(connection) if row["state"] in SERVED]


def _value(found: Found, first: Found, cases: Cases, method: str) -> dict[str, Any]:
    import numpy as np

    from monitors import Shortcut, Verdict, auroc, balanced_accuracy

    looked = found.looked
    mean = np.mean(found.localised, axis=0)
    value: dict[str, Any] = {
        "version": found.version,
        "method": method,
        "n": len(found.places),
        "patients": looked.n,
        "labelled": len(looked.scores),
        "left_out": cases.left_out,
        "unreadable": found.unreadable,
        "pointing_game": round(float(mean[0]), 6),
        "iou": round(float(mean[1]), 6),
        "chance": {"pointing_game": round(float(mean[2]), 6), "iou": round(float(mean[3]), 6)},
        "centre": round(float(mean[4]), 6),
        "balanced_accuracy": round(float(balanced_accuracy(looked.scores)[0]), 6),
        "auroc": round(float(auroc(looked.scores)[0]), 6),
        "intervals": {name: [round(end, 6) for end in ends] for name, ends in looked.intervals().items()},
    }
    if found is first:
        says = (
            f"{found.version} points at what is marked in {mean[0]:.1%} of {looked.n} patients' images by {method} "
            f"(chance {mean[2]:.1%}, the middle of the image {mean[4]:.1%}), IoU {mean[1]:.3f} (chance {mean[3]:.3f})"
        )
        return {**value, "beside": None, "shortcut": None, "says": says}
    judged = Shortcut().judge(first.looked, looked)
    shortcut = {Verdict.FAIL: True, Verdict.PASS: False}.get(judged.verdict)
    word = "looks elsewhere than" if shortcut else "beside"
    return {
        **value,
        "beside": first.version,
        "shortcut": shortcut,
        "says": f"{found.version} {word} {first.version}: {judged.says}",
    }
