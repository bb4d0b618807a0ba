"""What an update learns from and is judged on, as the store knows it: never one patient on both sides."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from agent.drift.domains import EPISODE, known
from agent.drift.reference import epoch_of
from agent.store import Connection

MOST_NEW = 4000  # an update learns from the latest so many cases
MOST_REFERENCE = 2000  # and a reference epoch holds the latest so many
LEAST_REFERENCE = 20  # patients to rank among; with fewer, the former reference stays in force beside them

_LABELLED = """
    SELECT c.case_id AS case_id, i.uri AS uri, i.media_type AS media_type,
           l.value AS label, l.received_at AS labelled_at, c.patient_key AS patient, c.domain AS domain
    FROM cases c
    JOIN inputs i ON i.case_id = c.case_id AND i.role = 'image'
    JOIN labels l ON l.case_id = c.case_id
    JOIN patients p ON p.patient_key = c.patient_key
    WHERE c.state = 'observed' AND c.alias_of IS NULL
"""

Case = dict[str, Any]  # case_id, uri, media_type, label, patient, domain; labelled_at where it was asked for a label


def onset(connection: Connection) -> int:
    """Number of the first case after the oldest change whose alarm is open, else after the latest one that was alarmed;
    1 where none ever was."""
    row = connection.execute(
        """SELECT coalesce(since_case, opened_at_case) AS since FROM alarms
           WHERE shift IS NOT NULL AND shift != 'far-out'
           ORDER BY state = 'closed', CASE state WHEN 'closed' THEN -id ELSE id END LIMIT 1"""
    ).fetchone()
    return row["since"] if row else 1


def new_cases(connection: Connection) -> list[Case]:
    """Labelled cases of training patients that the change is about, the latest MOST_NEW: those of a domain that is not
    known, whenever they came, and those of known domains since their own change.

    What else has come meanwhile is memory's business: a new scanner is not learnt the faster for months of home beside
    it. `labelled_at` tells when the label came.
    """
    return _cases(
        connection,
        _LABELLED
        + """AND p.split = 'train' AND (
               NOT (c.domain LIKE :episode OR c.domain IN (SELECT value FROM json_each(:known)))
               OR c.case_id IN (SELECT case_id FROM observations WHERE role = 'live' AND number >= :onset))
             ORDER BY c.seq DESC LIMIT :most""",
        onset=_onset_of_known(connection),
        episode=f"{EPISODE}%",
        known=json.dumps(sorted(known(connection))),
        most=MOST_NEW,
    )


def _onset_of_known(connection: Connection) -> int:
    """Of the oldest open shift of known domains; where only new domains are in alarm, after all cases."""
    row = connection.execute(
        """SELECT coalesce(min(coalesce(since_case, opened_at_case)) FILTER (WHERE stream != 'new'), :never) AS since
           FROM alarms WHERE state != 'closed' AND shift IS NOT NULL AND shift != 'far-out' HAVING count(*) > 0""",
        {"never": 2**62},
    ).fetchone()
    return int(row["since"]) if row else onset(connection)


def develop_cases(connection: Connection) -> list[Case]:
    """Every labelled case of the patients that select; the latest MOST_NEW."""
    return _cases(connection, _LABELLED + "AND p.split = 'develop' ORDER BY c.seq DESC LIMIT :most", most=MOST_NEW)


def memory_cases(connection: Connection, version: str) -> list[Case]:
    """The rehearsal sample that stands with a version."""
    return _cases(
        connection,
        _LABELLED + "AND c.case_id IN (SELECT case_id FROM memory WHERE version = :version) ORDER BY c.seq",
        version=version,
    )


def learnt_from(connection: Connection, version: str) -> list[str]:
    """The domains that a version, or one that it was made from, has learnt, or rehearsed from its parent's memory."""
    rows = connection.execute(
        """WITH RECURSIVE line(id, parent, measures) AS (
               SELECT id, parent, measures FROM versions WHERE id = :version
               UNION SELECT v.id, v.parent, v.measures FROM versions v JOIN line ON v.id = line.parent)
           SELECT d.value AS domain FROM line, json_each(line.measures, '$.domains') d
           UNION SELECT m.domain FROM line JOIN memory m ON m.version = line.parent ORDER BY domain""",
        {"version": version},
    )
    return [row["domain"] for row in rows]


def trainable_cases(connection: Connection) -> list[Case]:
    """Every labelled case of training patients, reference and feed."""
    return _cases(connection, _LABELLED + "AND p.split = 'train' ORDER BY c.seq")


def judge_cases(connection: Connection) -> list[Case]:
    """Every labelled case of the patients that judge."""
    return _cases(connection, _LABELLED + "AND p.split = 'judge' ORDER BY c.seq")


def next_reference(connection: Connection, live: str, learnt: Sequence[str]) -> list[Case]:
    """What is watched against next: what came since the change; too little of it is taken together with what the live
    version is watched against."""
    since = reference_cases(connection, learnt)
    parts = [patients([case for case in since if (case["split"] == "train") == taught]) for taught in (True, False)]
    if min(parts) >= LEAST_REFERENCE:
        return since
    known = epoch_cases(connection, live)[-MOST_REFERENCE:]
    return list({case["case_id"]: case for case in [*known, *since]}.values())


def reference_cases(connection: Connection, learnt: Sequence[str]) -> list[Case]:
    """Cases of `learnt` domains since the onset and of known ones since they changed last, labelled or not, with the
    patient's split: the next version is watched against them.

    A case that was too far out for an answer is left aside, unless its domain is one of the `learnt`, which people
    labelled: then the domain is new, and not of another modality or anatomy.
    """
    return _cases(
        connection,
        """SELECT c.case_id AS case_id, i.uri AS uri, i.media_type AS media_type, NULL AS label,
                  c.patient_key AS patient, c.domain AS domain, p.split AS split
           FROM observations o
           JOIN cases c ON c.case_id = o.case_id
           JOIN inputs i ON i.case_id = c.case_id AND i.role = 'image'
           JOIN patients p ON p.patient_key = c.patient_key
           WHERE o.role = 'live'
             AND CASE WHEN c.domain LIKE :episode OR c.domain IN (SELECT value FROM json_each(:known))
                 THEN o.number >= :changed AND (o.abstained = 0 OR c.domain IN (SELECT value FROM json_each(:learnt)))
                 ELSE o.number >= :onset AND c.domain IN (SELECT value FROM json_each(:learnt)) END
           ORDER BY o.number DESC LIMIT :most""",
        onset=onset(connection),
        changed=_latest_change_of_known(connection),
        most=MOST_REFERENCE,
        learnt=json.dumps(list(learnt)),
        known=json.dumps(sorted(known(connection))),
        episode=f"{EPISODE}%",
    )


def _latest_change_of_known(connection: Connection) -> int:
    """The onset of the latest shift of known domains, over or not: what came before it looks otherwise."""
    row = connection.execute(
        """SELECT coalesce(since_case, opened_at_case) AS since FROM alarms
           WHERE shift IS NOT NULL AND shift != 'far-out' AND stream != 'new' ORDER BY id DESC LIMIT 1"""
    ).fetchone()
    return int(row["since"]) if row else onset(connection)


def epoch_cases(connection: Connection, version: str) -> list[Case]:
    """The cases that a version is watched against: its own epoch's, else its nearest ancestor's."""
    epoch, _ = epoch_of(connection, version)
    return _cases(
        connection,
        """SELECT c.case_id AS case_id, i.uri AS uri, i.media_type AS media_type, NULL AS label,
                  c.patient_key AS patient, c.domain AS domain, p.split AS split
           FROM reference_members m
           JOIN cases c ON c.case_id = m.case_id
           JOIN inputs i ON i.case_id = c.case_id AND i.role = 'image'
           JOIN patients p ON p.patient_key = c.patient_key
           WHERE m.epoch = :epoch""",
        epoch=epoch,
    )


def answered(connection: Connection, version: str) -> set[str]:
    """The cases that the version has answered, live or for its reference."""
    rows = connection.execute("SELECT case_id FROM observations WHERE version = :version", {"version": version})
    return {row["case_id"] for row in rows}


def patients(cases: Sequence[Case]) -> int:
    return len({case["patient"] for case in cases})


def _cases(connection: Connection, statement: str, **values: Any) -> list[Case]:
    return [dict(row) for row in connection.execute(statement, values)]
