"""fit, import and init: a base model, and the workspace around it."""

from __future__ import annotations

import argparse
from pathlib import Path

from agent.answer import Answer
from agent.cases.findings import is_finding
from agent.commands.later import later
from agent.errors import HomeostatError
from agent.progress import progress_bar


def fit(args: argparse.Namespace) -> Answer:
    """Trains a base model on a labelled data folder."""
    if args.pretrain != "none":
        raise later(f"--pretrain {args.pretrain}")
    from agent.deploy import fit as fit_base

    with progress_bar() as progress:
        made = fit_base(
            Path(args.data),
            Path(args.out),
            where=args.where,
            task=args.task,
            backbone=args.backbone,
            size=args.size,
            slices=args.slices,
            epochs=args.epochs,
            seed=args.seed,
            progress=progress,
        )
    measures = ", ".join(f"{name} {value:.3f}" for name, value in made["metrics"].items() if value is not None)
    several = made["task"] != args.task
    text = (
        f"{'several classes per case: it is fitted as --task multilabel' * several}{chr(10) * several}"
        f"{made['out']}: {made['backbone']} trained on {made['n_train']} images in {made['seconds']:.0f} s\n"
        f"on {made['n_judge']} images of patients that it has never seen: {measures}\n"
        f"next: homeostat init --model {made['out']} --reference {args.data}"
    )
    return Answer(made, text)


def import_(args: argparse.Namespace) -> Answer:
    """Makes a base of a model that was trained elsewhere, with the head that it came with; it learns nothing."""
    classes = [name.strip() for name in args.classes.split(",")]
    if "" in classes or len({*classes}) < len(classes):
        raise HomeostatError(f"--classes {args.classes} has an empty or a repeated name: say one for each output")
    if args.task == "multilabel" and (odd := [name for name in classes if not is_finding(name)]):
        raise HomeostatError(
            f"--classes: {odd[0]!r} can't be a finding, because in a label it means none or several: take that output "
            "off the network's head"
        )
    from strategies.base import import_base

    try:
        digest = import_base(args.spec, classes, Path(args.out), size=args.size, slices=args.slices, task=args.task)
    except (ValueError, OSError) as error:
        raise HomeostatError(str(error)) from error
    made = {"out": args.out, "task": args.task, "classes": classes, "digest": digest}
    text = f"{args.out}: {len(classes)} classes, digest {digest[:12]}"
    return Answer(made, f"{text}\nnext: homeostat init --model {args.out} --reference DIR")


def init(args: argparse.Namespace) -> Answer:
    """Makes a workspace around a base model."""
    if args.external or args.outputs:
        raise later("--external")
    from agent.deploy import init as make

    with progress_bar() as progress:
        made = make(
            args.workspace,
            Path(args.model),
            Path(args.reference),
            where=args.where,
            config=Path(args.config) if args.config else None,
            progress=progress,
        )
    decidable = made["decidable"]
    can = "can" if decidable["decides"] else "can't"
    lines = [
        f"{made['workspace']}: v0 is live",
        f"reference: {made['reference']['n']} cases of {made['reference']['patients']} patients",
        f"anchors: {made['anchor']['n']} cases of {made['anchor']['patients']} patients; with so many the margin "
        f"of {decidable['plan_margin']:.0%} {can} be decided (power {decidable['power_at_plan_margin']:.2f}; "
        f"smallest margin {decidable['smallest_margin'] or 1:.1%} at power {decidable['power']})",
        f"memory: {made['memory']} cases",
    ]
    if made["sealed"]:
        lines.append(
            "the model is a black box: it is watched and recalibrated, and recipes that move weights are left out"
        )
    if made["unseen"] == "unknown":
        lines.append("whom the base was trained on is unknown: anchors may hold its training patients")
    if made["quarantined"]:
        lines.append(f"{made['quarantined']} files can't be read: see quarantine/")
    lines.append("next: homeostat feed DIR, then homeostat run")
    return Answer(made, "\n".join(lines))
