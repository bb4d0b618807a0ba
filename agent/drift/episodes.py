"""Alarms are episodes: opened once, acknowledged by a person, closed by what ended them. One per kind at a time."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import Any

from agent.clock import rfc3339
from agent.drift.domains import KNOWN, NEW
from agent.store import Connection, insert, journal
from agent.workspace import get_setting, put_setting

# A monitor opens an episode of its kind. The kinds run beside each other: a far-out batch is told during a shift too,
# and a shift at home while a new scanner is being learnt. Those of no shift have the name of their monitor.
SHIFT, ARRIVAL, FAR_OUT, VOLUME, SCHEMA = "shift", "arrival", "far-out", "volume", "schema"
OF_SHIFT = {SHIFT, ARRIVAL}  # of known domains, and of new ones


CREEP = "creep"  # the monitor of home's embeddings against what home was approved on, where live has another reference
BEGUN = "charts_begun"  # setting: how often charts were begun anew, for whoever has them in memory
MOSTLY = 0.5  # share of far-out cases in a tick from which on the episode is one of far-out cases


def kind_of(shift: str | None, stream: str, monitor: str = VOLUME) -> str:
    """The kind of an episode, by what the alarm says of the shift, whose cases it is about, and who opened it."""
    return {None: monitor, FAR_OUT: FAR_OUT}.get(shift, ARRIVAL if stream == NEW else SHIFT)


def shift_of(monitor: str, statistic: float) -> str | None:
    """What an alarm of this monitor says of the shift, before anything has told its cause."""
    if monitor in (VOLUME, SCHEMA):
        return None
    return FAR_OUT if monitor == FAR_OUT and statistic >= MOSTLY else "undetermined"


def open_alarms(connection: Connection) -> list[Mapping[str, Any]]:
    return connection.execute("SELECT * FROM alarms WHERE state != 'closed' ORDER BY id").fetchall()


def heard(connection: Connection, stream: str, monitor: str, statistic: float) -> bool:
    """Whether the monitor of a stream may open an episode: none of its kind is open, and none that it opened itself."""
    alarms = open_alarms(connection)
    kinds = {kind_of(alarm["shift"], alarm["stream"], alarm["monitor"]) for alarm in alarms}
    opened = {(alarm["stream"], alarm["monitor"]) for alarm in alarms}
    return kind_of(shift_of(monitor, statistic), stream, monitor) not in kinds and (stream, monitor) not in opened


def only_arrivals(connection: Connection) -> bool:
    """Whether a shift of new domains is open and none of known ones: then these are as trustworthy as before."""
    kinds = {kind_of(alarm["shift"], alarm["stream"]) for alarm in open_alarms(connection)} & OF_SHIFT
    return kinds == {ARRIVAL} and bool(get_setting(connection, "automatic_promotion", True))


def open_alarm(
    connection: Connection,
    *,
    monitor: str,
    shift: str | None,
    stream: str = KNOWN,
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
        stream=stream,
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
        "stream": stream,
        "shift": shift,
        "at_case": at_case,
        "since_case": since_case,
        "score": score,
    }
    journal.append(connection, "alarm_opened", at=at, by="homeostat", body=body)
    return alarm


def chart_of(stream: str, monitor: str) -> str:
    """The name under which a monitor's chart of a stream stands in `monitor_state` and `signals`."""
    return f"{monitor}:{NEW}" if stream == NEW else monitor


def names(connection: Connection, alarm: Mapping[str, Any]) -> set[str]:
    """Every shift that an alarm was ever said to be about: none for one of the feed."""
    before = connection.execute(
        "SELECT body ->> 'was' AS name FROM journal WHERE event = 'alarm_named' AND body ->> 'alarm' = :id",
        {"id": alarm["id"]},
    )
    return {row["name"] for row in before} | ({alarm["shift"]} if alarm["shift"] else set())


def close_alarms(connection: Connection, kinds: set[str], *, because: str, by: str, at: datetime) -> list[int]:
    """Closes the open episodes of these kinds and restarts all charts. Returns the ids of those closed."""
    ended = [
        alarm["id"]
        for alarm in open_alarms(connection)
        if kind_of(alarm["shift"], alarm["stream"], alarm["monitor"]) in kinds
    ]
    for alarm in ended:
        _close(connection, alarm, because, by, at)
    connection.execute("DELETE FROM monitor_state")
    _begun_anew(connection)
    return ended


def close_alarm(connection: Connection, alarm: Mapping[str, Any], *, because: str, by: str, at: datetime) -> None:
    """Closes this open episode and restarts the charts that could have opened it; all others go on."""
    _close(connection, alarm["id"], because, by, at)
    kind, others = kind_of(alarm["shift"], alarm["stream"], alarm["monitor"]), open_alarms(connection)
    charts = {row["monitor"] for row in connection.execute("SELECT DISTINCT monitor FROM monitor_state")}
    if kind in OF_SHIFT:
        of_new = {chart for chart in charts if chart.endswith(f":{NEW}")}
        charts = of_new if kind == ARRIVAL else charts - of_new - {VOLUME, SCHEMA}
        charts -= {chart_of(other["stream"], other["monitor"]) for other in others}
    else:
        charts = {chart_of(alarm["stream"], alarm["monitor"])}
    connection.executemany("DELETE FROM monitor_state WHERE monitor = ?", [(chart,) for chart in charts])
    _begun_anew(connection)


def _close(connection: Connection, alarm: int, because: str, by: str, at: datetime) -> None:
    connection.execute(
        "UPDATE alarms SET state = 'closed', closed_at = :at, closed_because = :because WHERE id = :id",
        {"at": rfc3339(at), "because": because, "id": alarm},
    )
    journal.append(connection, "alarm_closed", at=at, by=by, body={"alarm": alarm, "because": because})


def _begun_anew(connection: Connection) -> None:
    put_setting(connection, BEGUN, get_setting(connection, BEGUN, 0) + 1)
