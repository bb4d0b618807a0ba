"""A workspace: one folder that holds one deployment whole, so that it may be copied or moved."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.clock import Clock, utc_now
from agent.errors import HomeostatError
from agent.store.database import Connection, Store

if TYPE_CHECKING:
    from agent.config import Config
    from agent.updates.jobs import Worker

FOLDERS = ("objects", "versions", "jobs", "inbox", "quarantine", "memory", "reports", "logs")


class Workspace:
    """Paths, the store, the configuration and the clock of one deployment; opened by every command.

    executor: starts the worker of a job's folder with so many threads; None: `agent.updates.jobs.spawn`.
    """

    def __init__(
        self, root: Path, clock: Clock = utc_now, executor: Callable[[Path, int], Worker] | None = None
    ) -> None:
        self.root = root.resolve()
        self.now = clock
        self.executor = executor

    @classmethod
    def create(cls, root: Path, clock: Clock = utc_now, key: bytes | None = None) -> Workspace:
        """Makes the folders and an empty store. Raises HomeostatError where a workspace is already.

        The pseudonyms' key is random; a benchmark gives its own, because their order decides who is rehearsed.
        """
        if (root / "homeostat.db").exists():
            raise HomeostatError(f"{root} is a workspace already: choose another folder with --workspace")
        for name in FOLDERS:
            (root / name).mkdir(parents=True, exist_ok=True)
        workspace = cls(root, clock)
        file = os.open(root / "key", os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        os.write(file, key or os.urandom(32))
        os.close(file)
        workspace.__dict__["store"] = Store.create(root / "homeostat.db")
        return workspace

    @cached_property
    def store(self) -> Store:
        return Store.open(self.root / "homeostat.db")

    @cached_property
    def config(self) -> Config:
        from agent.config import read_config

        return read_config(self.root / "homeostat.yaml")

    @cached_property
    def key(self) -> bytes:
        """The key of the patients' pseudonyms."""
        return (self.root / "key").read_bytes()

    @property
    def base(self) -> Path:
        return self.root / "base"

    def path(self, *parts: str) -> Path:
        return self.root.joinpath(*parts)


def get_setting(connection: Connection, key: str, default: Any = None) -> Any:
    """The value of a setting, or `default`."""
    found = connection.execute("SELECT value FROM settings WHERE key = :key", {"key": key}).fetchone()
    return default if found is None else json.loads(found["value"])


def put_setting(connection: Connection, key: str, value: Any) -> None:
    connection.execute(
        "REPLACE INTO settings (key, value) VALUES (:key, :value)", {"key": key, "value": json.dumps(value)}
    )


def write_atomically(path: Path, data: bytes) -> None:
    """Temp file beside it, fsync, rename, fsync of the folder: after a crash the old bytes or the new, never a mix."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError:
        temporary.unlink(missing_ok=True)  # on a full disk, half a file is what the next attempt lacks
        raise
    fsync_folder(path.parent)


def fsync_folder(folder: Path) -> None:
    """Makes the names in a folder durable."""
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextmanager
def exclusive(path: Path, refusal: str) -> Iterator[None]:
    """Holds an advisory lock on `path`, released by the kernel when the process dies. Raises HomeostatError if held."""
    import fcntl

    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HomeostatError(refusal) from None
        yield
