"""What an update learns from and is judged on, as the store knows it: never one patient on both sides."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

from agent.drift.domains import EPISODE, HOME, SERVED, known, learnt
from agent.drift.reference import epoch_of
from agent.store import Connection
from agent.workspace import get_setting

MOST_NEW = 4000  # an update learns from the latest so many cases
MOST_REFERENCE = 2000  # and a reference epoch holds the latest so many
LEAST_REFERENCE = 20  # patients to rank among; with fewer, the former reference stays in force beside them

_LABELLED = """
    SELECT c.case_id AS case_id, i.uri AS uri, i.media_type AS media_type, l.value AS label,
           c.patient_key AS patient, c.domain AS domain
    FROM cases c
    JOIN inputs i ON i.case_id = c.case_id AND i.role = 'image'
    JOIN labels l ON l.case_id = c.case_id AND l.kind = 'class'
    JOIN patients p ON p.patient_key = c.patient_key
    WHERE c.state = 'observed' AND c.alias_of IS NULL
"""

Case = dict[str, Any]  # case_id, uri, media_type, label, patient, domain


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
    """Labelled cases of training patients, observed since the onset, or of a site or scanner that the live version has
    not learnt, whenever they came; the latest MOST_NEW."""
    return _cases(
        connection,
        _LABELLED
        + """AND p.split = 'train' AND (
               c.case_id IN (SELECT case_id FROM observations WHERE role = 'live' AND number >= :onset)
               OR c.domain NOT LIKE :episode AND c.domain NOT IN (SELECT value FROM json_each(:learnt)))
             ORDER BY c.seq DESC LIMIT :most""",
        onset=onset(connection),
        episode=f"{EPISODE}%",
        learnt=json.dumps([HOME, *learnt(connection), *get_setting(connection, SERVED, [])]),
        most=MOST_NEW,
    )


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


def trainable_cases(connection: Connection) -> list[Case]:
    """Every labelled case of training patients, reference and feed."""
    return _cases(connection, _LABELLED + "AND p.split = 'train' ORDER BY c.seq")


def judge_cases(connection: Connection) -> list[Case]:
    """Every labelled case of the patients that judge."""
    return _cases(connection, _LABELLED + "AND p.split = 'judge' ORDER BY c.seq")


def reference_cases(connection: Connection, learnt: Sequence[str]) -> list[Case]:
    """Cases of known domains and of `learnt` ones since the onset, labelled or not, with the patient's split: the next
    version is watched against them.

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
           WHERE o.role = 'live' AND o.number >= :onset
             AND (c.domain IN (SELECT value FROM json_each(:learnt))
                  OR o.abstained = 0 AND (c.domain LIKE :episode OR c.domain IN (SELECT value FROM json_each(:known))))
           ORDER BY o.number DESC LIMIT :most""",
        onset=onset(connection),
        most=MOST_REFERENCE,
        learnt=json.dumps(list(learnt)),
        known=json.dumps(sorted(known(connection))),
        episode=f"{EPISODE}%",
    )


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
