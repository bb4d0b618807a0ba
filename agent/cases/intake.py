"""The intake: files in, durable cases out. Whatever dies in between, no case is lost and none is there twice.

A batch of cases goes three steps, each of which can be done again. The bytes are copied in and decoded once, so that
what is kept is what was looked at. The copies are renamed by their content, to `objects/` or to `quarantine/`. One
transaction writes the cases, their labels and the journal event: only this step makes a case.
"""

from __future__ import annotations

import json
import os
from collections import Counter, defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from hashlib import sha256
from pathlib import Path

from agent.cases import quarantine, truths
from agent.cases.datafolder import LIST, TRUTHS, Folder, Row, read_folder
from agent.cases.images import media_type
from agent.cases.labels import NAMED_CONFLICTS, UnknownClass, as_kept, case_number, join, keep_unknown
from agent.cases.probe import Probe
from agent.cases.pseudonym import patient_key, study_key
from agent.cases.quarantine import TAKEN, Cause
from agent.cases.split import Split
from agent.cases.truths import StagedTruth, intake_alone, uri_of
from agent.clock import rfc3339
from agent.errors import HomeostatError
from agent.store import Connection, insert, journal
from agent.tasks import task_of
from agent.workspace import Workspace, fsync_folder, get_setting

COUNTS = ("accepted", "duplicates", "quarantined", "labels", "unknown_classes", "conflicts", "wrong_labels")
CASES_AT_ONCE = 64  # per transaction: so many share the cost of one commit
CHUNK = 2**20

Progress = Callable[[str, int, int], None]  # (what, done, of)
Tell = Callable[[str], None]


@dataclass
class Staged:
    """A case on its way in.

    copy: its bytes in the workspace, None where they are there already or could not be had. pixels: their depth and
    kind. reason: why it is refused, if it is, and cause: the same in a word. name: what it is called in quarantine.
    truth: a label that is a file, where it has one; one that is refused costs the label and not the case, as one that
    is text and contradicts itself does (`contradiction`).
    """

    row: Row
    copy: Path | None
    digest: str
    media_type: str = ""
    pixels: str = ""
    reason: str = ""
    cause: Cause | None = None
    name: str = ""
    truth: StagedTruth | None = None
    contradiction: str = ""


class Intake:
    """Takes data folders into a workspace. `tell` gets one sentence for each case that is refused."""

    def __init__(
        self,
        workspace: Workspace,
        *,
        progress: Progress = lambda what, done, of: None,
        tell: Tell = lambda sentence: None,
    ) -> None:
        self.workspace = workspace
        self.progress = progress
        self.tell = tell

    @cached_property
    def split(self) -> Split:
        return Split.read(self.workspace.base)

    def take(
        self, path: Path, where: Sequence[str] = (), *, labels: bool = True, origin: str = "feed"
    ) -> dict[str, int]:
        """Takes a data folder; `origin` is "feed" or "reference".

        Counts what this call saw: "accepted", "duplicates" (the id with the same bytes, or the bytes under another
        id, are there already), "quarantined", and of labels "labels" (joined), "unknown_classes", "conflicts"
        and "wrong_labels" (files that are none, findings that contradict each other).
        Raises HomeostatError where the folder or the workspace as a whole can't be used.
        """
        return self.take_cases(read_folder(path, where), labels=labels, origin=origin)

    def take_cases(self, folder: Folder, *, labels: bool = True, origin: str = "feed") -> dict[str, int]:
        """`take` for a folder that was read already."""
        total = dict.fromkeys(COUNTS, 0)
        batches: list[Sequence[Row]] = [
            folder.rows[i : i + CASES_AT_ONCE] for i in range(0, len(folder.rows), CASES_AT_ONCE)
        ]
        write = partial(self._commit, split=self.split, labels=labels, origin=origin, total=total)
        done = 0
        try:
            if folder.refused:
                with intake_alone(self.workspace):
                    write(self._refused_lines(folder))
            with self.workspace.store.read() as connection:
                slices = get_setting(connection, "slices", 1)
            with Probe(slices) as probe:
                for rows in batches:
                    with intake_alone(self.workspace):
                        write(self._staged(rows, probe, labels))
                    done += len(rows)
                    self.progress("cases taken in", done, len(folder.rows))
        except OSError as error:
            raise HomeostatError(
                f"{self.workspace.root} can't be written ({error.strerror}): free space on its disk or check its "
                "permissions, then feed the same folder again; what was taken in so far is kept"
            ) from error
        return total

    # first step: copy and look --------------------------------------------------------------------------------------

    def _staged(self, rows: Sequence[Row], probe: Probe, labels: bool) -> list[Staged]:
        staging = self.workspace.path("objects", "incoming")
        staging.mkdir(exist_ok=True)
        for leftover in staging.iterdir():
            leftover.unlink()
        with self.workspace.store.read() as connection:
            known = _Known(connection)
            staged = [self._stage(row, staging / str(i), known, probe) for i, row in enumerate(rows)]
            kind = task_of(connection).kind
            if labels and kind in TRUTHS:
                classes = get_setting(connection, "classes", [])
                for i, case in enumerate(staged):
                    self._stage_truth(case, kind, staging / f"{i}.{kind}", classes, probe)
        return staged

    def _stage_truth(self, case: Staged, kind: str, copy: Path, classes: Sequence[str], probe: Probe) -> None:
        row = case.row
        if case.reason:
            return
        if source := row.truths.get(kind):
            image = case.copy or self.workspace.path(uri_of(case.digest))
            case.truth = truths.stage(source, kind, copy, image, case.media_type, classes, probe)
        elif wrong := row.wrong.get(kind):
            case.truth = StagedTruth(copy, "", wrong)

    def _stage(self, row: Row, copy: Path, known: _Known, probe: Probe) -> Staged:
        place = f"line {row.line} of {LIST}: " if row.line else ""
        try:
            source = row.file.open("rb")
        except OSError as error:
            reason = f"{place}the file can't be opened ({error.strerror})"
            digest = sha256(row.case_id.encode()).hexdigest()
            return Staged(row, None, digest, reason=reason, cause=Cause.UNOPENED)
        hashed = sha256()
        with source, copy.open("wb") as out:
            while chunk := source.read(CHUNK):
                hashed.update(chunk)
                out.write(chunk)
        case = Staged(row, copy, hashed.hexdigest())
        if known.digest_of(row.case_id) not in (None, case.digest):
            case.reason, case.cause = f"{place}its case id belongs to another image already", Cause.ID_TAKEN
            return case
        case.media_type = known.media_type(case.digest)
        if case.media_type:
            case.copy = None
            copy.unlink()
        else:
            case.media_type = media_type(copy)
            wrong, case.pixels = probe.look(copy, case.media_type)
            if wrong:
                case.reason, case.cause = f"{place}{wrong}", Cause.UNREADABLE
                return case
        known.add(case)
        return case

    def _refused_lines(self, folder: Folder) -> list[Staged]:
        listed = folder.root / LIST
        name, digest = quarantine.keep_lines(self.workspace, listed, [refusal.reason for refusal in folder.refused])
        return [
            Staged(
                Row(file=listed, case_id="", patient_id="", line=refusal.line),
                copy=None,
                digest=f"{digest}:{refusal.line}",
                reason=refusal.reason,
                cause=Cause.LINE,
                name=name,
            )
            for refusal in folder.refused
        ]

    # second step: rename by content ---------------------------------------------------------------------------------

    def _place(self, case: Staged) -> Path | None:
        """Gives the copy its lasting name and returns the folder that changed."""
        if case.copy is not None:
            with case.copy.open("rb") as file:
                os.fsync(file.fileno())
        if case.reason and not case.name:
            case.name = quarantine.keep(self.workspace, case.row.file.name, case.reason, case.digest, case.copy)
        elif case.copy is not None:
            target = self.workspace.path(uri_of(case.digest))
            target.parent.mkdir(exist_ok=True)
            case.copy.replace(target)
            return target.parent
        return None

    # third step: one transaction ------------------------------------------------------------------------------------

    def _commit(
        self, staged: Sequence[Staged], *, split: Split, labels: bool, origin: str, total: dict[str, int]
    ) -> None:
        changed = {self._place(case) for case in staged} - {None}
        changed |= {truths.place(self.workspace, case.truth) for case in staged if case.truth and not case.truth.reason}
        for folder in changed:
            assert folder is not None
            fsync_folder(folder)
        if changed:
            fsync_folder(self.workspace.path("objects"))
        with self.workspace.store.transaction() as connection:
            writer = _Writer(connection, self.workspace, split, origin)
            for case in staged:
                writer.refuse(case) if case.reason else writer.accept(case, labels)
            writer.report()
        for name in total:
            total[name] += writer.counts[name]
        for case in staged:
            if case.reason:
                self.tell(f"quarantine/{case.name}: {case.reason}")
            if wrong := case.contradiction or (case.truth.reason if case.truth else ""):
                place = f"line {case.row.line} of {LIST}: " if case.row.line else ""
                self.tell(f"{place}the case is taken without its label: {wrong}")


class _Known:
    """Which ids and bytes there are, in the store and in the batch at hand."""

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self.digests: dict[str, str] = {}
        self.media_types: dict[str, str] = {}

    def digest_of(self, case_id: str) -> str | None:
        return self.digests.get(case_id) or self._one("digest", "case_id", case_id)

    def media_type(self, digest: str) -> str:
        return self.media_types.get(digest) or self._one("media_type", "digest", digest) or ""

    def add(self, case: Staged) -> None:
        self.digests[case.row.case_id] = case.digest
        self.media_types[case.digest] = case.media_type

    def _one(self, column: str, by: str, value: str) -> str | None:
        query = f"SELECT {column} AS found FROM inputs WHERE {by} = :value AND role = 'image'"
        found = self.connection.execute(query, {"value": value}).fetchone()
        return None if found is None else found["found"]


class _Writer:
    """The rows of one batch, inside its transaction."""

    def __init__(self, connection: Connection, workspace: Workspace, split: Split, origin: str) -> None:
        self.connection = connection
        self.workspace = workspace
        self.split = split
        self.origin = origin
        self.at = workspace.now()
        self.task = task_of(connection)
        self.classes: list[str] = get_setting(connection, "classes", [])
        self.counts: Counter[str] = Counter()
        self.conflicting: list[int] = []
        self.patients: dict[str, set[str]] = defaultdict(set)  # by what became of them
        self.unknown: set[str] = set()  # names of classes
        self.news = False

    def refuse(self, case: Staged) -> None:
        self.counts["quarantined"] += 1
        if quarantine.record(self.connection, case.name, case.reason, case.digest, self.at):
            self.news = True
            self.patients[str(case.cause)].add(case.row.patient_id or case.digest)

    def accept(self, case: Staged, labels: bool) -> None:
        if self._there(case):
            self.counts["duplicates"] += 1
        else:
            self.news = True
            is_alias = self._add(case)
            self.counts["duplicates" if is_alias else "accepted"] += 1
            if not is_alias:
                self.patients[TAKEN].add(case.row.patient_id)
        if labels and self.task.kind in TRUTHS:
            self._label_by_file(case)
        elif labels and case.row.label:
            self._label(case, case.row.label)

    def report(self) -> None:
        """One event, unless this batch brought nothing new. Cases are named by number, never by id."""
        keep_unknown(self.connection, self.unknown, by="intake", at=self.at)
        if self.news or self.counts["conflicts"]:
            body = {"origin": self.origin, **self.counts, "conflicting": self.conflicting[:NAMED_CONFLICTS]}
            body |= {"patients": {what: len(ids) for what, ids in self.patients.items()}}
            journal.append(self.connection, "cases_taken_in", at=self.at, by="intake", body=body)

    def _there(self, case: Staged) -> bool:
        query = "SELECT 1 FROM cases WHERE case_id = :case_id"
        return self.connection.execute(query, {"case_id": case.row.case_id}).fetchone() is not None

    def _add(self, case: Staged) -> bool:
        """Adds the case; True where it is an alias, which nobody observes because its bytes were seen already."""
        row = case.row
        facts = {**({"pixels": case.pixels} if case.pixels else {}), **row.facts}
        original = self.connection.execute(
            "SELECT cases.case_id, cases.patient_key, patients.split FROM inputs "
            "JOIN cases USING (case_id) JOIN patients USING (patient_key) "
            "WHERE inputs.digest = :digest AND cases.alias_of IS NULL",
            {"digest": case.digest},
        ).fetchone()
        key = self._patient(row.patient_id, original["split"] if original else None)
        insert(
            self.connection,
            "cases",
            case_id=row.case_id,
            alias_of=original["case_id"] if original else None,
            origin=self.origin,
            state="observed" if original else "pending",
            patient_key=key,
            study_key=study_key(self.workspace.key, row.study) if row.study else None,
            site=row.site,
            scanner=row.scanner,
            acquired_at=row.acquired_at,
            received_at=rfc3339(self.at),
            facts=json.dumps(facts, ensure_ascii=False, sort_keys=True),
        )
        insert(
            self.connection,
            "inputs",
            case_id=row.case_id,
            role="image",
            uri=uri_of(case.digest),
            digest=case.digest,
            media_type=case.media_type,
        )
        return original is not None

    def _patient(self, raw_id: str, part_of_bytes: str | None) -> str:
        """The pseudonym; at first sight the patient gets a part, for ever.

        A patient first seen through bytes of an earlier one shares that one's part, unless `fit` had drawn another.
        """
        key = patient_key(self.workspace.key, raw_id)
        query = "SELECT split FROM patients WHERE patient_key = :key"
        if self.connection.execute(query, {"key": key}).fetchone() is None:
            part = part_of_bytes if part_of_bytes and not self.split.knows(raw_id) else self.split.assign(raw_id)
            insert(self.connection, "patients", patient_key=key, split=part, first_seen=rfc3339(self.at))
        return key

    def _label_by_file(self, case: Staged) -> None:
        if case.truth is None:
            return
        if case.truth.reason:
            self.counts["wrong_labels"] += 1
        else:
            self._join(case.row, case.truth.uri)

    def _label(self, case: Staged, label: str) -> None:
        try:
            self._join(case.row, as_kept(self.task.kind, label, self.classes))
        except UnknownClass as error:
            self.counts["unknown_classes"] += 1
            self.unknown |= {*error.names}
        except ValueError as error:
            self.counts["wrong_labels"] += 1
            case.contradiction = str(error)

    def _join(self, row: Row, value: str) -> None:
        said = join(self.connection, row.case_id, value, arm="with_case", at=self.at)
        if said == "joined":
            self.counts["labels"] += 1
            self.news = True
        elif said == "conflict":
            self.counts["conflicts"] += 1
            self.conflicting.append(case_number(self.connection, row.case_id))
