"""A little disk space kept back while something can be rolled back, so that a rollback works on a full disk."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeVar

from agent.errors import DiskFull
from agent.workspace import Workspace, write_atomically

NAME = ".reserve"
SIZE = 1 << 20  # bytes: several times what the transaction, the write-ahead log's index and live.json take

T = TypeVar("T")


def keep(workspace: Workspace) -> None:
    """Sets the space aside, unless it is already. Raises DiskFull where there is none."""
    if workspace.path(NAME).is_file():
        return
    try:
        write_atomically(workspace.path(NAME), bytes(SIZE))
    except OSError as error:
        raise DiskFull(
            f"{workspace.root} lacks the {SIZE >> 20} MiB that a way back may need ({error.strerror}): "
            "make room, then promote"
        ) from error


def spending(workspace: Workspace, act: Callable[[], T]) -> T:
    """What `act` returns; where the disk is full, the space is given up and `act` tried once more."""
    try:
        return act()
    except DiskFull:
        workspace.path(NAME).unlink(missing_ok=True)
        return act()
