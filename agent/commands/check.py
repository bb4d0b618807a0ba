"""validate, doctor, alerts test, completion: is everything set up as it should be."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path

from agent.answer import Answer, table
from agent.workspace import Workspace


def validate(args: argparse.Namespace) -> Answer:
    """All errors of a config at once; exit 2 if there are any. With --schema, the JSON Schema of a config."""
    from agent.config import Config, ConfigErrors, read_config

    if args.schema:
        schema = Config.model_json_schema()
        return Answer(schema, json.dumps(schema, indent=2))
    path = Path(args.config) if args.config else args.workspace / "homeostat.yaml"
    try:
        read_config(path)
    except ConfigErrors as error:
        lines = "\n".join(f"- {sentence}" for sentence in error.errors)
        return Answer({"ok": False, "errors": error.errors}, f"{path}:\n{lines}", exit_code=2)
    return Answer({"ok": True, "errors": []}, f"{path} is fine")


def doctor(args: argparse.Namespace) -> Answer:
    """What this machine has and lacks; always exit 0, because what is lacking may not be needed."""
    from agent.doctor import examine

    checks = [asdict(finding) for finding in examine(args.workspace)]
    errors = [f"{check['name']}: {check['says']}" for check in checks if not check["ok"]]
    rows = [{**check, "": "ok" if check["ok"] else "LACKING"} for check in checks]
    return Answer({"ok": not errors, "errors": errors, "checks": checks}, lambda: table(rows, ["", "name", "says"]))


def alerts(args: argparse.Namespace) -> Answer:
    """Sends a marked test message to every channel; exit 1 when one of them fails."""
    from agent.alerting.alerts import test

    workspace = Workspace(args.workspace)
    told = test(workspace)
    if not told:
        return Answer([], "no channels: add apprise URLs to alerts.channels in homeostat.yaml")
    rows = [{**row, "": "ok" if row["ok"] else "FAILED"} for row in told]
    return Answer(told, lambda: table(rows, ["", "channel", "says"]), int(not all(row["ok"] for row in told)))


def completion(args: argparse.Namespace) -> Answer:
    """The script that makes a shell complete commands and options."""
    import shtab

    from agent.cli import build_parser

    script = shtab.complete(build_parser(), args.shell)
    return Answer({"shell": args.shell, "script": script}, script)
