"""What a command answers: one JSON value for programs, a few lines for people, and an exit code."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
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

    def render(self, *, as_json: bool) -> str:
        """What goes to standard output. A measure that is undefined (NaN) is null in JSON, which has no NaN."""
        if as_json:
            return json.dumps(_defined(self.value), allow_nan=False)
        return self.text if isinstance(self.text, str) else self.text()


def _defined(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _defined(item) for key, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_defined(item) for item in value]
    return value


def table(rows: list[dict[str, Any]], columns: list[str]) -> str:
    """A plain aligned table; missing values are shown as a dash. Rich is too slow to import for `status`."""
    cells = [columns] + [[_cell(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in cells) for i in range(len(columns))]
    return "\n".join(
        "  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)).rstrip() for line in cells
    )


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
