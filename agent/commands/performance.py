"""performance: what late labels say of the live version."""

from __future__ import annotations

import argparse
from typing import Any

from agent.answer import Answer, table
from agent.workspace import Workspace


def performance(args: argparse.Namespace) -> Answer:
    """Exit code 3 while too few patients have a label."""
    from agent.drift.performance import performance as of
    from agent.drift.performance import sentence

    found = of(Workspace(args.workspace), args.last)
    return Answer(found, lambda: _text(found, sentence(found)), exit_code=0 if found["measured"] else 3)


def _text(found: dict[str, Any], says: str) -> str:
    rows = [
        {"weighing": name, "measure": measure, "value": one["value"], "low": one["interval"][0],
         "high": one["interval"][1], "n": one.get("n", found[name]["n"])}
        for name in ("measured", "weighted")
        if found[name]
        for measure, one in _flat(found[name])
    ]  # fmt: skip
    return "\n\n".join([says, table(rows, ["weighing", "measure", "value", "low", "high", "n"])]) if rows else says


def _flat(measured: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    whole = [(name, one) for name, one in measured.items() if isinstance(one, dict) and "value" in one]
    by_class = measured.get("by_class", {})
    return whole + [(f"{k} {name}", one) for k, both in by_class.items() for name, one in both.items()]
