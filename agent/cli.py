"""The command `homeostat`: reads the call, runs one handler, prints its answer, keeps the exit codes of the contract.

argparse and late imports, because `--help`, `status` and `rollback` have a budget of CPU time that an import of a
command-line toolkit alone would spend. The commands themselves are in `agent/commands/table.py`.
"""

from __future__ import annotations

import argparse
import errno
import importlib
import os
import sys
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

from agent.commands.table import COMMANDS, GROUPS
from agent.errors import HomeostatError

if TYPE_CHECKING:
    from agent.answer import Answer

WRONG, INTERRUPTED = 2, 130

DISK = {
    errno.ENOSPC: "free space on its disk; what was finished is kept",
    errno.EDQUOT: "raise the quota; what was finished is kept",
    errno.EROFS: "the file system is read-only; mount it writable",
    errno.EACCES: "check the permissions of it and its folder",
    errno.EPERM: "check the permissions of it and its folder",
}


class Parser(argparse.ArgumentParser):
    """argparse whose complaint is one sentence, told like every other error."""

    def error(self, message: str) -> NoReturn:
        raise HomeostatError(f"{message}; see '{self.prog} --help'")


class CommandParser(Parser):
    """Takes options between the words of a command too, as in `labels import --workspace DIR FILE`."""

    _intermixed = False

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        if self._intermixed:  # argparse's own way comes back here, for the options and then for the words
            return super().parse_known_args(args, namespace)
        self._intermixed = True
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._intermixed = False


class Grouped(argparse.RawDescriptionHelpFormatter):
    """Leaves out argparse's flat list of the commands: they stand in groups at the end of the page."""

    def add_argument(self, action: argparse.Action) -> None:
        if action.nargs != argparse.PARSER:
            super().add_argument(action)


class ShowVersion(argparse.Action):
    """Prints the release. The package's metadata is read only when somebody asks."""

    def __call__(self, parser: argparse.ArgumentParser, *_: Any) -> NoReturn:
        from importlib.metadata import version

        print(f"homeostat {version('homeostat')}")
        parser.exit()


def overview() -> str:
    """The commands in groups: what `homeostat --help` shows."""
    width = max(len(command.name) for command in COMMANDS)
    lines = []
    for group, commands in GROUPS.items():
        lines += [f"{group}:", *(f"  {c.name.ljust(width)}  {c.help}" for c in commands), ""]
    return "\n".join(lines) + "'homeostat COMMAND --help' tells the arguments of one."


def build_parser() -> argparse.ArgumentParser:
    """The whole command line. The common options are taken before the command and after it."""
    common = CommandParser(add_help=False, argument_default=argparse.SUPPRESS)
    common.add_argument("--workspace", metavar="DIR", help="default: $HOMEOSTAT_WORKSPACE, else the current folder")
    common.add_argument("--json", action="store_true", help="one JSON value on standard output")
    common.add_argument("--debug", action="store_true", help="tracebacks on standard error")
    parser = Parser(
        prog="homeostat",
        usage="homeostat COMMAND [ARGS] [--workspace DIR] [--json]",
        description="The continual-learning deployment agent for medical-imaging models.",
        epilog=overview(),
        formatter_class=Grouped,
        parents=[common],
        allow_abbrev=False,
    )
    parser.add_argument("--version", action=ShowVersion, nargs=0, help="print the release and exit")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, prog="homeostat", parser_class=CommandParser
    )
    for command in COMMANDS:
        sub = commands.add_parser(
            command.name,
            help=command.help,
            description=f"{command.help[0].upper()}{command.help[1:]}.",
            epilog=f"--json answers with at least {command.answers}" if command.answers else None,
            parents=[common],
            allow_abbrev=False,
        )
        for flags, options in command.arguments:
            sub.add_argument(*flags, **options)
        sub.set_defaults(run=command.run)
    return parser


def parse(argv: list[str]) -> argparse.Namespace:
    """Raises HomeostatError for a wrong call."""
    named = next((word for word in argv if not word.startswith("-")), None)
    if argv and argv[0] == named and named not in {command.name for command in COMMANDS}:
        from difflib import get_close_matches

        close = get_close_matches(named, [command.name for command in COMMANDS], n=1)
        hint = f"did you mean '{close[0]}'? See" if close else "see"
        raise HomeostatError(f"there is no command '{named}': {hint} 'homeostat --help'")
    parser = build_parser()
    args, unknown = parser.parse_known_args(argv, argparse.Namespace(workspace=None, json=False, debug=False))
    if unknown and not args.run.startswith("later:"):
        parser.error(f"'{args.command}' has no {unknown[0]}")
    args.workspace = Path(args.workspace or os.environ.get("HOMEOSTAT_WORKSPACE") or ".")
    return args


def main(argv: list[str] | None = None) -> int:
    """Runs one command; returns the exit code of the contract."""
    argv = sys.argv[1:] if argv is None else argv
    debug = "--debug" in argv
    workspace = Path()
    try:
        args = parse(argv)
        workspace = args.workspace
        module, function = args.run.split(":")
        # What a library prints by itself must not mix with the answer.
        with redirect_stdout(sys.stderr):
            answer = getattr(importlib.import_module(f"agent.commands.{module}"), function)(args)
        return deliver(answer, as_json=args.json)
    except HomeostatError as error:
        return fail(str(error), error.exit_code, debug)
    except KeyboardInterrupt:
        return fail("interrupted; what was finished is kept", INTERRUPTED, debug)
    except OSError as error:
        if error.errno not in DISK:
            return fail(_unexpected(error, workspace), WRONG, debug)
        return fail(f"{error.filename or 'the disk'}: {error.strerror}: {DISK[error.errno]}", WRONG, debug)
    except Exception as error:
        return fail(_unexpected(error, workspace), WRONG, debug)


def deliver(answer: Answer, *, as_json: bool) -> int:
    """Prints the answer. A reader that has gone (`| head`) changes nothing about what was done, nor about its code."""
    try:
        if not as_json:
            sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]
        print(answer.render(as_json=as_json), flush=True)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return answer.exit_code


def fail(sentence: str, exit_code: int, debug: bool) -> int:
    """One sentence on standard error; the traceback before it, where it was asked for."""
    if debug:
        import traceback

        traceback.print_exc()
    print(f"homeostat: {' '.join(sentence.split())}", file=sys.stderr)
    return exit_code


def _unexpected(error: Exception, workspace: Path) -> str:
    says = f"a fault of the program ({type(error).__name__})"
    if (workspace / "homeostat.db").is_file():
        from agent.faults import record

        try:
            where = record(error, workspace)
        except OSError as full:
            return f"{says}, which couldn't be recorded ({full.strerror}): run it again with --debug, and report it"
        return f"{says}, recorded in {where}: report it, or see all of it with --debug"
    return f"{says}: run it again with --debug, and report what it shows"


if __name__ == "__main__":
    sys.exit(main())
