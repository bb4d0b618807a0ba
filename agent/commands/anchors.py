"""anchors: who judges, how often they were looked at, and what is left to decide with them. No numpy, no torch."""

from __future__ import annotations

import argparse
from typing import Any

from agent.answer import Answer, table
from agent.workspace import Workspace

COLUMNS = ["domain", "generation", "patients", "looks", "alpha", "alpha_left", "decisions_left", "opened_at"]
LEAST = 0.001  # alpha of a look below which no set of patients at hand could decide anything


def anchors(args: argparse.Namespace) -> Answer:
    """Every generation of every domain; a generation that was followed by another decides nothing more."""
    with Workspace(args.workspace).store.read() as connection:
        rows = connection.execute(
            """SELECT s.domain, s.generation, s.n_patients AS patients, s.alpha, s.spent, s.opened_at,
                      (SELECT count(*) FROM looks l WHERE l.domain = s.domain AND l.generation = s.generation) AS looks,
                      s.generation = max(s.generation) OVER (PARTITION BY s.domain) AS is_current
               FROM anchor_sets s ORDER BY s.domain, s.generation"""
        ).fetchall()
    value = [_row(dict(row)) for row in rows]
    return Answer(value, lambda: table(value, COLUMNS))


def _row(row: dict[str, Any]) -> dict[str, Any]:
    left = max(0.0, row["alpha"] - row.pop("spent"))
    current = row.pop("is_current")
    return {**row, "alpha_left": round(left, 6), "decisions_left": decisions_left(left) if current else 0}


def decisions_left(alpha_left: float) -> int:
    """Looks that fail until no level above LEAST is left: each takes half of what there is (monitors.spend). One that
    passes takes none."""
    looks = 0
    while alpha_left / 2 >= LEAST:
        alpha_left /= 2
        looks += 1
    return looks
