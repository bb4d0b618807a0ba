"""The cases most worth labelling: of open alarms, else where doubt is greatest; and always some drawn at random.

A quarter of what a call asks for is drawn by lot (*audit*) among all cases that were answered since the last call,
labelled already or not, before anybody looks at the answers: what such a case says is said for all that its lot might
have drawn, and `probability` is that of being drawn (Horvitz and Thompson 1952). The rest are drawn by lot among the
cases of open alarms (*alarm*), because their end, and harm, are judged by what a fair sample shows; without one they
are the least sure answers (*active*).
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from datetime import datetime, timedelta
from typing import Any

from agent.clock import rfc3339
from agent.drift import episodes
from agent.drift.domains import known, stream_of
from agent.store import Connection, insert, journal
from agent.tasks import task_of
from agent.workspace import Workspace, get_setting, put_setting

DEFAULT = 20
AUDIT = 0.25  # share of a list that is drawn among all
PATIENCE = timedelta(days=60)  # after which a label that was asked for is no longer waited for
SEEN = "labels_asked_up_to"  # setting: number of the last observation that a call took up
WHY_AUDIT = "drawn by lot: what it says is said for all cases"
WHY_ALARM = "its labels end it, or show harm"


def wanted(workspace: Workspace, n: int = DEFAULT) -> list[dict[str, str]]:
    """[{"case_id", "why"}], n at most: what was asked for lately and has no label yet, then fresh cases; one
    transaction. What nobody has answered for PATIENCE gives way."""
    with workspace.store.transaction() as connection:
        asked = _open(connection, workspace.now() - PATIENCE)[:n]
        left = n - len(asked)
        if left > 0:
            asked += _ask(connection, workspace, left)
    return asked


def _open(connection: Connection, since: datetime) -> list[dict[str, str]]:
    rows = connection.execute(
        """SELECT a.case_id, a.why FROM asked a
           WHERE a.at >= :since AND NOT EXISTS (
               SELECT 1 FROM labels l WHERE l.case_id = a.case_id)
           ORDER BY a.arm = 'alarm' DESC, a.rowid""",
        {"since": rfc3339(since)},
    )
    return [dict(row) for row in rows]


def _ask(connection: Connection, workspace: Workspace, n: int) -> list[dict[str, str]]:
    task, classes = task_of(connection), get_setting(connection, "classes", [])
    every, alarmed = _unasked(connection, get_setting(connection, SEEN, 0)), _alarmed(connection)
    by_lot = max(1, round(AUDIT * n)) if n > 1 or not alarmed else 0
    audited = _drawn(_lot(workspace, every), by_lot)
    chosen: list[tuple[str, str, float | None, str]] = [
        (row["case_id"], "audit", len(audited) / len(every), WHY_AUDIT) for row in audited
    ]
    taken, left = {row["case_id"] for row in audited}, n - sum(not row["labelled"] for row in audited)
    if alarmed:
        drawn = [row for row in _lot(workspace, alarmed) if row["case_id"] not in taken][:left]
        chosen += [(row["case_id"], "alarm", None, f"of alarm {row['alarm']}: {WHY_ALARM}") for row in drawn]
    else:
        doubted = [row for row in every if not row["labelled"] and row["case_id"] not in taken]
        unsure = sorted(doubted, key=lambda row: task.outcome(row, classes)[1])[:left]
        chosen += [(row["case_id"], "active", None, "the answer is unsure") for row in unsure]
    if chosen:
        now = workspace.now()
        for case_id, arm, probability, why in chosen:
            insert(connection, "asked", case_id=case_id, arm=arm, probability=probability, why=why, at=rfc3339(now))
        if audited:
            put_setting(connection, SEEN, every[-1]["number"])
        body = {**Counter(arm for _, arm, _, _ in chosen), "of": len(every)}
        journal.append(connection, "labels_asked", at=now, by="labels wanted", body=body)
    known = {row["case_id"] for row in audited if row["labelled"]}
    return [{"case_id": case_id, "why": why} for case_id, _, _, why in chosen if case_id not in known]


def _drawn(rows: Sequence[dict[str, Any]], n: int) -> list[dict[str, Any]]:
    """The first rows, up to the n-th that has no label yet: those that have one are drawn as well, and cost nothing."""
    missing = [place for place, row in enumerate(rows) if not row["labelled"]][:n]
    return list(rows[: missing[-1] + 1]) if missing else []


def _lot(workspace: Workspace, rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows in an order that is drawn, and that a second call repeats."""
    draw = random.Random(f"{workspace.key.hex()} {rows[-1]['number'] if rows else 0}")  # noqa: S311 - no secret
    return draw.sample(rows, len(rows))


def _unasked(connection: Connection, after: int) -> list[dict[str, Any]]:
    """Answered live cases after an observation that nobody was asked for, in order, and whether each has a label."""
    rows = connection.execute(
        """SELECT o.number, o.case_id, o.scores, NULL AS value, NULL AS worth, a.sure, c.domain,
                  l.id IS NOT NULL AS labelled
           FROM observations o JOIN cases c ON c.case_id = o.case_id
           LEFT JOIN labels l ON l.case_id = o.case_id LEFT JOIN answers a ON a.observation = o.id
           WHERE o.role = 'live' AND o.number > :after AND o.abstained = 0
             AND NOT EXISTS (SELECT 1 FROM asked a WHERE a.case_id = o.case_id)
           ORDER BY o.number""",
        {"after": after},
    )
    return [dict(row) for row in rows]


def _alarmed(connection: Connection) -> list[dict[str, Any]]:
    """Those without a label that came since the onset of an open shift of their stream, with the alarm's number."""
    onset = {
        alarm["stream"]: (alarm["id"], alarm["since_case"] or alarm["opened_at_case"])
        for alarm in episodes.open_alarms(connection)
        if episodes.kind_of(alarm["shift"], alarm["stream"]) in episodes.OF_SHIFT
    }
    if not onset:
        return []
    is_known, found = known(connection), []
    for row in _unasked(connection, min(since for _, since in onset.values()) - 1):
        alarm, since = onset.get(stream_of(row["domain"], is_known), (0, 0))
        if alarm and row["number"] >= since and not row["labelled"]:
            found.append({**row, "alarm": alarm})
    return found


def arm_of(connection: Connection, case_id: str) -> str | None:
    """The arm by which a label was asked for; None where nobody asked."""
    row = connection.execute("SELECT arm FROM asked WHERE case_id = :id", {"id": case_id}).fetchone()
    return row["arm"] if row else None
