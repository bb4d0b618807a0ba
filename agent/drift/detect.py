"""Detect: monitors read each closed tick; one rule over all of them opens an alarm when the evidence is enough."""

from __future__ import annotations

import io
from datetime import date, datetime
from hashlib import blake2b
from typing import TYPE_CHECKING, Any

from agent.drift import episodes
from agent.drift.reference import batch_of, epoch_of, observed_rows, read_reference
from agent.drift.ticks import LIVE, Tick, closed_ticks, day_of
from agent.store import Connection, insert, journal
from agent.trust import set_trust
from agent.versions import pointer, registry
from agent.workspace import Workspace

if TYPE_CHECKING:
    from monitors.protocols import Batch, Monitor, Signal


ROUNDING = 1e-9  # a chart that fires alone brings exactly the threshold, up to the last bit


class Detector:
    """The monitors of the live version on its reference epoch, their state kept in the store with every tick."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._fitted: tuple[str, int, int, bool] | None = None  # version, epoch, closed alarms, whether times are known
        self._monitors: list[Monitor] = []
        self._saved: dict[tuple[str, str], bytes] = {}

    def step(self, now: datetime) -> int:
        """Decides on every tick that is closed by `now`; returns how many. Each tick is one transaction."""
        with self.workspace.store.read() as connection:
            ticks = list(self._ticks(connection, now))
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
        from monitors import family

        with self.workspace.store.read() as connection:
            self._fit(connection)
            batch = batch_of(observed_rows(connection, tick.numbers), tick.start)
        signals = [self._read(monitor, batch) for monitor in self._monitors]
        heard = [signal for signal in signals if signal is not None]
        budget = self.workspace.config.monitors.false_alarms.ticks
        with self.workspace.store.read() as connection:
            free = [s for s in heard if episodes.heard(connection, s.monitor, s.statistic)]
        rule = family(free, [1 / len(self._monitors)] * len(free), budget) if free else None
        try:
            with self.workspace.store.transaction() as connection:
                self._commit(connection, tick, heard, rule, free, now)
        except BaseException:
            self._fitted = None  # the monitors have read a tick that the store has not
            raise
        pointer.publish(self.workspace)  # an alarm may have lowered trust

    def _commit(
        self,
        connection: Connection,
        tick: Tick,
        heard: list[Signal],
        rule: Signal | None,
        free: list[Signal],
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
        for signal in [*heard, *([rule] if rule else [])]:
            self._record(connection, signal, number, at_case, tick.day)
        self._save(connection)
        if rule is not None and rule.log_e >= rule.threshold - ROUNDING:
            self._alarm(connection, free, rule, at_case, now)

    def _read(self, monitor: Monitor, batch: Batch) -> Signal | None:
        """A monitor that raises is told of and passed over; the others go on.

        The day on which a version went live was answered by two: that is no fault to be told of.
        """
        from monitors import OtherVersion

        try:
            return monitor.update(batch)
        except OtherVersion:
            return None
        except ValueError as error:
            with self.workspace.store.transaction() as connection:
                body = {"monitor": monitor.name, "says": str(error)}
                journal.append(connection, "monitor_failed", at=self.workspace.now(), by="homeostat", body=body)
            return None

    def _record(self, connection: Connection, signal: Signal, tick: int, at_case: int, day: date | None) -> None:
        insert(
            connection,
            "signals",
            tick=tick,
            monitor=signal.monitor,
            at_case=at_case,
            time=day.isoformat() if day else None,
            log_e=max(signal.log_e, -1e300),
            statistic=signal.statistic,
            threshold=signal.threshold,
            n=signal.n,
        )

    def _alarm(self, connection: Connection, signals: list[Signal], rule: Signal, at_case: int, now: datetime) -> None:
        driver = max(signals, key=lambda signal: signal.log_e)
        shift = episodes.shift_of(driver.monitor, driver.statistic)
        evidence = {**driver.evidence, "log_e": {signal.monitor: round(signal.log_e, 3) for signal in signals}}
        episodes.open_alarm(
            connection,
            monitor=driver.monitor,
            shift=shift,
            at_case=at_case,
            since_case=driver.since,
            statistic=driver.statistic,
            threshold=driver.threshold,
            score=rule.log_e,
            evidence=evidence,
            at=now,
        )
        if shift is not None:
            trust = self.workspace.config.plan.responses[shift].trust  # type: ignore[index]
            if trust != "normal":
                reason = f"an alarm of the monitor '{driver.monitor}' (shift: {shift})"
                set_trust(connection, trust, by="homeostat", reason=reason, at=now)

    def _fit(self, connection: Connection) -> None:
        """Fits on the live version's epoch and goes on from the stored state; anew when one of them changed."""
        from monitors import default_monitors

        live = registry.live(connection)["version"]
        epoch, said_by = epoch_of(connection, live)
        ended = connection.execute("SELECT count(*) FROM alarms WHERE state = 'closed'").fetchone()[0]
        timed = _has_times(connection)
        if self._fitted == (live, epoch, ended, timed):
            return
        reference = read_reference(connection, epoch, said_by)
        config = self.workspace.config
        self._monitors = default_monitors(config.monitors.false_alarms.ticks, config.plan.seed, timed)
        for monitor in self._monitors:
            monitor.fit(reference)
        stored: dict[str, dict[str, Any]] = {}
        self._saved = {}
        for row in connection.execute("SELECT monitor, key, value FROM monitor_state WHERE epoch = :e", {"e": epoch}):
            stored.setdefault(row["monitor"], {})[row["key"]] = _from_bytes(row["value"])
            self._saved[row["monitor"], row["key"]] = _digest(row["value"])
        for monitor in self._monitors:
            if monitor.name in stored:
                monitor.restore(stored[monitor.name])
        self._fitted = (live, epoch, ended, timed)

    def _save(self, connection: Connection) -> None:
        """Writes the arrays that changed since the last tick."""
        assert self._fitted is not None
        for monitor in self._monitors:
            for key, array in monitor.state().items():
                value = _to_bytes(array)
                digest = _digest(value)
                if self._saved.get((monitor.name, key)) != digest:
                    connection.execute(
                        "REPLACE INTO monitor_state (epoch, monitor, key, value) VALUES (?, ?, ?, ?)",
                        (self._fitted[1], monitor.name, key, value),
                    )
                    self._saved[monitor.name, key] = digest


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
