"""Observe: a pending case gets the live version's answer, the pinned sensor's embedding, and the trust of the hour."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import date, datetime
from hashlib import sha256
from typing import TYPE_CHECKING, Any, NamedTuple

from agent.cases.examples import StoredExamples
from agent.cases.images import middle, sides
from agent.clock import rfc3339
from agent.drift import episodes
from agent.drift.domains import domain_of, episode_name, home_keys, known, place_of
from agent.drift.reference import read_approved
from agent.drift.ticks import CASES_PER_TICK, day_of
from agent.errors import HomeostatError
from agent.store import Connection, journal
from agent.tasks import Answered, Kept, answer, task_named
from agent.trust import CAUTION, NORMAL, SUSPENDED, suspended_domains, trust_now
from agent.versions import registry
from agent.versions.pointer import Pointer
from agent.versions.serve import load
from agent.workspace import Workspace, get_setting

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from strategies.predictor import Predictor

DAY_CHUNK = 64  # a busy day is observed in transactions of this many cases


class Reading(NamedTuple):
    """What a version says of a case, scores [k], what the pinned sensor sees of it, embedding [d], what its image
    looks like, quality [q] in the numbers of monitors.quality, and what is kept of the answer beside its scores."""

    scores: NDArray[np.floating]
    embedding: NDArray[np.floating]
    quality: NDArray[np.floating]
    kept: Kept | None = None


class Observer:
    """Answers cases in order of acquisition, one decision tick at a time: trust is never later than the tick."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._loaded: dict[str, Predictor] = {}
        self._guard: tuple[str, FarOutGuard] | None = None
        self._unservable: set[str] = set()

    def step(self, now: datetime) -> int:
        """Observes the pending cases of the current tick in one transaction; returns how many."""
        with self.workspace.store.read() as connection:
            wanted = _next_cases(connection)
            if not wanted:
                return 0
            live = connection.execute("SELECT version FROM live WHERE scope = '*'").fetchone()["version"]
            shadow = _shadow(connection)
        if self._guard is None or self._guard[0] != live:
            self._guard = (live, FarOutGuard(self.workspace, live))
        examples = StoredExamples(self.workspace, [row["case_id"] for row in wanted])
        seen, broken = self._read(examples, live)
        readings = {live: seen}
        if shadow:
            readings[shadow] = self._shadowed(examples, shadow, now)
        with self.workspace.store.transaction() as connection:
            self._write(connection, wanted, readings, live, broken, now)
        return len(wanted)

    def _read(self, examples: StoredExamples, version: str) -> tuple[dict[int, Reading], dict[int, str]]:
        """{position: what was read} and {position: why it can't be read}."""
        from monitors import quality
        from strategies.slices import fewer

        predictor = self.predictor(version)
        readings, broken = {}, {}
        at_once = fewer(self.workspace.config.model.batch, predictor.preprocessing.slices)
        for some in _chunks(range(len(examples)), at_once):
            looks, tensors = {}, []
            for i in some:
                try:
                    image = examples.image(i)
                    looks[i] = quality(middle(image))
                    tensors.append((i, predictor.prepare(image), sides(image.shape)))
                except (HomeostatError, ValueError, OSError) as error:
                    broken[i] = str(error)
            if tensors:
                places, prepared, shapes = zip(*tensors, strict=True)
                said = answer(task_named(predictor.task), predictor, prepared, shapes)
                readings.update({i: reading(said, j, looks[i]) for j, i in enumerate(places)})
        return readings, broken

    def _shadowed(self, examples: StoredExamples, version: str, now: datetime) -> dict[int, Reading]:
        """What the previous version says; nothing where its files are damaged, which is told once."""
        try:
            return self._read(examples, version)[0]
        except HomeostatError as error:
            if version not in self._unservable:
                self._unservable.add(version)
                with self.workspace.store.transaction() as connection:
                    body = {"version": version, "says": str(error)}
                    journal.append(connection, "shadow_failed", at=now, by="homeostat", body=body)
            return {}

    def _write(
        self,
        connection: Connection,
        wanted: Sequence[Mapping[str, Any]],
        readings: Mapping[str, Mapping[int, Reading]],
        live: str,
        broken: Mapping[int, str],
        now: datetime,
    ) -> None:
        import numpy as np

        assert self._guard is not None
        number = connection.execute("SELECT coalesce(max(number), 0) FROM observations").fetchone()[0]
        trust = trust_now(connection)
        spared = known(connection) if trust == CAUTION and episodes.only_arrivals(connection) else set()
        suspended = {*suspended_domains(connection)}
        by, home, episode = self.workspace.config.intake.domain_by, home_keys(connection), episode_name(connection)
        abstained = 0
        for i, case in enumerate(wanted):
            if i in broken:
                connection.execute("UPDATE cases SET state = 'unreadable' WHERE case_id = :id", {"id": case["case_id"]})
                connection.execute(
                    "INSERT OR IGNORE INTO quarantine (name, reason, digest, at) VALUES (?, ?, ?, ?)",
                    (f"case {case['seq']}", broken[i], "", rfc3339(now)),
                )
                continue
            reading = readings[live][i]
            describe(connection, case["case_id"], reading.quality)
            finite = bool(np.isfinite(reading.scores).all())
            far = bool(self._guard[1].far(np.asarray(reading.embedding)[None])[0])
            domain = domain_of(case, by=by, home=home, episode=episode)
            connection.execute(
                "UPDATE cases SET state = 'observed', domain = :domain WHERE case_id = :id",
                {"domain": domain, "id": case["case_id"]},
            )
            number += 1
            abstained += far or not finite
            for version, seen in readings.items():
                if i not in seen:
                    continue
                record(
                    connection,
                    case_id=case["case_id"],
                    version=version,
                    role="live" if version == live else "shadow",
                    number=number if version == live else None,
                    scores=seen[i].scores,
                    embedding=seen[i].embedding,
                    sensor=get_setting(connection, "sensor"),
                    trust=SUSPENDED if place_of(domain) in suspended else NORMAL if domain in spared else trust,
                    abstained=far or not finite,
                    kept=seen[i].kept,
                    at=now,
                )
        body = {"cases": len(wanted) - len(broken), "unreadable": len(broken), "abstained": abstained, "version": live}
        journal.append(connection, "cases_observed", at=now, by="homeostat", body=body)

    def predictor(self, version: str) -> Predictor:
        """Loaded once and kept for the versions in use; checked against its digests and golden outputs at loading."""
        if version not in self._loaded:
            if len(self._loaded) >= 2:  # live and shadow
                self._loaded.pop(next(iter(self._loaded)))
            self._loaded[version] = load_version(self.workspace, version)
        return self._loaded[version]


class FarOutGuard:
    """Which cases are so far from everything approved that no answer is given: another modality, another anatomy."""

    def __init__(self, workspace: Workspace, version: str) -> None:
        from monitors import FarOut

        self._monitor = FarOut()
        with workspace.store.read() as connection:
            self._monitor.fit(read_approved(connection, version))

    def far(self, embedding: NDArray[np.floating]) -> NDArray[np.bool_]:
        """[n, d] of the pinned sensor -> [n]."""
        return self._monitor.far(embedding)


def load_version(workspace: Workspace, version: str) -> Predictor:
    """Any registered version, checked as a service would check it. Raises HomeostatError where it is damaged."""
    with workspace.store.read() as connection:
        row = registry.get(connection, version)
    if row["digest"] is None:
        raise HomeostatError(f"{version} has no bundle: it was {row['state']} before it was written")
    named = Pointer(version=version, digest=row["digest"], trust="normal", generation=0, since=row["created_at"])
    return load(workspace.root, named)


def reading(said: Answered, place: int, quality: NDArray[np.floating]) -> Reading:
    """One case of what a version answered."""
    return Reading(said.scores[place], said.embedding[place], quality, said.kept[place])


def record(
    connection: Connection,
    *,
    case_id: str,
    version: str,
    role: str,
    scores: NDArray[np.floating],
    embedding: NDArray[np.floating],
    sensor: str,
    trust: str,
    at: datetime,
    number: int | None = None,
    abstained: bool = False,
    kept: Kept | None = None,
) -> None:
    """Writes one observation; a second one of the same case, version and role is ignored."""
    packed = scores.astype("<f4").tobytes()
    digest = sha256(packed if kept is None else packed + kept.content).hexdigest()
    written = connection.execute(
        """INSERT OR IGNORE INTO observations
           (number, case_id, version, role, form, output_digest, scores, sensor, embedding, trust, abstained, at)
           VALUES (:number, :case_id, :version, :role, :form, :digest, :scores, :sensor, :embedding, :trust,
                   :abstained, :at)""",
        {
            "number": number,
            "case_id": case_id,
            "version": version,
            "role": role,
            "digest": digest,
            "form": "scores" if kept is None else kept.form,
            "scores": packed,
            "sensor": sensor,
            "embedding": embedding.astype("<f4").tobytes(),
            "trust": trust,
            "abstained": int(abstained),
            "at": rfc3339(at),
        },
    )
    if kept is not None and written.rowcount:
        connection.execute(
            "INSERT INTO answers (observation, content, sure) VALUES (?, ?, ?)",
            (written.lastrowid, kept.content, kept.sure),
        )


def describe(connection: Connection, case_id: str, quality: NDArray[np.floating]) -> None:
    """Writes what the image looks like, once: it is the same whichever version answers."""
    connection.execute(
        "INSERT OR IGNORE INTO appearances (case_id, quality) VALUES (?, ?)", (case_id, quality.astype("<f4").tobytes())
    )


def _next_cases(connection: Connection) -> list[Mapping[str, Any]]:
    """Pending cases, oldest acquisition first (else as fed), no further than the end of the open tick."""
    rows = connection.execute(
        """SELECT * FROM cases WHERE state = 'pending' AND alias_of IS NULL
           ORDER BY acquired_at IS NULL, acquired_at, seq LIMIT :n""",
        {"n": DAY_CHUNK},
    ).fetchall()
    if not rows:
        return []
    day = day_of(rows[0]["acquired_at"])
    same_day = [row for row in rows if day_of(row["acquired_at"]) == day]
    return same_day if day is not None else same_day[: CASES_PER_TICK - _open_untimed(connection)]


def _open_untimed(connection: Connection) -> int:
    """How many cases without a time wait in the open tick."""
    waiting: list[date | None] = [
        day_of(row["acquired_at"])
        for row in connection.execute(
            """SELECT c.acquired_at FROM observations o JOIN cases c ON c.case_id = o.case_id
               WHERE o.tick IS NULL AND o.role = 'live' ORDER BY o.number DESC LIMIT :n""",
            {"n": CASES_PER_TICK},
        )
    ]
    untimed = 0
    for day in waiting:
        if day is not None:
            break
        untimed += 1
    return untimed % CASES_PER_TICK


def _shadow(connection: Connection) -> str | None:
    """During probation the previous version answers too, so that harm can be shown pair by pair."""
    probation = get_setting(connection, "probation")
    return probation["previous"] if probation else None


def _chunks(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
