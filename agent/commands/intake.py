"""feed and labels: cases and late labels into the workspace."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from agent.answer import Answer, table
from agent.errors import HomeostatError
from agent.progress import progress_bar
from agent.workspace import Workspace

SENTENCES = 20  # refusals that are told; the rest is counted


def feed(args: argparse.Namespace) -> Answer:
    """Hands a data folder to the intake."""
    from agent.cases.intake import Intake

    told = _Told()
    try:
        with progress_bar() as progress:
            intake = Intake(Workspace(args.workspace), progress=progress, tell=told)
            counts = intake.take(Path(args.dir), args.where, labels=not args.no_labels)
    finally:
        told.print("quarantine/ has the rest")
    says = f"{counts['accepted']} accepted, {counts['duplicates']} duplicates, {counts['quarantined']} quarantined"
    more = {"labels": "labels joined", "unknown_classes": "of unknown classes left out",
            "wrong_labels": "taken without their label", "conflicts": "in conflict"}  # fmt: skip
    extra = [f"{counts[name]} {what}" for name, what in more.items() if counts[name]]
    return Answer(counts, "; ".join([says, *extra]))


def labels(args: argparse.Namespace) -> Answer:
    """Joins late labels; or says which cases are most worth one."""
    from agent.cases.labels import import_labels

    if args.action == "wanted":
        return _wanted(args)
    if args.file is None:
        raise HomeostatError("'labels import' needs the CSV file with the columns case_id and label (or mask)")
    told = _Told()
    counts = import_labels(Workspace(args.workspace), Path(args.file), tell=told)
    told.print("the counts have the rest")
    says = f"{counts['joined']} joined, {counts['unknown']} of unknown cases, {counts['conflicts']} in conflict"
    return Answer(counts, says + (f", {counts['refused']} lines refused" if counts["refused"] else ""))


def _wanted(args: argparse.Namespace) -> Answer:
    from agent.cases.wanted import DEFAULT, wanted

    n = DEFAULT if args.n is None else args.n
    if n < 1:
        raise HomeostatError(f"--n is how many cases are asked for, 1 or more, not {n}")
    rows = wanted(Workspace(args.workspace), n)
    return Answer(rows, lambda: table(rows, ["case_id", "why"]) if rows else "no case waits for a label")


class _Told:
    """What was refused: the first sentences, kept until the progress bar is gone, and a count of the rest."""

    def __init__(self) -> None:
        self.n = 0
        self.first: list[str] = []

    def __call__(self, sentence: str) -> None:
        self.n += 1
        if self.n <= SENTENCES:
            self.first.append(sentence)

    def print(self, where_the_rest_is: str) -> None:
        for sentence in self.first:
            print(f"homeostat: {sentence}", file=sys.stderr)
        if self.n > SENTENCES:
            print(f"homeostat: and {self.n - SENTENCES} more; {where_the_rest_is}", file=sys.stderr)
