"""What the documentation says of the commands is what the program has."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest

from agent.commands.table import COMMANDS

ROOT = Path(__file__).parents[2]
CONTRACT = """
    demo check fit init run feed labels status alarms update versions show diff approve reject promote rollback history
    resume suspend anchors predict evaluate verify journal erase validate doctor report export alerts bench
""".split()  # noqa: SIM905


def test_every_command_of_the_contract_exists() -> None:
    """No command that people script against is missing, and none is listed twice."""
    names = [command.name for command in COMMANDS]
    assert set(CONTRACT) <= set(names)
    assert len(names) == len(set(names)) >= 34


@pytest.mark.parametrize("name", CONTRACT)
def test_every_command_is_documented(name: str) -> None:
    """A person who reads docs/commands.md meets every command."""
    assert f"`homeostat {name}" in (ROOT / "docs" / "commands.md").read_text(encoding="utf-8")


def test_commands_page_is_current() -> None:
    """The page says what the table says; `make docs` writes it anew."""
    made = runpy.run_path(str(ROOT / "docs" / "make_commands.py"))["page"]()
    assert (ROOT / "docs" / "commands.md").read_text(encoding="utf-8") == made
