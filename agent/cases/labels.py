"""Labels that come with a case or weeks after it: one per case and kind, the first stays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection
from datetime import datetime
from pathlib import Path

from agent.cases.datafolder import read_csv
from agent.cases.wanted import arm_of
from agent.clock import parse_time, rfc3339
from agent.errors import HomeostatError
from agent.store import Connection, insert, journal
from agent.workspace import Workspace, get_setting, put_setting

YES_NO = {"": None, "true": 1, "yes": 1, "1": 1, "false": 0, "no": 0, "0": 0}
NAMED_CONFLICTS = 20  # so many a journal event names; more are only counted
UNKNOWN = "unknown_classes"  # setting: names of classes that labels had and the model has not
MOST_UNKNOWN, LONGEST_NAME = 20, 100  # of them are kept, so many letters of each: it may be the wrong column


def join(
    connection: Connection,
    case_id: str,
    value: str,
    *,
    arm: str,
    at: datetime,
    by: str | None = None,
    labelled_at: str | None = None,
    model_output_seen: int | None = None,
) -> str:
    """Gives a case its class inside an open transaction; a label of an alias goes to the case that it stands for.

    Answers "joined", "repeated" (it says so already), "conflict" (it says otherwise; the first stays) or "unknown"
    (there is no such case).
    """
    case = connection.execute(
        "SELECT COALESCE(alias_of, case_id) AS id FROM cases WHERE case_id = :case_id", {"case_id": case_id}
    ).fetchone()
    if case is None:
        return "unknown"
    said = connection.execute(
        "SELECT value FROM labels WHERE case_id = :id AND kind = 'class'", {"id": case["id"]}
    ).fetchone()
    if said is not None:
        return "repeated" if said["value"] == value else "conflict"
    insert(
        connection,
        "labels",
        case_id=case["id"],
        kind="class",
        value=value,
        by=by,
        at=labelled_at,
        received_at=rfc3339(at),
        model_output_seen=model_output_seen,
        arm=arm_of(connection, case["id"]) or arm,
    )
    return "joined"


def case_number(connection: Connection, case_id: str) -> int:
    """The number by which the journal names a case, whose id may be a file's name or a patient's."""
    return int(connection.execute("SELECT seq FROM cases WHERE case_id = :id", {"id": case_id}).fetchone()["seq"])


def import_labels(workspace: Workspace, file: Path, *, tell: Callable[[str], None] = lambda _: None) -> dict[str, int]:
    """Joins a CSV of late labels in one transaction; {"joined", "unknown", "conflicts", "refused"}.

    `tell` gets one sentence per line that is not joined. Raises HomeostatError for wrong columns, and where every
    line is refused: then it is the file that is wrong.
    """
    columns, records = read_csv(file)
    if "case_id" not in columns or not {"label", "mask", "boxes"} & set(columns):
        raise HomeostatError(f"{file} needs the columns 'case_id' and 'label': the columns are {', '.join(columns)}")
    if "label" not in columns:
        raise HomeostatError(f"{file} has masks or boxes, which a later part reads: this one joins the column 'label'")
    counts: Counter[str] = Counter()
    conflicting: list[int] = []
    sentences: list[str] = []
    strange: set[str] = set()
    with workspace.store.transaction() as connection:
        now = workspace.now()
        classes = get_setting(connection, "classes", [])
        for line, cells in records:
            if isinstance(cells, dict) and cells["label"] and unknown_class(cells["label"], classes):
                strange.add(cells["label"])
            try:
                said = _joined(connection, cells, classes, now)
            except ValueError as error:
                said = "refused"
                sentences.append(f"line {line} of {file.name} is left out: {error}")
            counts[said] += 1
            if said == "unknown":
                sentences.append(f"line {line} of {file.name} is left out: there is no such case")
            if said == "conflict" and isinstance(cells, dict):
                conflicting.append(case_number(connection, cells["case_id"]))
                sentences.append(
                    f"line {line} of {file.name} is left out: the case has another label, and the first stays"
                )
        if counts.total() == counts["refused"]:
            raise HomeostatError(f"{file} has no line to join" + (f": {sentences[0]}" if sentences else ""))
        answer = {
            "joined": counts["joined"],
            "unknown": counts["unknown"],
            "conflicts": counts["conflict"],
            "refused": counts["refused"],
        }
        keep_unknown(connection, strange, by="labels import", at=now)
        if any(answer.values()):
            body = {**answer, "conflicting": conflicting[:NAMED_CONFLICTS]}
            journal.append(connection, "labels_imported", at=now, by="labels import", body=body)
    for sentence in sentences:
        tell(sentence)
    return answer


def _joined(connection: Connection, cells: dict[str, str] | str, classes: Collection[str], now: datetime) -> str:
    if isinstance(cells, str):
        raise ValueError(cells)
    if not cells["case_id"] or not cells["label"]:
        raise ValueError("the case id or the label is empty")
    if wrong := unknown_class(cells["label"], classes):
        raise ValueError(wrong)
    seen = cells.get("model_output_seen", "").lower()
    if seen not in YES_NO:
        raise ValueError("model_output_seen is neither true nor false")
    try:
        labelled_at = rfc3339(parse_time(cells["labelled_at"])) if cells.get("labelled_at") else None
    except (ValueError, OverflowError):
        raise ValueError("labelled_at is no time as in 2026-03-01T08:15:00Z or 2026-03-01") from None
    return join(
        connection,
        cells["case_id"],
        cells["label"],
        arm="import",
        at=now,
        by=cells.get("labelled_by") or None,
        labelled_at=labelled_at,
        model_output_seen=YES_NO[seen],
    )


def keep_unknown(connection: Connection, names: Collection[str], *, by: str, at: datetime) -> None:
    """Keeps the names of classes that nobody has seen before, for `status`, and journals how many they are, inside the
    caller's transaction: people are told of that once. What a label says may be a patient's: no name is journaled."""
    kept = get_setting(connection, UNKNOWN, [])
    new = sorted({name[:LONGEST_NAME] for name in names} - {*kept})[: MOST_UNKNOWN - len(kept)]
    if new:
        put_setting(connection, UNKNOWN, [*kept, *new])
        journal.append(connection, "class_unknown", at=at, by=by, body={"names": len(new)})


def unknown_class(value: str, classes: Collection[str]) -> str:
    """ "" where the model knows the class, else a sentence. Without declared classes every one is known."""
    if not classes or value in classes:
        return ""
    return f"{value!r} is none of the model's classes ({', '.join(classes)})"
