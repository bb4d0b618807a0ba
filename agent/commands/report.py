"""report: a page about what happened."""

from __future__ import annotations

import argparse

from agent.answer import Answer
from agent.commands.later import later
from agent.report.alarm import alarm_record, page, sentences
from agent.report.frame import to_write
from agent.workspace import Workspace


def report(args: argparse.Namespace) -> Answer:
    """Of an alarm; the model card of a version comes with a later release."""
    if args.alarm is None:
        raise later("report")
    out = to_write(args.out)
    found = alarm_record(Workspace(args.workspace), args.alarm)
    out.write_text(page(found), encoding="utf-8")
    return Answer({"out": args.out}, "\n".join([*sentences(found), f"the page is {args.out}"]))
