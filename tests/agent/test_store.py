"""The store: one transaction per change, connections that survive threads and forks, a journal that can't be edited."""

from __future__ import annotations

import os
import sqlite3
import threading
from datetime import UTC, datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import HomeostatError
from agent.store import Store, journal
from agent.store.database import SCHEMA_VERSION
from agent.workspace import get_setting, put_setting

NOW = datetime(2026, 3, 1, tzinfo=UTC)


@pytest.fixture
def store(tmp_path):
    return Store.create(tmp_path / "homeostat.db")


def read(store, key):
    with store.read() as connection:
        return get_setting(connection, key)


def test_a_transaction_that_fails_leaves_nothing(store):
    """Row and event are undone together, and the next transaction goes on as if it had not been."""
    with pytest.raises(ZeroDivisionError), store.transaction() as connection:
        put_setting(connection, "trust", "caution")
        journal.append(connection, "trust_changed", at=NOW, by="ana")
        raise ZeroDivisionError
    assert read(store, "trust") is None
    with store.transaction() as connection:
        assert journal.append(connection, "trust_changed", at=NOW, by="ana") == 1


def test_transactions_do_not_nest(store):
    """A function that opens its own transaction inside another one's fails loudly, and both are undone."""
    with pytest.raises(sqlite3.OperationalError), store.transaction() as connection:
        put_setting(connection, "outer", 1)
        with store.transaction():
            pass
    assert read(store, "outer") is None


def test_a_snapshot_does_not_outlive_its_read(store):
    """A reader that opened a snapshot and forgot it doesn't keep this thread from seeing later commits."""
    with store.read() as connection:
        connection.execute("BEGIN")
        get_setting(connection, "n")
    with store.transaction() as connection:
        put_setting(connection, "n", 1)
    assert read(store, "n") == 1


def test_threads_each_have_a_connection_and_no_update_is_lost(store):
    """Eight threads that count one number up in transactions of their own end at the right number."""
    with store.transaction() as connection:
        put_setting(connection, "n", 0)

    def count():
        for _ in range(10):
            with store.transaction() as connection:
                put_setting(connection, "n", get_setting(connection, "n") + 1)

    threads = [threading.Thread(target=count) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert read(store, "n") == 80


def test_a_child_process_uses_a_connection_of_its_own(store):
    """After a fork both sides go on with the same Store, in the middle of whatever the parent had open."""
    with store.transaction() as connection:
        put_setting(connection, "parent", 1)
        child = os.fork()
        if not child:
            seen = read(store, "parent")  # not committed yet: a connection of its own sees nothing of it
            os._exit(0 if seen is None else 1)
        assert os.waitpid(child, 0)[1] == 0
    child = os.fork()
    if not child:
        with store.transaction() as connection:
            put_setting(connection, "child", get_setting(connection, "parent") + 1)
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    assert (read(store, "parent"), read(store, "child")) == (1, 2)


def test_another_release_and_a_missing_store_are_told(store, tmp_path):
    """Neither is a traceback: the sentence names the file and the way out, for older and newer ones alike."""
    for other in (SCHEMA_VERSION - 1, SCHEMA_VERSION + 1):
        with store.read() as connection:
            connection.execute(f"PRAGMA user_version = {other}")
        store.close()
        with pytest.raises(HomeostatError, match="another release"):
            Store.open(store.path)
    with pytest.raises(HomeostatError, match="homeostat init"):
        Store.open(tmp_path / "nowhere" / "homeostat.db")


def test_what_is_no_database_is_told(tmp_path):
    """A file of other bytes under the database's name is damage, and is called so."""
    path = tmp_path / "homeostat.db"
    path.write_bytes(b"not a database at all" * 100)
    with pytest.raises(HomeostatError, match="damaged"):
        Store.open(path)


EVENTS = st.lists(st.tuples(st.text(max_size=8), st.dictionaries(st.text(max_size=4), st.integers())), min_size=1)


@given(
    events=EVENTS,
    where=st.integers(0, 1000),
    column=st.sampled_from(["at", "event", "by", "body", "hash", "head", None]),
)
def test_any_edit_of_the_journal_breaks_its_chain(events, where, column):
    """Whichever cell is changed, or an event or the head removed, the chain says so; untouched, it holds."""
    connection = sqlite3.connect(":memory:")
    connection.row_factory = sqlite3.Row
    connection.execute("CREATE TABLE journal (seq INTEGER PRIMARY KEY, at, event, by, body, hash)")
    connection.execute("CREATE TABLE journal_head (id INTEGER PRIMARY KEY, seq, hash)")
    for event, body in events:
        journal.append(connection, event, at=NOW, by="ana", body=body)
    assert journal.verify(connection) == []

    seq = where % len(events) + 1
    if column == "head":
        connection.execute("DELETE FROM journal_head")
    elif column is None:
        connection.execute("DELETE FROM journal WHERE seq = ?", [seq])
    else:
        connection.execute(f"UPDATE journal SET {column} = {column} || 'x' WHERE seq = ?", [seq])
    assert journal.verify(connection) != []


CELLS = st.tuples(*[st.text('a\n",', max_size=3)] * 4)


@given(one=CELLS, other=CELLS)
def test_events_that_differ_hash_differently(one, other):
    """Text can't be moved from one cell into the next without changing the hash."""
    cells = ("at", "event", "by", "body")
    hashes = [journal.chain(journal.GENESIS, {"seq": 1, **dict(zip(cells, row, strict=True))}) for row in (one, other)]
    assert (hashes[0] == hashes[1]) == (one == other)
