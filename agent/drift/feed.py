"""Alarms about the feed, its volume or its schema, end by themselves once cases come as they did before.

Whether they do says the monitor that raised the alarm: one that has read the ticks before the onset, and of those after
it only the latest.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import replace
from datetime import datetime
from itertools import groupby
from typing import TYPE_CHECKING, Any

from agent.drift.episodes import SCHEMA, VOLUME, close_alarm, open_alarms
from agent.drift.reference import ROWS, batch_of
from agent.drift.ticks import Tick, day_of
from agent.store import Connection, journal

if TYPE_CHECKING:
    from monitors import Batch, Reference

BACK = 28  # ticks that have to look as before, or as many as the change took to be seen where these are more
EVERY = 7  # ticks between two looks
CASES = 2000  # before the onset, the latest, with which forms are compared


def end_what_is_over(connection: Connection, reference: Reference, tick: int, now: datetime) -> None:
    """Closes each open alarm of the feed that is over, in the transaction of this tick; a look at every EVERYth."""
    for alarm in open_alarms(connection) if tick % EVERY == 0 else ():
        if alarm["monitor"] in (VOLUME, SCHEMA) and (ticks := _back_for(connection, reference, alarm, tick)):
            because = f"cases come as before it, for {ticks} decisions"
            close_alarm(connection, alarm, because=because, by="homeostat", at=now)
            body = {"alarm": alarm["id"], "ticks": ticks}
            journal.append(connection, "feed_restored", at=now, by="homeostat", body=body)


def _back_for(connection: Connection, reference: Reference, alarm: Mapping[str, Any], tick: int) -> int:
    """How many ticks up to this one look as those before the alarm's onset; 0 where they don't, or it is too soon."""
    from monitors import CaseVolume, SchemaStream, as_before
    from monitors.schema import INTAKE

    opened = connection.execute(
        "SELECT tick FROM signals WHERE monitor = 'family' AND at_case = :case AND log_e = :score",
        {"case": alarm["opened_at_case"], "score": alarm["score"]},
    ).fetchone()
    if opened is None or alarm["since_case"] is None or INTAKE in json.loads(alarm["evidence"]):
        return 0  # what the intake refuses leaves no case behind whose form could be compared
    onset = 1 + _tick_of(connection, alarm["since_case"] - 1)
    ticks = max(BACK, opened["tick"] - onset + 1)
    if tick - ticks < opened["tick"]:
        return 0
    monitor, read = (CaseVolume(), _days) if alarm["monitor"] == VOLUME else (SchemaStream(), _forms)
    monitor.fit(reference)
    before = read(connection, _begun(connection, alarm, opened["tick"]), onset - 1)
    return ticks if as_before(monitor, before, [*read(connection, tick - ticks + 1, tick)]) else 0


def _begun(connection: Connection, alarm: Mapping[str, Any], opened: int) -> int:
    """The first tick that the alarm's chart had read, or of which there are enough cases: how much it had says the
    alarm."""
    had = json.loads(alarm["evidence"])
    if alarm["monitor"] == SCHEMA:
        return _tick_of(connection, max(alarm["opened_at_case"] - had["cases"] + 1, alarm["since_case"] - CASES, 1))
    row = connection.execute(
        """SELECT tick FROM signals WHERE monitor = :monitor AND time IS NOT NULL AND tick <= :opened
           ORDER BY tick DESC LIMIT 1 OFFSET :days""",
        {"monitor": VOLUME, "opened": opened, "days": had["days"] - 1},
    ).fetchone()
    return int(row["tick"]) if row else 1


def _tick_of(connection: Connection, case: int) -> int:
    """The tick of an observation, 0 where there is none."""
    row = connection.execute("SELECT tick FROM observations WHERE number = ?", (case,)).fetchone()
    return int(row["tick"]) if row else 0


def _days(connection: Connection, first: int, last: int) -> Iterator[Batch]:
    """As many cases as each day of these ticks had."""
    import numpy as np

    rows = connection.execute(
        """SELECT time, n FROM signals WHERE monitor = :monitor AND time IS NOT NULL AND tick BETWEEN :first AND :last
           ORDER BY tick""",
        {"monitor": VOLUME, "first": first, "last": last},
    )
    for row in rows.fetchall():
        yield replace(batch_of([], Tick((), day_of(row["time"])).start), index=np.arange(1, row["n"] + 1))


def _forms(connection: Connection, first: int, last: int) -> Iterator[Batch]:
    """The cases of these ticks, without answers and embeddings."""
    rows = connection.execute(
        ROWS.replace("o.scores, o.embedding", "o.tick, s.time, x'' AS scores, x'' AS embedding", 1)
        + """JOIN signals s ON s.tick = o.tick AND s.monitor = :monitor
             WHERE o.role = 'live' AND o.tick BETWEEN :first AND :last ORDER BY o.number""",
        {"monitor": SCHEMA, "first": first, "last": last},
    )
    for time, cases in groupby(rows.fetchall(), lambda row: (row["tick"], row["time"])):
        yield batch_of([*cases], Tick((), day_of(time[1])).start)
