"""The record of the program's own faults: where in the code they happened, and nothing of the data they happened on."""

from __future__ import annotations

import traceback
from pathlib import Path

from agent.clock import rfc3339, utc_now


def record(error: BaseException, workspace: Path) -> Path:
    """Appends the fault to logs/faults.log of the workspace; returns that file. Raises OSError.

    Only types and places in the code are written: the message of an exception may quote a file's or a patient's name.
    """
    path = workspace / "logs" / "faults.log"
    path.parent.mkdir(exist_ok=True)
    lines = [f"{rfc3339(utc_now())}\n"]
    cause: BaseException | None = error
    while cause is not None:
        lines += [f"{type(cause).__module__}.{type(cause).__name__}\n", *traceback.format_tb(cause.__traceback__)]
        cause = cause.__cause__ or cause.__context__
    with path.open("a", encoding="utf-8") as file:
        file.writelines([*lines, "\n"])
    return path
