"""One SQLite file (WAL, full fsync) and its transactions: every change of state is exactly one of them.

The standard library's sqlite3, because an SQL toolkit costs more CPU to import than `status` and `rollback` may take.
"""

from __future__ import annotations

import os
import sqlite3
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

from agent.errors import DiskFull, HomeostatError

SCHEMA_VERSION = 4

Connection = sqlite3.Connection


class Store:
    """Opens the workspace's database; SQLite's own lock orders the writers.

    Each thread of each process keeps one connection: to open one costs more than a transaction, and one that was opened
    before a fork must be neither used nor closed by the child.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._connections: dict[tuple[int, int], Connection] = {}

    @classmethod
    def create(cls, path: Path) -> Store:
        store = cls(path)
        schema = Path(__file__).with_name("schema.sql").read_text()
        try:
            with closing(store._connect()) as connection:
                connection.execute("PRAGMA journal_mode=WAL")
                connection.executescript(f"BEGIN;\n{schema}\nPRAGMA user_version={SCHEMA_VERSION};\nCOMMIT;")
        except sqlite3.OperationalError as error:
            raise _explained(error, path) from error
        return store

    @classmethod
    def open(cls, path: Path) -> Store:
        """Raises HomeostatError when there is no database, or another release wrote it."""
        if not path.is_file():
            raise HomeostatError(f"there is no workspace at {path.parent}: make one there with 'homeostat init'")
        store = cls(path)
        with store.read() as connection:
            found = connection.execute("PRAGMA user_version").fetchone()[0]
        if found != SCHEMA_VERSION:
            raise HomeostatError(
                f"{path} has schema version {found} and this program knows {SCHEMA_VERSION}: "
                "it was written by another release of homeostat; use that one, or upgrade this one"
            )
        return store

    @contextmanager
    def transaction(self) -> Iterator[Connection]:
        """Takes the write lock at once, commits at the end, rolls back on any exception. Transactions don't nest."""
        try:
            connection = self._connection()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise
        except sqlite3.DatabaseError as error:
            raise _explained(error, self.path) from error

    @contextmanager
    def read(self) -> Iterator[Connection]:
        """A connection for queries: each sees the last commit; execute BEGIN first for one snapshot of several."""
        try:
            connection = self._connection()
            within = connection.in_transaction
            try:
                yield connection
            finally:
                if connection.in_transaction and not within:
                    connection.execute("ROLLBACK")
        except sqlite3.DatabaseError as error:
            raise _explained(error, self.path) from error

    def close(self) -> None:
        """Closes the connection of this thread, as before the workspace's folder is moved or removed."""
        connection = self._connections.pop((os.getpid(), threading.get_ident()), None)
        if connection is not None:
            connection.close()

    def _connection(self) -> Connection:
        owner = (os.getpid(), threading.get_ident())
        if owner not in self._connections:
            self._connections[owner] = self._connect()
        return self._connections[owner]

    def _connect(self) -> Connection:
        connection = sqlite3.connect(self.path, timeout=30, isolation_level=None, check_same_thread=False)
        connection.row_factory = sqlite3.Row
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        return connection


def _explained(error: sqlite3.Error, path: Path) -> Exception:
    if isinstance(error, (sqlite3.IntegrityError, sqlite3.ProgrammingError)):
        return error  # a fault of ours, not of the user's disk: keep its traceback
    said = str(error)
    if "readonly" in said or "unable to open" in said:
        return HomeostatError(f"{path} can't be written ({said}): check the folder's permissions and mount")
    if "full" in said or "disk I/O" in said:
        return DiskFull(f"{path} can't be written ({said}): free space on its disk; nothing was changed")
    if "locked" in said:
        return HomeostatError(f"{path} was held by another process for more than 30 s: try again")
    if "malformed" in said or "not a database" in said:
        return HomeostatError(
            f"{path} is damaged ({said}): restore it from a backup; the versions beside it are intact"
        )
    return error


def insert(connection: Connection, table: str, **values: object) -> int:
    """Inserts one row; returns its rowid. Table and column names are ours, never a user's."""
    columns = ", ".join(values)
    marks = ", ".join(f":{column}" for column in values)
    return connection.execute(f"INSERT INTO {table} ({columns}) VALUES ({marks})", values).lastrowid or 0
