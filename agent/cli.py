"""The command `homeostat`: the table of its commands, and the frame that runs one.

argparse and late imports, because `--help`, `status` and `rollback` have a budget of CPU time that an import of a
command-line toolkit alone would spend. A new command is one row here and one function in `agent/commands/`.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.errors import HomeostatError

Argument = tuple[tuple[str, ...], dict[str, Any]]


@dataclass(frozen=True)
class Command:
    name: str
    help: str
    run: str  # "module:function" below agent.commands
    arguments: tuple[Argument, ...] = ()


def arg(*flags: str, **options: Any) -> Argument:
    return flags, options


BY = (
    arg("--by", required=True, metavar="NAME", help="who decides; goes into the record"),
    arg("--reason", required=True, metavar="TEXT", help="why; goes into the record"),
)
WHERE = arg("--where", action="append", default=[], metavar="COLUMN=VALUE", help="take part of the folder: = or !=; repeatable")
VERSION = arg("version", metavar="VERSION", help="v3, or champion, challenger, shadow, previous")
SEED = arg("--seed", type=int, default=0, metavar="S", help="same seed, same result")

COMMANDS: tuple[Command, ...] = (
    Command("demo", "the whole story on generated or your own images, in minutes", "demo:demo", (
        arg("--keep", metavar="DIR", help="keep the workspace there"),
        arg("--data", metavar="DIR", help="your own data folder"),
        arg("--home", metavar="COLUMN=VALUE", help="the cases that the model was made for"),
        arg("--new", metavar="COLUMN=VALUE", help="the cases that come after the change"),
    )),
    Command("fit", "train a base model on a labelled data folder", "deploy:fit", (
        arg("--data", required=True, metavar="DIR"), WHERE,
        arg("--task", required=True, choices=("classification", "segmentation", "detection")),
        arg("--out", required=True, metavar="BASE"),
        arg("--backbone", metavar="NAME_OR_PATH", help="an architecture, a local folder, or a weights file"),
        arg("--pretrain", choices=("mae", "none"), default="none"),
        arg("--epochs", type=int, metavar="N"), SEED,
    )),
    Command("init", "make a workspace around a base model", "deploy:init", (
        arg("--model", required=True, metavar="BASE"), arg("--reference", required=True, metavar="DIR"), WHERE,
        arg("--config", metavar="FILE"),
        arg("--external", action="store_true", help="a black box of which only outputs arrive"),
        arg("--outputs", metavar="NAME:N"),
    )),
    Command("run", "the daemon: observe, detect, decide, update, judge, watch", "operate:run", (
        arg("--until-idle", action="store_true", help="work off all that is there, then end"),
    )),
    Command("feed", "hand a data folder to the intake", "intake:feed", (
        arg("dir", metavar="DIR"), WHERE, arg("--no-labels", action="store_true", help="leave the labels in it aside"),
    )),
    Command("labels", "late labels in; later, the cases most worth labelling out", "intake:labels", (
        arg("action", choices=("import", "wanted")), arg("file", nargs="?", metavar="FILE"),
        arg("--n", type=int, metavar="N"),
    )),
    Command("status", "what is live, and what to think of it", "status:status"),
    Command("alarms", "the alarms, oldest first; or acknowledge one", "status:alarms", (
        arg("action", nargs="?", choices=("ack",)), arg("id", nargs="?", type=int, metavar="ID"),
        arg("--all", action="store_true", help="closed ones too"), arg("--by", metavar="NAME"),
    )),
    Command("update", "ask for an update by hand: same plan, same gates", "operate:update", (
        arg("--recipe", metavar="NAME"), arg("--dry-run", action="store_true"),
    )),
    Command("versions", "every version, oldest first", "versions:versions"),
    Command("show", "one version with its verdicts", "versions:show", (VERSION,)),
    Command("approve", "let a judged candidate be promoted", "versions:approve", (VERSION, *BY)),
    Command("reject", "refuse a candidate for good", "versions:reject", (VERSION, *BY)),
    Command("promote", "make an approved version live", "versions:promote", (VERSION, *BY)),
    Command("rollback", "live goes back to the previous, or the named, version", "versions:rollback", (
        arg("--to", metavar="VERSION"), *BY,
    )),
    Command("history", "what was live when, put there by whom and why", "versions:history", (
        arg("--at", metavar="TIME"),
    )),
    Command("resume", "automatic promotion goes on, trust back to normal", "status:resume", BY),
    Command("suspend", "mark today's answers as not to be trusted", "status:suspend", BY),
    Command("predict", "answers of the live, or the named, version", "predict:predict", (
        arg("files", nargs="+", metavar="FILE"), arg("--version", metavar="V"),
    )),
    Command("evaluate", "measure a version on a labelled data folder", "predict:evaluate", (
        arg("dir", metavar="DIR"), WHERE, arg("--version", metavar="V"),
    )),
    Command("verify", "digests, the journal's chain, the pointer; changes nothing", "verify:verify"),
    Command("journal", "the events", "status:journal", (arg("--since", type=int, default=0, metavar="N"),)),
    Command("validate", "all errors of a config at once", "check:validate", (
        arg("config", nargs="?", metavar="CONFIG"), arg("--schema", action="store_true", help="print the JSON Schema"),
    )),
    Command("doctor", "what this machine has and lacks", "check:doctor"),
    Command("alerts", "send a marked test message to every channel", "check:alerts", (arg("action", choices=("test",)),)),
    Command("bench", "the project's own benchmarks", "bench:bench", (
        arg("name", nargs="?", metavar="NAME"), arg("--list", action="store_true"),
        arg("--data", metavar="DIR", help="the folder that holds the data folders"), SEED,
        arg("--input", metavar="DIR", help="files that somebody else made"), arg("--full", action="store_true"),
    )),
    Command("completion", "print the completion script of a shell", "check:completion", (
        arg("shell", choices=("bash", "zsh", "tcsh")),
    )),
    Command("check", "(later) has a data folder drifted from another", "later:check", (arg("rest", nargs="*"),)),
    Command("anchors", "(later) alpha left per anchor set", "later:anchors", (arg("rest", nargs="*"),)),
    Command("plan", "(later) what the plan would do", "later:plan", (arg("rest", nargs="*"),)),
    Command("diff", "(later) what differs between two versions", "later:diff", (arg("rest", nargs="*"),)),
    Command("report", "(later) the model card of a version", "later:report", (arg("rest", nargs="*"),)),
    Command("export", "(later) the change record of a version", "later:export", (arg("rest", nargs="*"),)),
    Command("erase", "(later) remove a patient", "later:erase", (arg("rest", nargs="*"),)),
)


def build_parser() -> argparse.ArgumentParser:
    common = argparse.ArgumentParser(add_help=False)
    common.add_argument("--workspace", metavar="DIR", help="default: $HOMEOSTAT_WORKSPACE, else the current folder")
    common.add_argument("--json", action="store_true", help="one JSON value on standard output")
    common.add_argument("--debug", action="store_true", help="tracebacks")
    parser = argparse.ArgumentParser(prog="homeostat", description="The continual-learning deployment agent.")
    commands = parser.add_subparsers(dest="command", metavar="COMMAND", required=True)
    for command in COMMANDS:
        sub = commands.add_parser(command.name, help=command.help, description=command.help, parents=[common])
        for flags, options in command.arguments:
            sub.add_argument(*flags, **options)
        sub.set_defaults(run=command.run)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit code of the contract."""
    args = build_parser().parse_args(argv)
    args.workspace = Path(args.workspace or os.environ.get("HOMEOSTAT_WORKSPACE") or ".")
    module, function = args.run.split(":")
    try:
        answer = getattr(importlib.import_module(f"agent.commands.{module}"), function)(args)
    except HomeostatError as error:
        if args.debug:
            raise
        print(f"homeostat: {error}", file=sys.stderr)
        return error.exit_code
    except KeyboardInterrupt:
        print("homeostat: interrupted; what was finished is kept", file=sys.stderr)
        return 130
    if args.json:
        print(json.dumps(answer.value, ensure_ascii=False, allow_nan=False))
    else:
        print(answer.text if isinstance(answer.text, str) else answer.text())
    return answer.exit_code


if __name__ == "__main__":
    sys.exit(main())
