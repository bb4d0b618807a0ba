"""Which kind of shift an open alarm is about, and what it may cost: asked when it opens, and again while more cases
come."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from agent.cases.datafolder import TRUTHS
from agent.drift.domains import NEW, known, stream_of
from agent.drift.episodes import CREEP, FAR_OUT, OF_SHIFT, kind_of, open_alarms
from agent.drift.estimated import PREVALENCE, estimated, estimated_worth
from agent.drift.reference import ROWS, batch_of, calibration_rows, classes_in, classes_of
from agent.store import Connection, journal
from agent.tasks import task_of
from agent.workspace import get_setting

if TYPE_CHECKING:
    from monitors import Attribution, Reference

UNDETERMINED = "undetermined"
OPEN_QUESTIONS = (UNDETERMINED, PREVALENCE)  # with few cases all that is seen of a new scanner may be another mix
TOLD = ("manifestation", "annotation", "mixed")  # names that rest on labels of the new cases
FEWEST_LABELS = 30  # labelled cases that the question is asked again for
SETTLED = 500  # patients on which an answer is final
AGAIN = 1.5  # times the cases, or the labels, of the last time
ALPHA = 0.002  # of each test: an open question is asked again some five times on the way there
DATED = ("onset", "asked_at", "labels_at", "labels_to", "distance")  # of the evidence: goes on after the name is given


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
    answer = attribute(
        reference,
        batch_of(rows, facts=tuple(reference.calibrate.facts)),
        classes_in(connection, calibration_rows(connection, epoch, version)),
        new_domain=stream == NEW,
        of_classes=task_of(connection).kind == "class",
        alpha=ALPHA,
        new_labels=classes_of(connection, [row["case_id"] for row in rows]),
    )
    shift = UNDETERMINED if answer.shift == FAR_OUT else str(answer.shift)
    said = {**_said(answer), **_onset(connection, reference, version, stream, since)}
    said |= {"asked_at": _observed(connection, since), "labels_at": _labelled(connection, since)}
    return shift, {**said, "labels_to": _newest_label(connection)}


def name_again(connection: Connection, reference: Reference, epoch: int, version: str, at: datetime) -> list[str]:
    """Asks again of open alarms, once half as many cases or labels again have come since the last time: since when,
    and what. Keeps what has changed; returns the new names.

    A shift of images, once named, takes no other name but one that rests on labels, and such a name is final.
    """
    found = []
    for alarm in open_alarms(connection):
        if alarm["monitor"] == CREEP or kind_of(alarm["shift"], alarm["stream"]) not in OF_SHIFT:
            continue
        evidence, since = json.loads(alarm["evidence"]), alarm["since_case"] or alarm["opened_at_case"]
        is_open, cases = alarm["shift"] in OPEN_QUESTIONS, _observed(connection, since)
        settled = evidence.get("patients" if is_open else "asked_at", 0) >= SETTLED
        grown = not settled and cases >= AGAIN * evidence.get("asked_at", 0)
        told = alarm["shift"] not in TOLD and _more_labels(connection, since, evidence)
        answer = name(connection, reference, epoch, version, alarm["stream"], since) if grown or told else None
        if answer is None:
            continue
        shift, said = answer
        if not is_open and (shift not in TOLD or alarm["shift"] in TOLD):
            shift, said = alarm["shift"], {key: said[key] for key in DATED if said.get(key) is not None}
        connection.execute(
            "UPDATE alarms SET shift = :shift, evidence = :evidence WHERE id = :id",
            {"shift": shift, "evidence": journal.canonical({**evidence, **said}), "id": alarm["id"]},
        )
        if shift != alarm["shift"]:
            body = {"alarm": alarm["id"], "shift": shift, "was": alarm["shift"], "says": said["says"]}
            journal.append(connection, "alarm_named", at=at, by="homeostat", body=body)
            found.append(shift)
    return found


def estimate_again(connection: Connection, reference: Reference, epoch: int, version: str) -> None:
    """Puts what an open alarm of a shift may cost into its evidence, and again once there are half as many cases again:
    a shift may be named by fewer patients than tell that."""
    from monitors.protocols import Findings, Scores

    for alarm in open_alarms(connection):
        evidence, since = json.loads(alarm["evidence"]), alarm["since_case"] or alarm["opened_at_case"]
        observed = _observed(connection, since)
        grown = observed >= AGAIN * evidence.get("estimated_at", 0)
        if kind_of(alarm["shift"], alarm["stream"]) not in OF_SHIFT or not grown:
            continue
        rows = _rows(connection, version, alarm["stream"], since)
        if rows:
            task, known_rows = task_of(connection), calibration_rows(connection, epoch, version)
            if task.kind in TRUTHS:
                found = estimated_worth(known_rows, rows, task.quality)
            else:
                target = task.targets([row["value"] for row in known_rows], get_setting(connection, "classes", []))
                approved = task.record(reference.calibrate.outputs, target, reference.calibrate.unit)
                assert isinstance(approved, Scores | Findings)
                found = estimated(approved, batch_of(rows), alarm["shift"])
            evidence |= {"estimated": found, "estimated_at": observed}
            connection.execute(
                "UPDATE alarms SET evidence = :evidence WHERE id = :id",
                {"evidence": journal.canonical(evidence), "id": alarm["id"]},
            )


def _said(answer: Attribution) -> dict[str, Any]:
    return {
        "patients": answer.n,
        "labelled": answer.labelled,
        "driver": answer.driver,
        "p_before": answer.p_before,
        "p_after": answer.p_after,
        "prevalence": [round(share, 4) for share in answer.prevalence],
        "prevalence_before": [round(share, 4) for share in answer.was],
        "part": answer.part,
        "distance": answer.distance and round(answer.distance, 2),
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
           AND at > (SELECT coalesce(max(closed_at), '') FROM alarms WHERE shift IS NOT NULL)""",
        {"version": version, "since": since},
    ).fetchone()["number"]
    rows = _rows(connection, version, stream, min(begun, since), most=4 * SETTLED)
    found = onset(reference, batch_of(rows), since) if rows and rows[0]["number"] <= since else None
    return {} if found is None else {"onset": {"case": found.case, "low": found.low, "high": found.high}}


def _observed(connection: Connection, since: int) -> int:
    """Answered cases since an observation, of all streams."""
    last = connection.execute("SELECT coalesce(max(number), 0) FROM observations").fetchone()[0]
    return max(0, last - since + 1)


def _more_labels(connection: Connection, since: int, evidence: Mapping[str, Any]) -> bool:
    """Whether half as many labels again have come since the question was asked. They are counted only where so many
    have come at all: a count reads them all."""
    had = evidence.get("labels_at", 0)
    wanted = max(FEWEST_LABELS, math.ceil(AGAIN * had))
    came = _newest_label(connection) - evidence.get("labels_to", 0)
    return came >= wanted - had and _labelled(connection, since) >= wanted


def _newest_label(connection: Connection) -> int:
    return int(connection.execute("SELECT coalesce(max(id), 0) FROM labels").fetchone()[0])


def _labelled(connection: Connection, since: int) -> int:
    """Labelled cases since an observation; labels lead the count, for they are fewer than cases."""
    row = connection.execute(
        """SELECT count(*) FROM labels l CROSS JOIN observations o ON o.case_id = l.case_id
           WHERE o.role = 'live' AND o.number >= ?""",
        (since,),
    ).fetchone()
    return int(row[0])


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
