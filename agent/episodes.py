"""Alarms are episodes: opened once, acknowledged by a person, closed by what ended them. One per kind at a time."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from agent.clock import rfc3339
from agent.store import Connection, insert, journal

# A monitor opens an episode of its kind. The kinds run beside each other: a far-out batch is told during a shift too.
SHIFT, FAR_OUT, VOLUME = "shift", "far-out", "volume"


def kind_of(monitor: str) -> str:
    return monitor if monitor in (FAR_OUT, VOLUME) else SHIFT


def open_alarms(connection: Connection) -> list[Mapping[str, Any]]:
    return connection.execute("SELECT * FROM alarms WHERE state != 'closed' ORDER BY id").fetchall()


def open_kinds(connection: Connection) -> set[str]:
    return {kind_of(alarm["monitor"]) for alarm in open_alarms(connection)}


def open_alarm(
    connection: Connection,
    *,
    monitor: str,
    shift: str | None,
    at_case: int,
    since_case: int | None,
    statistic: float,
    threshold: float,
    score: float,
    evidence: Mapping[str, Any],
    at: datetime,
) -> int:
    """Opens an episode and journals it; the caller has made sure that none of its kind is open. Returns its id."""
    alarm = insert(
        connection,
        "alarms",
        monitor=monitor,
        shift=shift,
        state="open",
        opened_at=rfc3339(at),
        opened_at_case=at_case,
        since_case=since_case,
        statistic=statistic,
        threshold=threshold,
        score=score,
        evidence=journal.canonical(evidence),
    )
    body = {
        "alarm": alarm,
        "monitor": monitor,
        "shift": shift,
        "at_case": at_case,
        "since_case": since_case,
        "score": score,
    }
    journal.append(connection, "alarm_opened", at=at, by="homeostat", body=body)
    return alarm


def close_alarms(connection: Connection, kinds: set[str], *, because: str, by: str, at: datetime) -> list[int]:
    """Closes the open episodes of these kinds and restarts their charts. Returns the ids of those closed."""
    ended = [alarm["id"] for alarm in open_alarms(connection) if kind_of(alarm["monitor"]) in kinds]
    for alarm in ended:
        connection.execute(
            "UPDATE alarms SET state = 'closed', closed_at = :at, closed_because = :because WHERE id = :id",
            {"at": rfc3339(at), "because": because, "id": alarm},
        )
        journal.append(connection, "alarm_closed", at=at, by=by, body={"alarm": alarm, "because": because})
    monitors = {row["monitor"] for row in connection.execute("SELECT DISTINCT monitor FROM monitor_state")}
    for monitor in monitors:
        if kind_of(monitor) in kinds:
            connection.execute("DELETE FROM monitor_state WHERE monitor = :monitor", {"monitor": monitor})
    return ended
