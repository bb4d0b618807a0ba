"""Which kind of shift an open alarm is about: asked when it opens, and again while more cases come."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from agent.drift.domains import NEW, known, stream_of
from agent.drift.episodes import CREEP, FAR_OUT, OF_SHIFT, kind_of, open_alarms
from agent.drift.estimated import estimated
from agent.drift.reference import ROWS, batch_of, read_classes
from agent.store import Connection, journal
from agent.workspace import get_setting

if TYPE_CHECKING:
    from monitors import Attribution, Reference

UNDETERMINED, PREVALENCE = "undetermined", "prevalence"
OPEN_QUESTIONS = (UNDETERMINED, PREVALENCE)  # with few cases all that is seen of a new scanner may be another mix
SETTLED = 500  # patients on which an answer is final
AGAIN = 1.5  # times the cases of the last time
ALPHA = 0.002  # of each test: an open question is asked again some five times on the way there


def name(
    connection: Connection, reference: Reference, epoch: int, version: str, stream: str, since: int
) -> tuple[str, dict[str, Any]] | None:
    """(shift, evidence) by the latest SETTLED cases of a stream since observation `since`; None where there is none.

    A change that has grown is judged by what it has grown to. Whether single cases are far out is for that monitor: an
    episode of a shift is never one of far-out cases.
    """
    from monitors import attribute

    rows = _rows(connection, version, stream, since)
    if not rows:
        return None
    labels = read_classes(connection, epoch, version, get_setting(connection, "classes", []))
    cases = batch_of(rows, facts=tuple(reference.calibrate.facts))
    answer = attribute(reference, cases, labels, new_domain=stream == NEW, alpha=ALPHA)
    shift = UNDETERMINED if answer.shift == FAR_OUT else str(answer.shift)
    said = {**_said(answer), "estimated": estimated(reference.calibrate, labels, cases)}
    said |= _onset(connection, reference, version, stream, since)
    return shift, {**said, "asked_at": _observed(connection, since)}


def name_again(connection: Connection, reference: Reference, epoch: int, version: str, at: datetime) -> list[str]:
    """Asks again of open alarms, once half as many cases again have come since the last time: since when, and what,
    where that is an open question. Keeps what has changed; returns the new names."""
    found = []
    for alarm in open_alarms(connection):
        if alarm["monitor"] == CREEP or kind_of(alarm["shift"], alarm["stream"]) not in OF_SHIFT:
            continue
        evidence, since = json.loads(alarm["evidence"]), alarm["since_case"] or alarm["opened_at_case"]
        grown, is_open = _observed(connection, since), alarm["shift"] in OPEN_QUESTIONS
        settled = evidence.get("patients" if is_open else "asked_at", 0) >= SETTLED
        if settled or grown < AGAIN * evidence.get("asked_at", 0):
            continue
        if is_open:
            answer = name(connection, reference, epoch, version, alarm["stream"], since)
        else:
            dated = _onset(connection, reference, version, alarm["stream"], since)
            answer = alarm["shift"], {**dated, "asked_at": grown}
        if answer is None:
            continue
        shift, said = answer
        connection.execute(
            "UPDATE alarms SET shift = :shift, evidence = :evidence WHERE id = :id",
            {"shift": shift, "evidence": journal.canonical({**evidence, **said}), "id": alarm["id"]},
        )
        if shift != alarm["shift"]:
            body = {"alarm": alarm["id"], "shift": shift, "was": alarm["shift"], "says": said["says"]}
            journal.append(connection, "alarm_named", at=at, by="homeostat", body=body)
            found.append(shift)
    return found


def _said(answer: Attribution) -> dict[str, Any]:
    return {
        "patients": answer.n,
        "driver": answer.driver,
        "p_before": answer.p_before,
        "p_after": answer.p_after,
        "prevalence": [round(share, 4) for share in answer.prevalence],
        "prevalence_before": [round(share, 4) for share in answer.was],
        "part": answer.part,
        "confidence": [None if math.isnan(c) else round(c, 4) for c in answer.confidence],
        "says": answer.says,
    }


def _onset(
    connection: Connection, reference: Reference, version: str, stream: str, since: int
) -> dict[str, dict[str, int]]:
    """{"onset": {"case", "low", "high"}} in numbers of observations, by the stream since its charts began anew; {}
    where too few came, and where another version answered then."""
    from monitors import onset

    begun = connection.execute(
        """SELECT coalesce(min(number), :since) AS number FROM observations WHERE role = 'live' AND version = :version
           AND at > (SELECT coalesce(max(closed_at), '') FROM alarms)""",
        {"version": version, "since": since},
    ).fetchone()["number"]
    rows = _rows(connection, version, stream, min(begun, since), most=4 * SETTLED)
    found = onset(reference, batch_of(rows), since) if rows and rows[0]["number"] <= since else None
    return {} if found is None else {"onset": {"case": found.case, "low": found.low, "high": found.high}}


def _observed(connection: Connection, since: int) -> int:
    """Answered cases since an observation, of all streams."""
    row = connection.execute(
        "SELECT count(*) AS n FROM observations WHERE role = 'live' AND number >= ?", (since,)
    ).fetchone()
    return int(row["n"])


def _rows(
    connection: Connection, version: str, stream: str, since: int, most: int = SETTLED
) -> list[Mapping[str, Any]]:
    """The latest of a stream's answers by a version since an observation."""
    is_known = known(connection)
    rows = connection.execute(
        ROWS + "WHERE o.role = 'live' AND o.version = :version AND o.number >= :since AND o.tick IS NOT NULL "
        "ORDER BY o.number DESC LIMIT :most",
        {"version": version, "since": since, "most": 4 * most},
    ).fetchall()
    return [row for row in reversed(rows) if stream_of(row["domain"], is_known) == stream][-most:]
