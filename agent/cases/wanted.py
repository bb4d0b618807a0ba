"""The cases most worth labelling: of open alarms, else where doubt is greatest; and always some drawn at random.

Each call takes up the cases that have been answered since the last one. While an alarm is open three quarters are drawn
by lot among its cases, because its end, and harm, are judged by what a fair sample shows; else three quarters are the
least sure answers, asked for outright (*active*). The last quarter is drawn among all others (*audit*, as every lot):
what an active case says is said for itself, what a drawn one says for all that its lot might have drawn. `probability`
is 1, or that of being drawn (Horvitz and Thompson 1952).
"""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence
from typing import Any

from agent.clock import rfc3339
from agent.drift import episodes
from agent.drift.domains import known, stream_of
from agent.store import Connection, insert, journal
from agent.workspace import Workspace, get_setting, put_setting

DEFAULT = 20
AUDIT = 0.25  # share of a list that is drawn among all others
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
    alarmed, rest = _parted(connection, fresh)
    last, most = fresh[-1]["number"], n - max(1, round(AUDIT * n))
    lot = random.Random(f"{workspace.key.hex()} {last}")  # noqa: S311 - a fair draw that a second run repeats
    if alarmed:
        chosen = _drawn(lot, alarmed, most)
    else:
        unsure = sorted(rest, key=_top)
        rest = unsure[most:]
        chosen = [(row["case_id"], "active", 1.0, "the answer is unsure") for row in unsure[:most]]
    chosen += _drawn(lot, [(row, WHY_AUDIT) for row in rest], n - len(chosen))
    now = workspace.now()
    for case_id, arm, probability, why in chosen:
        insert(connection, "asked", case_id=case_id, arm=arm, probability=probability, why=why, at=rfc3339(now))
    put_setting(connection, SEEN, last)
    arms = [arm for _, arm, _, _ in chosen]
    body = {"active": arms.count("active"), "audit": arms.count("audit"), "of": len(fresh)}
    journal.append(connection, "labels_asked", at=now, by="labels wanted", body=body)
    return [{"case_id": case_id, "why": why} for case_id, _, _, why in chosen]


def _drawn(
    lot: random.Random, rows: Sequence[tuple[Mapping[str, Any], str]], n: int
) -> list[tuple[str, str, float, str]]:
    """(case, arm, probability, why) of n of the rows with their reasons, or of all where they are fewer."""
    n = min(n, len(rows))
    return [(row["case_id"], "audit", n / len(rows), why) for row, why in lot.sample(rows, n)]


def _fresh(connection: Connection) -> list[Mapping[str, Any]]:
    """Answered live cases that no call has taken up, without a label."""
    return connection.execute(
        """SELECT o.number, o.case_id, o.scores, c.domain FROM observations o JOIN cases c ON c.case_id = o.case_id
           WHERE o.role = 'live' AND o.number > :seen AND o.abstained = 0
             AND NOT EXISTS (SELECT 1 FROM labels l WHERE l.case_id = o.case_id AND l.kind = 'class')
           ORDER BY o.number""",
        {"seen": get_setting(connection, SEEN, 0)},
    ).fetchall()


def _parted(
    connection: Connection, fresh: Sequence[Mapping[str, Any]]
) -> tuple[list[tuple[Mapping[str, Any], str]], list[Mapping[str, Any]]]:
    """(cases of open shifts since their onset, with the reason to ask for them; all others)."""
    onset = {
        alarm["stream"]: (alarm["id"], alarm["since_case"] or alarm["opened_at_case"])
        for alarm in episodes.open_alarms(connection)
        if episodes.kind_of(alarm["shift"], alarm["stream"]) in episodes.OF_SHIFT
    }
    is_known, alarmed, rest = known(connection), list[tuple[Mapping[str, Any], str]](), list[Mapping[str, Any]]()
    for row in fresh:
        alarm, since = onset.get(stream_of(row["domain"], is_known), (0, 0))
        if alarm and row["number"] >= since:
            alarmed.append((row, f"of alarm {alarm}: its labels end it, or show harm"))
        else:
            rest.append(row)
    return alarmed, rest


def _top(row: Mapping[str, Any]) -> float:
    import numpy as np

    return float(np.frombuffer(row["scores"], "<f4").max())


def arm_of(connection: Connection, case_id: str) -> tuple[str, float] | None:
    """(arm, probability) with which a label was asked for; None where nobody asked."""
    row = connection.execute("SELECT arm, probability FROM asked WHERE case_id = :id", {"id": case_id}).fetchone()
    return (row["arm"], row["probability"]) if row else None
