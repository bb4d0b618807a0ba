"""Labels that come with a case or weeks after it: one per case and kind, the first stays."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Collection, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from agent.cases import truths
from agent.cases.datafolder import TRUTHS, below, read_csv
from agent.cases.findings import as_text, findings_of
from agent.cases.probe import Probe
from agent.cases.truths import intake_alone
from agent.cases.wanted import arm_of
from agent.clock import parse_time, rfc3339
from agent.errors import HomeostatError
from agent.store import Connection, insert, journal
from agent.tasks import task_of
from agent.workspace import Workspace, fsync_folder, get_setting, put_setting

COLUMNS = {"class": "label", "findings": "label", "mask": "mask", "boxes": "boxes"}  # of a CSV, by the kind of label
NAMED: dict[str, Callable[[str], list[str]]] = {"class": lambda value: [value], "findings": findings_of}  # by the kind
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
    """Gives a case its label inside an open transaction: text as `as_kept` has it, or where the file of a mask lies. A
    label of an alias goes to the case that it stands for.

    Answers "joined", "repeated" (it says so already), "conflict" (it says otherwise; the first stays) or "unknown"
    (there is no such case).
    """
    case = connection.execute(
        "SELECT COALESCE(alias_of, case_id) AS id FROM cases WHERE case_id = :case_id", {"case_id": case_id}
    ).fetchone()
    if case is None:
        return "unknown"
    said = connection.execute("SELECT value FROM labels WHERE case_id = :id", {"id": case["id"]}).fetchone()
    if said is not None:
        return "repeated" if said["value"] == value else "conflict"
    insert(
        connection,
        "labels",
        case_id=case["id"],
        kind=task_of(connection).kind,
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
    """Joins a CSV of late labels in one transaction; {"joined", "unknown", "conflicts", "refused"}. Masks and boxes lie
    below its folder; they are copied in, and held beside their images, before.

    `tell` gets one sentence per line that is not joined. Raises HomeostatError for wrong columns, and where every
    line is refused: then it is the file that is wrong.
    """
    columns, records = read_csv(file)
    with workspace.store.read() as connection:
        task = task_of(connection)
    column = COLUMNS[task.kind]
    if not {"case_id", column} <= set(columns):
        raise HomeostatError(f"{file} needs the columns 'case_id' and '{column}': the columns are {', '.join(columns)}")
    lines = list(records)
    uris = _taken_in(workspace, file, column, lines) if column in TRUTHS else {}
    counts: Counter[str] = Counter()
    conflicting: list[int] = []
    sentences: list[str] = []
    strange: set[str] = set()
    with workspace.store.transaction() as connection:
        now = workspace.now()
        classes = get_setting(connection, "classes", [])
        for line, cells in lines:
            try:
                if isinstance(cells, str):
                    raise ValueError(cells)
                if isinstance(wrong := uris.get(line), ValueError):
                    raise wrong
                said = _joined(connection, cells, task.kind, uris.get(line), classes, now)
            except ValueError as error:
                said = "refused"
                strange |= {*error.names} if isinstance(error, UnknownClass) else set()
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


def _taken_in(
    workspace: Workspace, file: Path, kind: str, lines: Sequence[tuple[int, dict[str, str] | str]]
) -> dict[int, str | ValueError]:
    """By line: where its label's file lies now, or why it is none; lines of unknown cases are left out."""
    root, taken = file.resolve().parent, dict[int, str | ValueError]()
    with workspace.store.read() as connection, intake_alone(workspace), Probe(_slices(connection)) as probe:
        classes = get_setting(connection, "classes", [])
        copy = workspace.path("objects", "incoming", "late")
        copy.parent.mkdir(exist_ok=True)
        for line, cells in lines:
            image = _image_of(connection, cells["case_id"]) if isinstance(cells, dict) else None
            if image is None or isinstance(cells, str):
                continue
            try:
                source = below(root, cells[kind], kind)
            except ValueError as error:
                taken[line] = error
                continue
            image_file = workspace.path(image["uri"])
            staged = truths.stage(source, kind, copy, image_file, image["media_type"], classes, probe)
            if not staged.reason:
                fsync_folder(truths.place(workspace, staged))
            taken[line] = ValueError(staged.reason) if staged.reason else staged.uri
    return taken


def _slices(connection: Connection) -> int:
    return int(get_setting(connection, "slices", 1))


def _image_of(connection: Connection, case_id: str) -> Any:
    return connection.execute(
        """SELECT i.uri, i.media_type FROM cases c JOIN inputs i
           ON i.case_id = COALESCE(c.alias_of, c.case_id) AND i.role = 'image' WHERE c.case_id = :id""",
        {"id": case_id},
    ).fetchone()


def _joined(
    connection: Connection, cells: dict[str, str], kind: str, uri: Any, classes: Collection[str], now: datetime
) -> str:
    """`uri` is where the label's file lies, for a label that is one."""
    column = COLUMNS[kind]
    if not cells["case_id"] or not cells[column]:
        raise ValueError(f"the case id or the {column} is empty")
    if kind in TRUTHS and uri is None:
        return "unknown"
    value = uri if kind in TRUTHS else as_kept(kind, cells[column], classes)
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
        value,
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


class UnknownClass(ValueError):
    """A label has `names` that the model doesn't know."""

    def __init__(self, names: Sequence[str], classes: Collection[str]) -> None:
        self.names = names
        said = f"{', '.join(map(repr, names))} {'is' if len(names) == 1 else 'are'}"
        super().__init__(f"{said} none of the model's classes ({', '.join(classes)})")


def as_kept(kind: str, value: str, classes: Collection[str]) -> str:
    """A label that is text, as the store keeps it: of a set of findings one order. Without declared classes every one
    is known. Raises UnknownClass, and ValueError where a label contradicts itself."""
    names = NAMED[kind](value)
    if unknown := [name for name in names if classes and name not in classes]:
        raise UnknownClass(unknown, classes)
    return as_text(names)
