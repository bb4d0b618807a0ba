"""The cases most worth labelling: some where doubt is greatest, and some drawn at random, so that what the labels say
can be said of all cases.

Each call takes up the cases that have been answered since the last one, asks for some of them outright (*active*) and
draws others from the rest by lot (*audit*). What an active case says is said for itself, what an audit case says for
all that the lot might have drawn: `probability` is 1, or that of being drawn (Horvitz and Thompson 1952).
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from agent.clock import rfc3339
from agent.drift import episodes
from agent.drift.domains import known, stream_of
from agent.store import Connection, insert, journal
from agent.workspace import Workspace, get_setting, put_setting

DEFAULT = 20
AUDIT = 0.25  # share of a list that is drawn by lot
SEEN = "labels_asked_up_to"  # setting: number of the last observation that a call took up
WHY_AUDIT = "drawn by lot: what it says is said for all cases"


def wanted(workspace: Workspace, n: int = DEFAULT) -> list[dict[str, str]]:
    """[{"case_id", "why"}], n at most: what was asked for and has no label yet, then fresh cases; one transaction."""
    with workspace.store.transaction() as connection:
        asked = _open(connection)[:n]
        left = n - len(asked)
        if left > 0:
            asked += _ask(connection, workspace, left)
    return asked


def _open(connection: Connection) -> list[dict[str, str]]:
    rows = connection.execute(
        """SELECT a.case_id, a.why FROM asked a
           WHERE NOT EXISTS (SELECT 1 FROM labels l WHERE l.case_id = a.case_id AND l.kind = 'class')
           ORDER BY a.rowid"""
    )
    return [dict(row) for row in rows]


def _ask(connection: Connection, workspace: Workspace, n: int) -> list[dict[str, str]]:
    fresh = _fresh(connection)
    if not fresh:
        return []
    by_lot = max(1, round(AUDIT * n))
    is_known, alarms = known(connection), _alarms(connection)
    doubts = sorted(((_doubt(row, is_known, alarms), row) for row in fresh), key=lambda pair: pair[0][0])
    active = [(row, why) for (_, why), row in doubts[: n - by_lot]]
    rest = [row for _, row in doubts[n - by_lot :]]
    last = max(row["number"] for row in fresh)
    lot = random.Random(f"{workspace.key.hex()} {last}")  # noqa: S311 - a fair draw that a second run repeats
    drawn = lot.sample(rest, min(by_lot, len(rest)))
    now = workspace.now()
    for row, why in active:
        insert(connection, "asked", case_id=row["case_id"], arm="active", probability=1.0, why=why, at=rfc3339(now))
    for row in drawn:
        insert(connection, "asked", case_id=row["case_id"], arm="audit", probability=len(drawn) / len(rest),
               why=WHY_AUDIT, at=rfc3339(now))  # fmt: skip
    put_setting(connection, SEEN, last)
    body = {"active": len(active), "audit": len(drawn), "of": len(fresh)}
    journal.append(connection, "labels_asked", at=now, by="labels wanted", body=body)
    chosen = [*active, *((row, WHY_AUDIT) for row in drawn)]
    return [{"case_id": row["case_id"], "why": why} for row, why in chosen]


def _fresh(connection: Connection) -> list[Mapping[str, Any]]:
    """Answered live cases that no call has taken up, without a label."""
    return connection.execute(
        """SELECT o.number, o.case_id, o.scores, c.domain FROM observations o JOIN cases c ON c.case_id = o.case_id
           WHERE o.role = 'live' AND o.number > :seen AND o.abstained = 0
             AND NOT EXISTS (SELECT 1 FROM labels l WHERE l.case_id = o.case_id AND l.kind = 'class')
           ORDER BY o.number""",
        {"seen": get_setting(connection, SEEN, 0)},
    ).fetchall()


def _alarms(connection: Connection) -> dict[str, tuple[int, int]]:
    """{stream: (alarm, its onset)} of the open shifts."""
    return {
        alarm["stream"]: (alarm["id"], alarm["since_case"] or alarm["opened_at_case"])
        for alarm in episodes.open_alarms(connection)
        if episodes.kind_of(alarm["shift"], alarm["stream"]) in episodes.OF_SHIFT
    }


def _doubt(
    row: Mapping[str, Any], is_known: set[str], alarms: Mapping[str, tuple[int, int]]
) -> tuple[tuple[bool, float], str]:
    """What a case is ordered by, and why it is asked for: those of an open alarm first, then the unsure answers."""
    import numpy as np

    top = float(np.frombuffer(row["scores"], "<f4").max())
    alarm, onset = alarms.get(stream_of(row["domain"], is_known), (0, 0))
    if alarm and row["number"] >= onset:
        return (False, top), f"of alarm {alarm}: its labels end it, or show harm"
    return (True, top), "the answer is unsure"


def arm_of(connection: Connection, case_id: str) -> tuple[str, float] | None:
    """(arm, probability) with which a label was asked for; None where nobody asked."""
    row = connection.execute("SELECT arm, probability FROM asked WHERE case_id = :id", {"id": case_id}).fetchone()
    return (row["arm"], row["probability"]) if row else None
