"""What later parts bring, said in one sentence."""

from __future__ import annotations

import argparse
from typing import NoReturn

from agent.errors import HomeostatError

LATER = {
    "plan": "asking the plan what it would do",
    "diff": "comparing two versions",
    "export": "the change record in PCCP order",
    "erase": "removing a patient",
    "--pretrain mae": "self-supervised pre-training",
    "--external": "deploying a black box of which only outputs arrive",
}


def later(name: str) -> HomeostatError:
    """The error to raise for something in LATER."""
    return HomeostatError(f"'{name}' is not in this release: {LATER[name]} comes with a later one, see CHANGELOG.md")


def refuse(args: argparse.Namespace) -> NoReturn:
    """The handler of the commands that later parts bring."""
    raise later(args.command)
