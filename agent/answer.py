"""What a command answers: one JSON value for programs, a few lines for people, and an exit code."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Answer:
    """`value` is printed with --json; `text` (a string, or a function that makes one) otherwise.

    exit_code: 0 done; 1 done, and the answer is no; 3 not enough evidence. Errors raise HomeostatError instead.
    """

    value: Any
    text: str | Callable[[], str]
    exit_code: int = 0


def table(rows: list[dict[str, Any]], columns: list[str]) -> str:
    """A plain aligned table; missing values are shown as a dash. Rich is too slow to import for `status`."""
    cells = [columns] + [["-" if row.get(c) is None else str(row[c]) for c in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return "\n".join("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells)
