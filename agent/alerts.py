"""Alerts: people are told once per episode, through every channel, whatever the other channels do.

What is to be told is written to the store first (`post`), so that no crash loses it; `deliver` then sends what is due.
Sending and recording can't be one step: a crash between them tells a channel twice rather than never.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

from agent.channels import Channel
from agent.clock import parse_time, rfc3339
from agent.store import Connection, insert, journal
from agent.workspace import Workspace

FIRST_RETRY, LONGEST_RETRY = timedelta(minutes=1), timedelta(hours=6)
ATTEMPTS = 12  # about a day; then the channel is given up for this alert, and the journal says so


@dataclass(frozen=True, kw_only=True)
class Alert:
    """What happened, since when, on which evidence, and what to do next.

    `since` counts observed cases. `evidence` carries numbers only, TypeError else: a text could carry a patient's name
    into a chat room.
    """

    title: str
    what: str
    since: int | None = None
    evidence: Mapping[str, float] = field(default_factory=dict)
    next_step: str

    def __post_init__(self) -> None:
        for name, value in self.evidence.items():
            if not isinstance(value, int | float):
                raise TypeError(f"the evidence {name!r} of an alert must be a number")

    def text(self) -> str:
        """The message, in lines."""
        lines = [self.what]
        if self.since is not None:
            lines.append(f"Since: case {self.since}")
        if self.evidence:
            lines.append("Evidence: " + ", ".join(f"{name} {value:.4g}" for name, value in self.evidence.items()))
        return "\n".join([*lines, f"Next: {self.next_step}"])


def of_alarm(alarm: Mapping[str, Any], *, reminder: bool = False) -> Alert:
    """The alert of a row of `alarms`. Of its stored evidence only the numbers are told."""
    shift = alarm["shift"]
    what = (
        f"the cases look different from the approved reference ({shift})" if shift else "the flow of cases has changed"
    )
    stored = json.loads(alarm["evidence"])
    evidence = {"score": alarm["score"], "statistic": alarm["statistic"], "threshold": alarm["threshold"], **stored}
    return Alert(
        title=f"{'Reminder: ' if reminder else ''}alarm {alarm['id']} ({alarm['monitor']})",
        what=f"The monitor '{alarm['monitor']}' says that {what}.",
        since=alarm["since_case"] or alarm["opened_at_case"],
        evidence={k: v for k, v in evidence.items() if isinstance(v, int | float) and not isinstance(v, bool)},
        next_step=(
            "look at 'homeostat status' and 'homeostat alarms', then acknowledge it with "
            f"'homeostat alarms ack {alarm['id']} --by NAME'."
        ),
    )


def post(connection: Connection, alert: Alert, *, episode: str, at: datetime, alarm: int | None = None) -> bool:
    """Writes what is to be told, inside the caller's transaction; False where this episode has been posted before."""
    if connection.execute("SELECT 1 FROM alerts WHERE episode = :episode", {"episode": episode}).fetchone():
        return False
    message = journal.canonical({"title": alert.title, "text": alert.text()})
    insert(connection, "alerts", episode=episode, alarm=alarm, message=message, at=rfc3339(at))
    return True


def deliver(workspace: Workspace) -> list[dict[str, Any]]:
    """One step: posts the open alarms and reminders, sends what is due; returns [{"alert", "channel", "ok", "says"}].

    A channel that fails is journaled and tried again at a later step, after 1, 2, 4, ... minutes, at most six hours.
    """
    now = workspace.now()
    channels = [Channel(configured, workspace.root) for configured in workspace.config.alerts.channels]
    with workspace.store.read() as connection:
        waiting = _unposted(connection, now, _period(workspace.config.alerts.remind_every)) if channels else []
    if waiting:
        with workspace.store.transaction() as connection:
            for alarm, episode in waiting:
                alert = of_alarm(alarm, reminder=alarm["notified_at"] is not None)
                post(connection, alert, episode=episode, at=now, alarm=alarm["id"])
    with workspace.store.read() as connection:
        due = connection.execute("SELECT * FROM alerts WHERE done = 0 ORDER BY id").fetchall()
    told: list[dict[str, Any]] = []
    for alert in due:
        told += _send(workspace, alert, channels, now)
    return told


def test(workspace: Workspace) -> list[dict[str, Any]]:
    """Sends a marked message to every channel; [{"channel", "ok", "says"}]. Changes nothing in the store."""
    alert = Alert(
        title="TEST: alerts of this deployment arrive here",
        what="Somebody ran 'homeostat alerts test'. Nothing has happened.",
        next_step="nothing.",
    )
    title = f"[{workspace.root.name}] {alert.title}"
    channels = [Channel(configured, workspace.root) for configured in workspace.config.alerts.channels]
    return [channel.send(title, alert.text()) for channel in channels]


def _unposted(connection: Connection, now: datetime, remind_every: timedelta) -> list[tuple[Mapping[str, Any], str]]:
    """Open alarms that nobody was told of yet, and those whose last telling is too long ago."""
    rows = connection.execute(
        """SELECT alarms.*, count(alerts.id) AS posted, min(alerts.done) AS settled
           FROM alarms LEFT JOIN alerts ON alerts.alarm = alarms.id
           WHERE alarms.state = 'open' GROUP BY alarms.id ORDER BY alarms.id"""
    ).fetchall()
    found = []
    for row in rows:
        if row["posted"] == 0:
            found.append((row, f"alarm-{row['id']}"))
        elif row["settled"] and row["notified_at"] and now - parse_time(row["notified_at"]) >= remind_every:
            found.append((row, f"alarm-{row['id']}-reminder-{row['posted']}"))
    return found


def _send(
    workspace: Workspace, alert: Mapping[str, Any], channels: list[Channel], now: datetime
) -> list[dict[str, Any]]:
    """Tries the channels whose time has come, then records what became of each in one transaction."""
    message, deliveries = json.loads(alert["message"]), json.loads(alert["deliveries"])
    told = []
    for channel in channels:
        state = deliveries.setdefault(channel.key, {"attempts": 0, "next": rfc3339(now)})
        if state["next"] is None or state["next"] > rfc3339(now):
            continue
        result = channel.send(f"[{workspace.root.name}] {message['title']}", message["text"])
        state["attempts"] += 1
        again = not result["ok"] and state["attempts"] < ATTEMPTS
        state["next"] = rfc3339(now + _wait(state["attempts"])) if again else None
        told.append({"alert": alert["episode"], **result, "retry_at": state["next"]})
    done = all(deliveries[channel.key]["next"] is None for channel in channels)
    if not told and not done:
        return []
    with workspace.store.transaction() as connection:
        for result in told:
            journal.append(
                connection, "alert_sent" if result["ok"] else "alert_failed", at=now, by="homeostat", body=result
            )
        connection.execute(
            "UPDATE alerts SET deliveries = :deliveries, done = :done WHERE id = :id",
            {"deliveries": json.dumps(deliveries), "done": int(done), "id": alert["id"]},
        )
        if any(result["ok"] for result in told):
            connection.execute(
                "UPDATE alarms SET notified_at = :at WHERE id = :id", {"at": rfc3339(now), "id": alert["alarm"]}
            )
    return told


def _wait(attempts: int) -> timedelta:
    return min(FIRST_RETRY * 2 ** (attempts - 1), LONGEST_RETRY)


def _period(text: str) -> timedelta:
    return timedelta(days=int(text.removesuffix("d")))
