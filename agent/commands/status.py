"""status, alarms, journal, suspend, resume: what people look at every day. No numpy, no torch."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping
from typing import Any

from agent.answer import Answer, table
from agent.cases.labels import UNKNOWN
from agent.clock import rfc3339
from agent.drift import episodes
from agent.errors import HomeostatError, Refused
from agent.store import Connection
from agent.store import journal as events
from agent.trust import CAUTION, NORMAL, SUSPENDED, give_back, set_trust, suspend_domains, suspended_domains, trust_now
from agent.versions import registry
from agent.versions.pointer import publish
from agent.workspace import Workspace, get_setting, put_setting

ALARM_COLUMNS = [
    *("id", "monitor", "stream", "shift", "state"),
    *("opened_at", "opened_at_case", "statistic", "threshold", "score"),
]

# Cases are numbered without gaps as they are observed, and only the feed's labels count: the reference came labelled.
SEEN = "SELECT coalesce(max(number), 0) FROM observations"
QUARANTINED = "SELECT count(*) FROM quarantine"
LABELLED = """
    SELECT (SELECT count(*) FROM labels)
         - (SELECT count(*) FROM cases c JOIN labels l ON l.case_id = c.case_id WHERE c.origin = 'reference')"""


def status(args: argparse.Namespace) -> Answer:
    """What is live and what to think of it; also brings live.json up to the store after a crash."""
    workspace = Workspace(args.workspace)
    with workspace.store.read() as connection:
        connection.execute("BEGIN")
        value = overview(connection)
    if value["live"] is not None:
        publish(workspace)
    return Answer(value, lambda: _status_text(value))


def overview(connection: Connection) -> dict[str, Any]:
    """The contract's answer to `status`, read in one snapshot; its cost hardly grows with the number of cases."""
    live = connection.execute("SELECT version FROM live WHERE scope = '*'").fetchone()
    previous = connection.execute(registry.ALIASES["previous"]).fetchone()
    jobs = connection.execute(
        "SELECT id, kind, attempt, created_at FROM jobs WHERE state = 'running' ORDER BY created_at"
    )
    return {
        "live": live["version"] if live else None,
        "previous": previous["id"] if previous else None,
        "sealed": get_setting(connection, "sealed", False),
        "state": deployment_state(connection),
        "trust": trust_now(connection),
        "doubted": doubted(connection),
        "suspended": suspended_domains(connection),
        "cases": {
            "seen": _count(connection, SEEN),
            "quarantined": _count(connection, QUARANTINED),
            "labelled": _count(connection, LABELLED),
        },
        "unknown_classes": get_setting(connection, UNKNOWN, []),
        "drift": drift(connection),
        "alarms_open": _count(connection, "SELECT count(*) FROM alarms WHERE state = 'open'"),
        "jobs": [dict(job) for job in jobs],
    }


def doubted(connection: Connection) -> str | None:
    """Whose answers the trust is lowered for: "new" (sites and scanners that are new here), "all", or None."""
    trust = trust_now(connection)
    if trust == NORMAL:
        return None
    return "new" if trust == CAUTION and episodes.only_arrivals(connection) else "all"


def deployment_state(connection: Connection) -> str | None:
    """ "paused" while automatic promotion waits for `resume`, else the state of the live version; None before init."""
    if not get_setting(connection, "automatic_promotion", True):
        return "paused"
    row = connection.execute(
        "SELECT state FROM versions WHERE id = (SELECT version FROM live WHERE scope = '*')"
    ).fetchone()
    return row["state"] if row else None


def drift(connection: Connection) -> dict[str, Any]:
    """The oldest episode of a shift that has not ended; far-out cases are told of only where nothing else is."""
    row = connection.execute(
        """SELECT shift, coalesce(since_case, opened_at_case) AS since_case FROM alarms
           WHERE state != 'closed' AND shift IS NOT NULL ORDER BY shift = 'far-out', id LIMIT 1"""
    ).fetchone()
    return {"state": "drift", **row} if row else {"state": "stable", "shift": None, "since_case": None}


def _count(connection: Connection, query: str) -> int:
    return int(connection.execute(query).fetchone()[0])


def _status_text(value: dict[str, Any]) -> str:
    cases, shift = value["cases"], value["drift"]
    moved = f"{shift['shift']} since case {shift['since_case']}" if shift["shift"] else "none"
    rows = {
        "live": f"{value['live'] or 'nothing'} ({value['state'] or 'not deployed'})",
        "previous": value["previous"] or "-",
        "trust": _trust_text(value),
        "cases": f"{cases['seen']} seen, {cases['labelled']} labelled, {cases['quarantined']} quarantined",
        "drift": moved,
        "alarms": f"{value['alarms_open']} open",
        "jobs": ", ".join(f"{job['id']} ({job['kind']})" for job in value["jobs"]) or "none",
    }
    if value["sealed"]:
        rows["model"] = "a black box: watched and recalibrated, never adapted"
    if value["unknown_classes"]:
        rows["labels"] = f"left out, of classes that the model does not know: {', '.join(value['unknown_classes'])}"
    if value["state"] == "paused":
        rows["next"] = "automatic promotion waits for 'homeostat resume'"
    return "\n".join(f"{name.ljust(9)} {says}" for name, says in rows.items())


def _trust_text(value: dict[str, Any]) -> str:
    whose = ", for sites and scanners that are new here" if value["doubted"] == "new" else ""
    badly = f"; suspended for {', '.join(value['suspended'])}: labels show harm" if value["suspended"] else ""
    return value["trust"] + whose + badly


def alarms(args: argparse.Namespace) -> Answer:
    """The episodes, oldest first; with `ack ID --by NAME`, that one after somebody has seen it."""
    workspace = Workspace(args.workspace)
    if args.action == "ack":
        return _acknowledge(workspace, args.id, args.by)
    with workspace.store.read() as connection:
        rows = _alarms(connection, "1" if args.all else "state != 'closed'")
    return Answer(rows, lambda: table(rows, ALARM_COLUMNS) if rows else "no alarms")


def _acknowledge(workspace: Workspace, alarm: int | None, by: str | None) -> Answer:
    if alarm is None or not by:
        raise HomeostatError("who acknowledges which alarm: 'homeostat alarms ack ID --by NAME'")
    with workspace.store.transaction() as connection:
        state = _alarm(connection, alarm)["state"]
        if state != "open":
            raise Refused(f"alarm {alarm} is {state} already; nothing was changed")
        connection.execute(
            "UPDATE alarms SET state = 'acknowledged', acknowledged_by = :by WHERE id = :id", {"by": by, "id": alarm}
        )
        events.append(connection, "alarm_acknowledged", at=workspace.now(), by=by, body={"alarm": alarm})
        rows = _alarms(connection, "id = :id", id=alarm)
    return Answer(rows, f"alarm {alarm} is acknowledged by {by}; it stays until the episode ends")


def _alarms(connection: Connection, where: str, **values: object) -> list[dict[str, Any]]:
    query = f"SELECT {', '.join(ALARM_COLUMNS)} FROM alarms WHERE {where} ORDER BY id"
    return [dict(row) for row in connection.execute(query, values)]


def _alarm(connection: Connection, alarm: int) -> Mapping[str, Any]:
    found = connection.execute("SELECT * FROM alarms WHERE id = :id", {"id": alarm}).fetchone()
    if found is None:
        raise HomeostatError(f"there is no alarm {alarm}: 'homeostat alarms --all' lists them")
    return found


def journal(args: argparse.Namespace) -> Answer:
    """The events after number `since`."""
    with Workspace(args.workspace).store.read() as connection:
        found = connection.execute(
            "SELECT seq, at, event, by, body FROM journal WHERE seq > :since ORDER BY seq", {"since": args.since}
        )
        rows = [{**row, "body": json.loads(row["body"])} for row in found]
    return Answer(rows, lambda: _journal_text(rows))


def _journal_text(rows: list[dict[str, Any]]) -> str:
    if not rows:
        return "no events"
    return table([{**row, "body": events.canonical(row["body"])} for row in rows], ["seq", "at", "event", "by", "body"])


def suspend(args: argparse.Namespace) -> Answer:
    """Marks today's answers as not to be trusted."""
    return _stand(args, "suspended", SUSPENDED)


def resume(args: argparse.Namespace) -> Answer:
    """Automatic promotion goes on, and trust is back to normal; with --alarm that one ends, and nothing else does."""
    return _stand(args, "resumed", NORMAL) if args.alarm is None else _end(args)


def _end(args: argparse.Namespace) -> Answer:
    """Ends one alarm. Trust is what those that go on ask for, by all names that they have had."""
    workspace = Workspace(args.workspace)
    at, responses = workspace.now(), workspace.config.plan.responses
    with workspace.store.transaction() as connection:
        alarm = _alarm(connection, args.alarm)
        if alarm["state"] == "closed":
            raise Refused(f"alarm {args.alarm} has ended already; nothing was changed")
        episodes.close_alarm(connection, alarm, because=f"resumed: {args.reason}", by=args.by, at=at)
        others = episodes.open_alarms(connection)
        asked = [responses[name].trust for other in others for name in episodes.names(connection, other)]  # type: ignore[index]
        give_back(connection, asked, by=args.by, reason=args.reason, at=at)
        value = {"state": deployment_state(connection), "trust": trust_now(connection)}
    publish(workspace)
    left = f"{len(others)} others go on" if others else "no other is open"
    return Answer(value, f"alarm {args.alarm} has ended, {left}; trust is {value['trust']}")


def _stand(args: argparse.Namespace, event: str, trust: str) -> Answer:
    workspace = Workspace(args.workspace)
    at = workspace.now()
    with workspace.store.transaction() as connection:
        events.append(connection, event, at=at, by=args.by, body={"reason": args.reason})
        set_trust(connection, trust, by=args.by, reason=args.reason, at=at)
        if trust == NORMAL:
            put_setting(connection, "automatic_promotion", True)
            # a shift that goes on opens a new episode within a few ticks
            ended = {*episodes.OF_SHIFT, episodes.FAR_OUT, episodes.VOLUME, episodes.SCHEMA}
            episodes.close_alarms(connection, ended, because=f"resumed: {args.reason}", by=args.by, at=at)
            live = registry.live(connection)["version"]
            suspend_domains(connection, live, (), by=args.by, reason=args.reason, at=at)
        value = {"state": deployment_state(connection), "trust": trust}
    publish(workspace)
    return Answer(value, f"trust is {trust} since {rfc3339(at)}; the deployment is {value['state']}")
