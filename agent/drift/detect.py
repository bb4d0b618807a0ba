"""Detect: monitors read each closed tick; one rule over all of them opens an alarm when the evidence is enough."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import date, datetime
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from agent.drift import arrivals, episodes, feed, labelled, naming
from agent.drift.domains import ALL, HOME, KNOWN, NEW, common_since, known, place_of, stream_of
from agent.drift.reference import approved_epoch, batch_of, epoch_of, observed_rows, read_reference
from agent.drift.ticks import LIVE, Tick, closed_ticks, day_of
from agent.store import Connection, insert, journal
from agent.trust import TRUSTS, set_trust, trust_now
from agent.versions import pointer, registry
from agent.workspace import Workspace, get_setting

if TYPE_CHECKING:
    from monitors.protocols import Batch, Monitor, Reference, Signal


SILENT = -600.0  # the log evidence of a chart that has read nothing lies below
SHARE_OF_CREEP = 0.05  # of the one budget, while there is such a monitor
ROUNDING = 1e-9  # a chart that fires alone brings exactly the threshold, up to the last bit


class Detector:
    """The monitors of the live version on its reference epoch, their state kept in the store with every tick.

    Known domains and new ones are streams with monitors of their own, beside those that read every case; all share one
    budget. Against one reference both are exchangeable with it while nothing has changed, so nothing is promised less.
    """

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._fitted: tuple[str, int, int, bool, bool] | None = None  # live, epoch, begun anew; times? labels?
        self._monitors: list[tuple[str, Monitor]] = []  # with the stream that each reads
        self._saved: dict[tuple[str, str], bytes] = {}
        self._reference: tuple[Reference, int, str] | None = None
        self._failed: list[tuple[str, str]] = []  # monitors that could not read, and what they said
        self._broken = False  # whether a monitor has to be fetched from the store again
        self._labelled: list[str] = []  # domains of which outcomes can be compared

    def step(self, now: datetime) -> int:
        """Decides on every tick that is closed by `now`; returns how many. Each tick is one transaction."""
        with self.workspace.store.read() as connection:
            ticks = list(self._ticks(connection, now))
            if not ticks and not _feed_is_live(connection) and arrivals.only_refused(connection):
                ticks = [Tick((), None)]  # nothing else would ever close one
        for tick in ticks:
            self._decide(tick, now)
        return len(ticks)

    def _ticks(self, connection: Connection, now: datetime) -> Any:
        rows = connection.execute(
            """SELECT o.number, c.acquired_at FROM observations o JOIN cases c ON c.case_id = o.case_id
               WHERE o.tick IS NULL AND o.role = 'live' ORDER BY o.number"""
        ).fetchall()
        pending = connection.execute(
            """SELECT DISTINCT substr(acquired_at, 1, 10) AS day FROM cases
               WHERE state = 'pending' AND acquired_at IS NOT NULL"""
        )
        last = connection.execute(
            "SELECT max(time) AS time FROM signals WHERE time < :today", {"today": now.date().isoformat()}
        ).fetchone()
        return closed_ticks(
            [(row["number"], day_of(row["acquired_at"])) for row in rows],
            pending_days=frozenset(date.fromisoformat(row["day"]) for row in pending),
            last_day=day_of(last["time"]),
            feed_is_live=_feed_is_live(connection),
            today=now.date(),
        )

    def _decide(self, tick: Tick, now: datetime) -> None:
        from monitors import OF_LABELS, family

        watched = self.workspace.config.monitors
        facts = watched.facts
        with self.workspace.store.read() as connection:
            connection.execute("BEGIN")  # a label that comes meanwhile is the next tick's
            self._fit(connection)
            assert self._fitted is not None
            rows, is_known = observed_rows(connection, tick.numbers), known(connection)
            live, epoch = self._fitted[:2]
            outcomes, newest = labelled.came(connection, live, epoch, tick.numbers, self._labelled, watched.subgroups)
            came, last_event = arrivals.came(connection)
        of = [stream_of(row["domain"], is_known) for row in rows]
        batches = {
            stream: batch_of(
                [row for row, its in zip(rows, of, strict=True) if stream in (its, ALL)], tick.start, facts
            )
            for stream in (KNOWN, NEW, ALL)
        }
        batches[ALL] = replace(batches[ALL], arrivals=came)
        homes = batch_of([row for row in rows if place_of(row["domain"]) == HOME], tick.start, facts)
        own = {kind.name: outcomes for kind in OF_LABELS} | {episodes.CREEP: homes}
        read = [(at, self._read(monitor, own.get(monitor.name, batches[at]))) for at, monitor in self._monitors]
        heard = [(stream, s) for stream, s in read if s is not None and (stream != NEW or s.log_e > SILENT)]
        budget = watched.false_alarms.ticks
        with self.workspace.store.read() as connection:
            free = [(at, s) for at, s in heard if episodes.heard(connection, at, s.monitor, s.statistic)]
        arrived = any(stream == NEW for stream, _ in heard)
        rule = family([s for _, s in free], weights(free, arrived, budget), budget) if free else None
        try:
            with self.workspace.store.transaction() as connection:
                self._commit(connection, tick, heard, rule, free, now)
                labelled.read_up_to(connection, live, newest)
                arrivals.read_up_to(connection, last_event)
        except BaseException:
            self._fitted = None  # the monitors have read a tick that the store has not
            raise
        pointer.publish(self.workspace)  # an alarm may have lowered trust

    def _commit(
        self,
        connection: Connection,
        tick: Tick,
        heard: list[tuple[str, Signal]],
        rule: Signal | None,
        free: list[tuple[str, Signal]],
        now: datetime,
    ) -> None:
        number = connection.execute("SELECT coalesce(max(tick), 0) + 1 FROM signals").fetchone()[0]
        if tick.numbers:
            connection.execute(
                "UPDATE observations SET tick = :tick WHERE number BETWEEN :first AND :last",
                {"tick": number, "first": tick.numbers[0], "last": tick.numbers[-1]},
            )
        at_case = connection.execute(
            "SELECT coalesce(max(number), 0) FROM observations WHERE tick = (SELECT max(tick) FROM observations)"
        ).fetchone()[0]
        for stream, signal in [*heard, *([(ALL, rule)] if rule else [])]:
            self._record(connection, episodes.chart_of(stream, signal.monitor), signal, number, at_case, tick.day)
        self._save(connection)
        for monitor, says in self._failed:
            body = {"monitor": monitor, "says": says}
            journal.append(connection, "monitor_failed", at=now, by="homeostat", body=body)
        self._failed = []
        if self._broken:  # all begin from the store at the next tick, the broken one where it was
            self._fitted, self._broken = None, False
        if rule is not None and rule.log_e >= rule.threshold - ROUNDING:
            self._alarm(connection, free, rule, at_case, now)
        self._name_again(connection, now)
        feed.end_what_is_over(connection, self._compared()[0], number, now)

    def _read(self, monitor: Monitor, batch: Batch) -> Signal | None:
        """A monitor that raises is told of and passed over; the others go on. Cases that hold NaN are left out where
        others of the tick don't.

        The day on which a version went live was answered by two: that is no fault to be told of.
        """
        from monitors import OtherVersion, without_nan

        try:
            return monitor.update(batch)
        except OtherVersion:
            return None
        except ValueError as error:  # it refused to read: what it knows is whole
            self._failed.append((monitor.name, str(error)))
            whole = without_nan(batch)
            return self._read(monitor, whole) if 0 < len(whole) < len(batch) else None
        except Exception as error:
            self._failed.append((monitor.name, f"{type(error).__name__} while it read a tick"))
            self._monitors = [one for one in self._monitors if one[1] is not monitor]  # it may have read half
            self._broken = True
            return None

    def _record(
        self, connection: Connection, label: str, signal: Signal, tick: int, at_case: int, day: date | None
    ) -> None:
        insert(
            connection,
            "signals",
            tick=tick,
            monitor=label,
            at_case=at_case,
            time=day.isoformat() if day else None,
            log_e=max(signal.log_e, -1e300),
            statistic=signal.statistic,
            threshold=signal.threshold,
            n=signal.n,
        )

    def _alarm(
        self, connection: Connection, signals: list[tuple[str, Signal]], rule: Signal, at_case: int, now: datetime
    ) -> None:
        stream, driver = max(signals, key=lambda pair: pair[1].log_e - pair[1].threshold)
        shift, said = episodes.shift_of(driver.monitor, driver.statistic), dict[str, Any]()
        if shift == naming.UNDETERMINED and driver.monitor != episodes.CREEP:
            answer = naming.name(connection, *self._compared(), stream, driver.since or max(1, at_case - driver.n + 1))
            if answer is not None:
                shift, said = answer
        log_e = {episodes.chart_of(at, signal.monitor): round(signal.log_e, 3) for at, signal in signals}
        since = common_since(connection, driver.since or at_case, stream)
        evidence = {**driver.evidence, "log_e": log_e, "stream": stream, "domains": sorted(since), **said}
        episodes.open_alarm(
            connection,
            monitor=driver.monitor,
            shift=shift,
            stream=stream,
            at_case=at_case,
            since_case=driver.since,
            statistic=driver.statistic,
            threshold=driver.threshold,
            score=rule.log_e,
            evidence=evidence,
            at=now,
        )
        self._answer(connection, driver.monitor, shift, now)

    def _name_again(self, connection: Connection, now: datetime) -> None:
        """More cases may tell what kind of shift an open alarm is about, and what it may cost."""
        for shift in naming.name_again(connection, *self._compared(), now):
            self._answer(connection, "naming", shift, now)
        naming.estimate_again(connection, *self._compared())

    def _answer(self, connection: Connection, monitor: str, shift: str | None, now: datetime) -> None:
        """Trust is lowered as the plan says; it is not raised again before the alarm ends."""
        if shift is not None:
            trust = self.workspace.config.plan.responses[shift].trust  # type: ignore[index]
            if TRUSTS.index(trust) > TRUSTS.index(trust_now(connection)):
                reason = f"an alarm of the monitor '{monitor}' (shift: {shift})"
                set_trust(connection, trust, by="homeostat", reason=reason, at=now)

    def _fit(self, connection: Connection) -> None:
        """Fits on the live version's epoch and goes on from the stored state; anew when one of them changed."""
        from monitors import OF_LABELS

        live = registry.live(connection)["version"]
        epoch, said_by = epoch_of(connection, live)
        begun = get_setting(connection, episodes.BEGUN, 0)
        timed, come = _has_times(connection), labelled.has_come(connection)
        if self._fitted == (live, epoch, begun, timed, come):
            return
        watched = self.workspace.config.monitors
        reference = told = read_reference(connection, epoch, said_by, watched.facts)
        self._reference, self._labelled = (reference, epoch, said_by), []
        if come:
            told = labelled.compared(connection, epoch, said_by, watched.subgroups)
            self._labelled = sorted({*told.calibrate.stratum[told.calibrate.target >= 0].tolist()})
        fixed = approved_epoch(connection)
        creeping = fixed[0] != epoch
        of_cases = {"facts": watched.facts, "looks": bool(reference.calibrate.quality.size)}
        of_labels = {"labels": bool(self._labelled), "subgroups": watched.subgroups}
        self._monitors = _one_budget(watched.false_alarms.ticks, timed, creeping, of_cases, of_labels)
        references = {kind.name: told for kind in OF_LABELS}
        if creeping:
            references[episodes.CREEP] = read_reference(connection, *fixed)
        self._monitors = [one for one in self._monitors if self._fits(one[1], references.get(one[1].name, reference))]
        stored: dict[str, dict[str, Any]] = {}
        self._saved = {}
        for row in connection.execute("SELECT monitor, key, value FROM monitor_state WHERE epoch = :e", {"e": epoch}):
            stored.setdefault(row["monitor"], {})[row["key"]] = _from_bytes(row["value"])
            self._saved[row["monitor"], row["key"]] = _digest(row["value"])
        for stream, monitor in self._monitors:
            if (label := episodes.chart_of(stream, monitor.name)) in stored:
                try:
                    monitor.restore(stored[label])
                except KeyError:  # of another kind of chart, left by an older program: begun anew
                    monitor.fit(references.get(monitor.name, reference))
        self._fitted = (live, epoch, begun, timed, come)

    def _fits(self, monitor: Monitor, reference: Reference) -> bool:
        """Whether the monitor can be fitted; one that can't is told of, and the others go on without it."""
        try:
            monitor.fit(reference)
        except Exception as error:
            says = str(error) if isinstance(error, ValueError) else type(error).__name__
            self._failed.append((monitor.name, f"it can't be fitted to the reference: {says}"))
            return False
        return True

    def _compared(self) -> tuple[Reference, int, str]:
        """The reference of the live version, its epoch, and the version that it belongs to."""
        assert self._reference is not None
        return self._reference

    def _save(self, connection: Connection) -> None:
        """Writes the arrays that changed since the last tick."""
        assert self._fitted is not None
        for stream, monitor in self._monitors:
            label = episodes.chart_of(stream, monitor.name)
            for key, array in monitor.state().items():
                value = _to_bytes(array)
                digest = _digest(value)
                if self._saved.get((label, key)) != digest:
                    connection.execute(
                        "REPLACE INTO monitor_state (epoch, monitor, key, value) VALUES (?, ?, ?, ?)",
                        (self._fitted[1], label, key, value),
                    )
                    self._saved[label, key] = digest


def weights(signals: Sequence[tuple[str, Signal]], arrived: bool, ticks: float) -> list[float]:
    """Each monitor's share of the one budget. Those of new domains take half of it from the first new case on
    (`arrived`); until then the others have the whole.

    That a new domain has come is known before its evidence is weighed, and what the others have then shrinks: the
    family stays below an e-detector, so nothing is promised less (tests/agent/test_streams.py simulates it).
    """
    return [(1 if arrived else 2) * ticks / math.exp(signal.threshold) for _, signal in signals]


def _one_budget(
    ticks: float, timed: bool, creeping: bool, of_cases: Mapping[str, Any], of_labels: Mapping[str, Any]
) -> list[tuple[str, Monitor]]:
    """The monitors of each stream, each stream's with half of the budget. Those of cases are there twice, those of
    labels and of creep for known domains; the case volume and the schema read every case."""
    from monitors import CaseVolume, EmbeddingMean, SchemaStream, default_monitors

    whole = 2 * ticks
    rest = whole / (1 - SHARE_OF_CREEP) if creeping else whole
    known = default_monitors(rest, timed, forms=True, **of_cases, **of_labels)
    streams = [(ALL if isinstance(monitor, CaseVolume | SchemaStream) else KNOWN, monitor) for monitor in known]
    streams += [(KNOWN, EmbeddingMean(whole / SHARE_OF_CREEP, episodes.CREEP))] if creeping else []
    return streams + [(NEW, monitor) for monitor in default_monitors(whole, False, **of_cases)]


def _has_times(connection: Connection) -> bool:
    """Whether the feed tells when its cases were acquired: without times the case volume can't be judged."""
    row = connection.execute("SELECT 1 FROM cases WHERE origin = 'feed' AND acquired_at IS NOT NULL LIMIT 1").fetchone()
    return row is not None


def _feed_is_live(connection: Connection) -> bool:
    row = connection.execute(
        """SELECT acquired_at, received_at FROM cases
           WHERE origin = 'feed' AND acquired_at IS NOT NULL ORDER BY seq DESC LIMIT 1"""
    ).fetchone()
    if row is None:
        return False
    return datetime.fromisoformat(row["received_at"]) - datetime.fromisoformat(row["acquired_at"]) < LIVE


def _to_bytes(array: Any) -> bytes:
    import numpy as np

    buffer = io.BytesIO()
    np.save(buffer, array, allow_pickle=False)
    return buffer.getvalue()


def _from_bytes(value: bytes) -> Any:
    import numpy as np

    return np.load(io.BytesIO(value), allow_pickle=False)


def _digest(value: bytes) -> bytes:
    return blake2b(value, digest_size=16).digest()
