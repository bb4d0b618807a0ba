"""Answers whose labels have come: which of them a decision tick reads, and what they are compared with.

A label comes weeks after its image, and each is read once: at the tick of its case where it came with it, else at the
next tick after it came. One that comes while another version is live says nothing of that one: it waits for the version
that gave the answer, and is read at the first tick after a rollback to it. The labels of patients whom the live version
may have learnt from say nothing of the others, nor do those that were asked for because the answer was unsure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from agent.drift.domains import HOME, known, place_of
from agent.drift.reference import ROWS, batch_of, calibration_rows, classes_in, read_reference
from agent.store import Connection
from agent.workspace import get_setting, put_setting

if TYPE_CHECKING:
    from monitors import Batch, Reference

READ = "labels_read_of"  # setting: by version, [id of the last label, number of the last case] that its ticks have read
LEAST = 20  # labelled patients of the reference, in all and of a domain, with which outcomes are compared

UNTAUGHT = """NOT EXISTS (
    SELECT 1 FROM cases k JOIN patients p ON p.patient_key = k.patient_key AND p.split = 'train'
    JOIN labels earlier ON earlier.case_id = k.case_id
    JOIN versions made ON made.id = o.version
    WHERE k.patient_key = c.patient_key AND earlier.received_at <= made.created_at)"""


def compared(connection: Connection, epoch: int, version: str, facts: Sequence[str]) -> Reference:
    """The reference with these facts and the classes of its calibration cases as they were known when its epoch was
    opened, in strata by domain; those of domains with fewer than LEAST labelled patients count as unlabelled."""
    import numpy as np

    reference = read_reference(connection, epoch, version, facts)
    rows = calibration_rows(connection, epoch, version, as_opened=True)
    target = classes_in(connection, rows)
    domains = np.array([place_of(row["domain"] or HOME) for row in rows], np.str_)
    calibrate = reference.calibrate
    for domain in np.unique(domains):
        its = domains == domain
        if len(np.unique(calibrate.unit[its & (target >= 0)])) < LEAST:
            target[its] = -1
    return replace(reference, calibrate=replace(calibrate, target=target, stratum=domains))


def has_come(connection: Connection) -> bool:
    """Whether a label other than the reference's has ever come."""
    row = connection.execute(
        """SELECT 1 FROM labels l JOIN cases c ON c.case_id = l.case_id WHERE c.origin = 'feed'
           ORDER BY l.id DESC LIMIT 1"""
    ).fetchone()
    return row is not None


def came(
    connection: Connection,
    live: str,
    epoch: int,
    numbers: Sequence[int],
    domains: Sequence[str],
    facts: Sequence[str],
) -> tuple[Batch, list[int]]:
    """(cases of these known domains with labels, in their own order and none of the reference, for the tick of these
    observations; up to which label and case that is, for `read_up_to`)."""
    import numpy as np

    label, case = get_setting(connection, READ, {}).get(live, (0, 0))
    newest = [
        connection.execute("SELECT coalesce(max(id), 0) FROM labels").fetchone()[0],
        numbers[-1] if numbers else _decided(connection),
    ]
    rows = connection.execute(
        ROWS.replace("SELECT ", "SELECT l.value AS value, ", 1)
        + f"""JOIN labels l ON l.case_id = o.case_id
              WHERE o.case_id IN (SELECT case_id FROM observations WHERE number > :case AND number <= :last
                                  UNION SELECT case_id FROM labels WHERE id > :label)
                AND o.role = 'live' AND o.version = :live AND o.abstained = 0 AND l.arm != 'active'
                AND o.number <= :last AND (o.number > :case OR l.id > :label)
                AND NOT EXISTS (SELECT 1 FROM reference_members m WHERE m.epoch = :epoch AND m.case_id = o.case_id)
                AND {UNTAUGHT}
              ORDER BY o.number""",
        {"live": live, "epoch": epoch, "label": label, "case": case, "last": newest[1]},
    ).fetchall()
    is_known = known(connection)
    rows = [row for row in rows if place_of(row["domain"]) in domains and place_of(row["domain"]) in is_known]
    target = classes_in(connection, rows)
    stratum = np.array([place_of(row["domain"]) for row in rows], np.str_)
    return replace(batch_of(rows, facts=facts), target=target, stratum=stratum), newest


def read_up_to(connection: Connection, live: str, newest: Sequence[int]) -> None:
    """Keeps what a tick of the live version has read, in the tick's transaction."""
    put_setting(connection, READ, {**get_setting(connection, READ, {}), live: [*newest]})


def _decided(connection: Connection) -> int:
    """The number of the last case that a tick has read."""
    row = connection.execute(
        "SELECT number FROM observations WHERE tick IS NOT NULL AND number IS NOT NULL ORDER BY number DESC LIMIT 1"
    ).fetchone()
    return int(row["number"]) if row else 0
