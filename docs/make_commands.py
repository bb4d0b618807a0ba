"""Writes docs/commands.md from the table of commands: `make docs` runs it, and a test keeps the page current."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

from agent.commands.table import GROUPS, Argument, Command

PAGE = Path(__file__).with_name("commands.md")

HEAD = """# Commands

This page is written by `make docs` from `agent/commands/table.py`.

`homeostat COMMAND [ARGS] [--workspace DIR] [--json] [--debug]`; the workspace is `--workspace`, else
`$HOMEOSTAT_WORKSPACE`, else the current folder. With `--json` exactly one JSON value goes to standard output, and an
undefined number is `null`; all else goes to standard error. `homeostat completion bash` prints the shell's completion.

| exit code | means |
| --- | --- |
| 0 | done |
| 1 | done, and the answer is no: a gate failed, damage was found, there is nothing to roll back to |
| 2 | the call, the config or the input is wrong; one sentence on standard error says what and the way out |
| 3 | not enough evidence to answer |
| 130 | interrupted; what was finished is kept |
"""


def page() -> str:
    """The whole page."""
    parts = [HEAD]
    for group, commands in GROUPS.items():
        parts += [f"## {group}\n", *map(section, commands)]
    return "\n".join(parts)


def section(command: Command) -> str:
    """One command: how it is called, what it does, its arguments, its answer."""
    call = " ".join(["homeostat", command.name, *(usage(argument) for argument in command.arguments)])
    lines = [f"### {command.name}\n", f"`{call}`\n", f"{command.help[0].upper()}{command.help[1:]}.\n"]
    told = [argument for argument in command.arguments if argument[1].get("help")]
    if told:
        lines += ["| argument | means |", "| --- | --- |"]
        lines += [f"| `{usage(argument, bare=True)}` | {meaning(argument)} |" for argument in told] + [""]
    if command.answers:
        lines.append(f"`--json` answers with at least `{command.answers}`\n")
    return "\n".join(lines)


def usage(argument: Argument, *, bare: bool = False) -> str:
    """As in a synopsis: optional ones in brackets, repeatable ones with dots."""
    flags, options = argument
    value = options.get("metavar") or "|".join(options.get("choices", ()))
    positional = not flags[0].startswith("-")
    word = value if positional else f"{flags[0]} {value}".strip()
    if bare:
        return word.replace("|", "\\|")
    if options.get("nargs") in ("+", "*") or options.get("action") == "append":
        word += " ..."
    optional = options.get("nargs") in ("?", "*") if positional else not options.get("required")
    return f"[{word}]" if optional else word


def meaning(argument: Argument) -> str:
    """Its help, and the default where that says something."""
    _, options = argument
    default = options.get("default")
    return options["help"] + (f" (default: {default})" if default not in (None, [], False) else "")


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
