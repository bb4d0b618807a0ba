"""Alerts: people are told once per episode, through every channel, whatever the other channels do.

What is to be told is written to the store first, so that no crash loses it; then what is due is sent. Sending and
recording can't be one step: a crash between them tells a channel twice rather than never.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from agent.alerting.channels import Channel
from agent.alerting.messages import Alert, news, of_alarm
from agent.clock import parse_time, rfc3339
from agent.store import Connection, insert, journal
from agent.workspace import Workspace, get_setting, put_setting

FIRST_RETRY, LONGEST_RETRY = timedelta(minutes=1), timedelta(hours=6)
ATTEMPTS = 12  # more than a day; then the channel is given up for this alert, and the journal says so
TOLD = "alerts_told_to"  # setting: the last event of the journal that was posted


def deliver(workspace: Workspace) -> list[dict[str, Any]]:
    """One step: posts what is new, sends what is due; returns [{"alert", "channel", "ok", "says", "retry_at"}].

    A channel that fails is journaled and tried again at a later step, after 1, 2, 4, ... minutes, at most six hours.
    """
    config, now = workspace.config.alerts, workspace.now()
    channels = [Channel(configured, workspace.root) for configured in config.channels]
    _post_what_is_new(workspace, now, _period(config.remind_every), anybody=bool(channels))
    with workspace.store.read() as connection:
        due = connection.execute("SELECT * FROM alerts WHERE done = 0 ORDER BY id").fetchall()
    return [told for alert in due for told in _send(workspace, alert, channels, now)]


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


def post(connection: Connection, alert: Alert, *, episode: str, at: datetime, alarm: int | None = None) -> bool:
    """Writes what is to be told, inside the caller's transaction; False where this episode has been posted before."""
    if connection.execute("SELECT 1 FROM alerts WHERE episode = :episode", {"episode": episode}).fetchone():
        return False
    message = journal.canonical({"title": alert.title, "text": alert.text()})
    insert(connection, "alerts", episode=episode, alarm=alarm, message=message, at=rfc3339(at))
    return True


def _post_what_is_new(workspace: Workspace, now: datetime, remind_every: timedelta, *, anybody: bool) -> None:
    """News of the journal are passed over where nobody is to be told; open alarms wait for somebody."""
    with workspace.store.read() as connection:
        connection.execute("BEGIN")
        events = list(news(connection, get_setting(connection, TOLD, 0)))
        alarms = _untold_alarms(connection, now, remind_every) if anybody else []
    if not events and not alarms:
        return
    with workspace.store.transaction() as connection:
        for _, episode, alert in events if anybody else ():
            post(connection, alert, episode=episode, at=now)
        for alarm, episode in alarms:
            alert = of_alarm(alarm, reminder=alarm["notified_at"] is not None)
            post(connection, alert, episode=episode, at=now, alarm=alarm["id"])
        if events:
            put_setting(connection, TOLD, events[-1][0])


def _untold_alarms(
    connection: Connection, now: datetime, remind_every: timedelta
) -> list[tuple[Mapping[str, Any], str]]:
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
            event = "alert_sent" if result["ok"] else "alert_failed"
            journal.append(connection, event, at=now, by="homeostat", body=result)
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
