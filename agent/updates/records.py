"""What the store keeps of a candidate: its measures, its verdicts, the rehearsal sample that stands with it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from agent.clock import rfc3339
from agent.store import Connection, insert, journal
from agent.tasks import task_of
from agent.updates.judge import Named
from agent.updates.material import Case
from agent.versions import registry

FORM = ("case_id", "domain", "label", "patient")


def add_measures(connection: Connection, version: str, facts: Mapping[str, Any]) -> None:
    """Adds to what is known of a version beside its verdicts."""
    row = connection.execute("SELECT measures FROM versions WHERE id = ?", (version,)).fetchone()
    known = {**json.loads(row["measures"] or "{}"), **facts}
    connection.execute("UPDATE versions SET measures = ? WHERE id = ?", (json.dumps(known), version))


def write_verdicts(connection: Connection, version: str, verdicts: Sequence[Named], at: datetime) -> None:
    """Replaces a version's verdicts by these, and journals them."""
    connection.execute("DELETE FROM verdicts WHERE version = :id", {"id": version})
    for named in verdicts:
        j = named.judgement
        low, high = j.interval or (None, None)
        insert(connection, "verdicts", version=version, gate=named.gate, role=named.role, verdict=str(j.verdict), n=j.n,
               before=j.before, after=j.after, low=low, high=high, margin=j.margin, needed=j.needed, says=j.says,
               at=rfc3339(at))  # fmt: skip
    says = {named.gate: str(named.judgement.verdict) for named in verdicts}
    journal.append(connection, "version_judged", at=at, by="homeostat", body={"version": version, "verdicts": says})


def supersede(connection: Connection, version: str, at: datetime) -> None:
    """A candidate that knows more labels takes the place of what was held for want of them."""
    for held in connection.execute("SELECT id FROM versions WHERE state = 'held'").fetchall():
        reason = f"{version} was made with more labels"
        registry.move(connection, held["id"], "rejected", by="homeostat", reason=reason, at=at)


def store_memory(connection: Connection, version: str, cases: Sequence[Case], *, size: int, seed: int) -> int:
    """Chooses and stores the rehearsal sample that stands with a version; returns its size."""
    from strategies.memory import balanced_by_domain

    ids, domains, labels, patients = ([case[name] for case in cases] for name in FORM)
    task = task_of(connection)
    labels = [task.group(label) for label in labels]
    kept = set(balanced_by_domain(ids, domains, labels, patients, size, seed))
    connection.execute("DELETE FROM memory WHERE version = ?", (version,))
    connection.executemany(
        "INSERT INTO memory (version, case_id, domain) VALUES (?, ?, ?)",
        [(version, case["case_id"], case["domain"]) for case in cases if case["case_id"] in kept],
    )
    return len(kept)
