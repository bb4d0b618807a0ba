"""Reference epochs: the approved cases that the stream is compared with, one epoch per version approved on them."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from agent.clock import parse_time, rfc3339
from agent.errors import HomeostatError
from agent.store import Connection, insert, journal
from agent.tasks import task_of
from agent.workspace import get_setting

if TYPE_CHECKING:
    from monitors.protocols import Batch, Reference


def open_epoch(
    connection: Connection, *, version: str, sensor: str, members: Mapping[str, str], at: datetime, by: str
) -> int:
    """Opens the epoch of `version` over `members` (case id -> "transform" or "calibrate"). Returns its number."""
    epoch = connection.execute("SELECT coalesce(max(epoch), 0) + 1 FROM reference_epochs").fetchone()[0]
    insert(connection, "reference_epochs", epoch=epoch, version=version, sensor=sensor, opened_at=rfc3339(at))
    connection.executemany(
        "INSERT INTO reference_members (epoch, case_id, part) VALUES (?, ?, ?)",
        [(epoch, case, part) for case, part in sorted(members.items())],
    )
    parts = list(members.values())
    body = {"epoch": epoch, "version": version, **{part: parts.count(part) for part in ("transform", "calibrate")}}
    journal.append(connection, "reference_opened", at=at, by=by, body=body)
    return epoch


def epoch_of(connection: Connection, version: str) -> tuple[int, str]:
    """(epoch, version it belongs to): the version's own, else that of its nearest ancestor that has one."""
    name: str | None = version
    while name is not None:
        found = connection.execute(
            "SELECT epoch FROM reference_epochs WHERE version = :v ORDER BY epoch DESC LIMIT 1", {"v": name}
        ).fetchone()
        if found:
            return found["epoch"], name
        row = connection.execute("SELECT parent FROM versions WHERE id = :v", {"v": name}).fetchone()
        name = row["parent"] if row else None
    raise HomeostatError(
        f"version {version} has no reference to be watched against: make the workspace anew with 'init'"
    )


def approved_epoch(connection: Connection) -> tuple[int, str]:
    """(epoch, version) that home was approved on: those of `init`, or those in force when the latest shift of known
    domains was dealt with.

    A new scanner that is learnt moves what the stream is watched against, and not this: what crept in at home between
    two such steps, each too short to be seen, adds up here.
    """
    row = connection.execute(
        """SELECT e.epoch, e.version FROM alarms a
           JOIN activations v ON v.scope = '*' AND v.at <= a.closed_at
           JOIN reference_epochs e ON e.version = v.version AND e.opened_at <= a.closed_at
           WHERE a.state = 'closed' AND a.shift IS NOT NULL AND a.shift != 'far-out' AND a.stream != 'new'
             AND NOT EXISTS (SELECT 1 FROM activations back WHERE back.how = 'rollback' AND back.at = a.closed_at)
           ORDER BY a.closed_at DESC, v.generation DESC, e.epoch DESC LIMIT 1"""
    ).fetchone()
    row = row or connection.execute("SELECT epoch, version FROM reference_epochs ORDER BY epoch LIMIT 1").fetchone()
    if row is None:
        raise HomeostatError("this workspace has no reference to be watched against: make it anew with 'init'")
    return row["epoch"], row["version"]


PATIENTS = ("age", "sex")  # facts that every shift is named with

ROWS = """
    SELECT o.number, o.case_id, o.scores, o.embedding, o.version, o.sensor,
           c.patient_key, c.domain, c.acquired_at, c.site, c.scanner, c.facts, a.quality, i.media_type, said.sure
    FROM observations o JOIN cases c ON c.case_id = o.case_id LEFT JOIN appearances a ON a.case_id = o.case_id
    LEFT JOIN inputs i ON i.case_id = o.case_id AND i.role = 'image'
    LEFT JOIN answers said ON said.observation = o.id
"""


def read_approved(connection: Connection, version: str) -> Reference:
    """The cases that the version or any of its ancestors was approved on: what is not far from them is not far out."""
    from monitors.protocols import Reference

    chain: list[str] = []
    name: str | None = version
    while name is not None:
        chain.append(name)
        row = connection.execute("SELECT parent FROM versions WHERE id = :v", {"v": name}).fetchone()
        name = row["parent"] if row else None
    parts = {}
    for part in ("transform", "calibrate"):
        rows = connection.execute(
            ROWS
            + """WHERE o.case_id IN (
                     SELECT m.case_id FROM reference_members m JOIN reference_epochs e ON e.epoch = m.epoch
                     WHERE m.part = :part AND e.version IN (SELECT value FROM json_each(:chain)))
                 GROUP BY o.case_id ORDER BY c.acquired_at, c.seq""",
            {"part": part, "chain": json.dumps(chain)},
        ).fetchall()
        parts[part] = batch_of(rows)
    return Reference(**parts)


def read_reference(connection: Connection, epoch: int, version: str, facts: Sequence[str] = ()) -> Reference:
    """What `version` said and the sensor saw of the epoch's cases, both parts."""
    from monitors.protocols import Reference

    parts = {}
    for part in ("transform", "calibrate"):
        rows = connection.execute(
            ROWS
            + """JOIN reference_members m ON m.case_id = o.case_id AND m.epoch = :epoch AND m.part = :part
                 WHERE o.version = :version GROUP BY o.case_id ORDER BY c.acquired_at, c.seq""",
            {"epoch": epoch, "part": part, "version": version},
        ).fetchall()
        parts[part] = batch_of(rows, facts=facts)
    return Reference(**parts)


def classes_in(connection: Connection, rows: Sequence[Mapping[str, Any]]) -> Any:
    """[n] the class index of rows with a label's `value`; -1 without one, and where a case is not of one class."""
    import numpy as np

    task = task_of(connection)
    if task.kind != "class":
        return np.full(len(rows), -1, np.int64)
    return task.targets([row["value"] for row in rows], get_setting(connection, "classes", []))


def calibration_rows(
    connection: Connection, epoch: int, version: str, as_opened: bool = False
) -> list[Mapping[str, Any]]:
    """The domain and the label (None without one) of each calibration case of `read_reference`, in its order, with the
    patient and what the kept answer was worth and expected.

    as_opened: labels that came after the epoch was opened are left out, so that the answer stays the same.
    """
    return connection.execute(
        """SELECT o.case_id, c.domain, c.patient_key, l.value, said.worth, said.sure
           FROM observations o JOIN cases c ON c.case_id = o.case_id
           LEFT JOIN answers said ON said.observation = o.id
           JOIN reference_members m ON m.case_id = o.case_id AND m.epoch = :epoch AND m.part = 'calibrate'
           LEFT JOIN labels l ON l.case_id = o.case_id
             AND (NOT :as_opened OR l.received_at <= (SELECT opened_at FROM reference_epochs WHERE epoch = :epoch))
           WHERE o.version = :version GROUP BY o.case_id ORDER BY c.acquired_at, c.seq""",
        {"epoch": epoch, "version": version, "as_opened": as_opened},
    ).fetchall()


def classes_of(connection: Connection, cases: Sequence[str]) -> Any:
    """[n] the class index of each of these cases; -1 where there is no label, or where it was asked for because the
    answer was unsure: such labels are no sample of the others."""
    rows = connection.execute(
        """SELECT case_id, value FROM labels
           WHERE arm != 'active' AND case_id IN (SELECT value FROM json_each(?))""",
        (json.dumps(list(cases)),),
    )
    said = {row["case_id"]: row["value"] for row in rows}
    return classes_in(connection, [{"value": said.get(case)} for case in cases])


def batch_of(rows: Sequence[Mapping[str, Any]], tick_time: float = float("nan"), facts: Sequence[str] = ()) -> Batch:
    """The monitors' record of observed rows (columns of ROWS) with these facts; reference rows are numbered 1..n."""
    import numpy as np

    from monitors.protocols import Batch

    def matrix(column: str) -> Any:
        return np.stack([np.frombuffer(row[column], "<f4") for row in rows]) if rows else np.zeros((0, 0), np.float32)

    return Batch(
        index=np.array([row["number"] or i for i, row in enumerate(rows, 1)], np.int64),
        unit=np.array([row["patient_key"] for row in rows], np.str_),
        stratum=np.array([row["scanner"] or "" for row in rows], np.str_),
        time=np.array([_seconds(row["acquired_at"]) for row in rows], np.float64),
        outputs=matrix("scores"),
        embedding=matrix("embedding"),
        version=rows[0]["version"] if rows else "",
        sensor=rows[0]["sensor"] if rows else "",
        tick_time=tick_time,
        facts=_facts(rows, facts),
        form=_form(rows),
        quality=_quality(rows),
    )


COLUMNS = ("site", "scanner", "acquired_at")  # of `cases`; age and sex are facts


def _form(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What came with each case: the type of its file and its pixels, and which of the standard columns had a value."""
    import numpy as np

    there = [{**json.loads(row["facts"]), **{column: row[column] for column in COLUMNS}} for row in rows]
    form = {name: ["there" if one.get(name) else "" for one in there] for name in (*COLUMNS, *PATIENTS)}
    form["type of file"] = [row["media_type"] or "" for row in rows]
    form["pixels"] = [one.get("pixels") or "" for one in there]
    return {name: np.array(values, np.str_) for name, values in form.items()}


def _quality(rows: Sequence[Mapping[str, Any]]) -> Any:
    """[n, q], NaN for a case whose image nobody has described; [n, 0] where that is none's."""
    import numpy as np

    looks = [None if row["quality"] is None else np.frombuffer(row["quality"], "<f4") for row in rows]
    width = max((len(look) for look in looks if look is not None), default=0)
    blank = np.full(width, np.nan, np.float32)
    return np.stack([blank if look is None else look for look in looks]) if rows else np.zeros((0, 0), np.float32)


def _facts(rows: Sequence[Mapping[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """The named facts of the cases as text, and who the patients are; an age is a number, NaN where it is unknown."""
    import numpy as np

    facts = [{**json.loads(row["facts"]), "scanner": row["scanner"]} for row in rows]
    text = {
        name: [str(fact[name]) if fact.get(name) is not None else "" for fact in facts]
        for name in dict.fromkeys((*PATIENTS, *names))
    }
    return {name: np.array(values, np.str_) for name, values in text.items() if name != "age"} | {
        "age": np.array([_number(age) for age in text["age"]], np.float64)
    }


def _number(text: str) -> float:
    try:
        return float(text)
    except ValueError:
        return float("nan")


def _seconds(acquired_at: str | None) -> float:
    return float("nan") if acquired_at is None else parse_time(acquired_at).timestamp()


def observed_rows(connection: Connection, numbers: Iterable[int]) -> list[Mapping[str, Any]]:
    """Rows of the live observations with these numbers, in order; the numbers are consecutive."""
    wanted = sorted(numbers)
    if not wanted:
        return []
    return connection.execute(
        ROWS + "WHERE o.number BETWEEN :first AND :last ORDER BY o.number", {"first": wanted[0], "last": wanted[-1]}
    ).fetchall()
