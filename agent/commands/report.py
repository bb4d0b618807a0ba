"""report: a page about what happened, or the model card and change record of a version."""

from __future__ import annotations

import argparse

from agent.answer import Answer
from agent.errors import HomeostatError
from agent.report.frame import to_write
from agent.workspace import Workspace


def report(args: argparse.Namespace) -> Answer:
    """Of a version, by default the live one; or of an alarm."""
    if args.alarm is not None and args.version is not None:
        raise HomeostatError("one page is about a version or about an alarm: leave out VERSION or --alarm")
    out, workspace = to_write(args.out), Workspace(args.workspace)
    text, said = _of_version(workspace, args.version) if args.alarm is None else _of_alarm(workspace, args.alarm)
    out.write_text(text, encoding="utf-8")
    return Answer({"out": args.out}, "\n".join([*said, f"the page is {args.out}"]))


def _of_alarm(workspace: Workspace, alarm: int) -> tuple[str, list[str]]:
    from agent.report.alarm import alarm_record, page, sentences

    found = alarm_record(workspace, alarm)
    return page(found), sentences(found)


def _of_version(workspace: Workspace, version: str | None) -> tuple[str, list[str]]:
    from agent.report.version import page, said, version_record
    from agent.versions import registry

    if version is None:
        with workspace.store.read() as connection:
            version = registry.live(connection)["version"]
    found = version_record(workspace, version)
    return page(found), said(found)
