"""The append-only, hash-chained record of what happened. An event is written in the transaction that it reports."""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime
from hashlib import sha256
from typing import Any

from agent.clock import rfc3339
from agent.store.database import Connection, insert

GENESIS = "0" * 64


def append(connection: Connection, event: str, *, at: datetime, by: str, body: Mapping[str, Any] | None = None) -> int:
    """Writes one event in the past tense ("version_promoted"); no patient data in `body`. Returns its number."""
    head = connection.execute("SELECT seq, hash FROM journal_head").fetchone()
    seq, previous = (head["seq"] + 1, head["hash"]) if head else (1, GENESIS)
    row = {"seq": seq, "at": rfc3339(at), "event": event, "by": by, "body": canonical(body or {})}
    row["hash"] = chain(previous, row)
    insert(connection, "journal", **row)
    connection.execute("REPLACE INTO journal_head (id, seq, hash) VALUES (1, :seq, :hash)", row)
    return seq


def chain(previous: str, row: Mapping[str, Any]) -> str:
    """The hash of an event: sha256 over the hash before it and its own cells, as one canonical JSON list."""
    cells = [previous, *(row[name] for name in ("seq", "at", "event", "by", "body"))]
    return sha256(canonical(cells).encode()).hexdigest()


def canonical(value: Any) -> str:
    """One text for one value: JSON with sorted keys and no spaces. Raises ValueError on NaN."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def verify(connection: Connection) -> list[str]:
    """Every break of the chain as one sentence; empty when it holds."""
    problems, previous, last = [], GENESIS, 0
    for row in connection.execute("SELECT * FROM journal ORDER BY seq"):
        if row["seq"] != last + 1:
            problems.append(f"event {last + 1} is missing")
        if row["hash"] != chain(previous, dict(row)):
            problems.append(f"event {row['seq']} was changed after it was written")
        previous, last = row["hash"], row["seq"]
    head = connection.execute("SELECT seq, hash FROM journal_head").fetchone()
    end, mark = (head["seq"], head["hash"]) if head else (0, GENESIS)
    if (end, mark) != (last, previous):
        problems.append(f"the journal ends at event {last} and its head says {end}")
    return problems
