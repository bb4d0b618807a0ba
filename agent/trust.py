"""Trust: what the site may think of today's answers. It goes with every prediction, and into live.json."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime

from agent.store import Connection, journal
from agent.workspace import get_setting, put_setting

NORMAL, CAUTION, SUSPENDED = TRUSTS = ("normal", "caution", "suspended")


def trust_now(connection: Connection) -> str:
    """One of TRUSTS."""
    return str(get_setting(connection, "trust", NORMAL))


def set_trust(connection: Connection, trust: str, *, by: str, reason: str, at: datetime) -> bool:
    """Sets and journals it inside the caller's transaction; returns whether it changed. Then publish the pointer.

    Raises ValueError for a trust that there is none of.
    """
    if trust not in TRUSTS:
        raise ValueError(f"trust is one of {', '.join(TRUSTS)}, not {trust!r}")
    before = trust_now(connection)
    if trust == before:
        return False
    put_setting(connection, "trust", trust)
    body = {"from": before, "to": trust, "reason": reason}
    journal.append(connection, "trust_changed", at=at, by=by, body=body)
    return True


def give_back(connection: Connection, asked: Iterable[str], *, by: str, reason: str, at: datetime) -> bool:
    """Trust once an alarm has ended: the lowest `asked` for by those that go on, and no higher than what a person or a
    rollback has left of it. It is never lowered here. Returns whether it changed; then publish the pointer."""
    trust = max([_left(connection), *asked], key=TRUSTS.index)
    if TRUSTS.index(trust) >= TRUSTS.index(trust_now(connection)):
        return False
    return set_trust(connection, trust, by=by, reason=reason, at=at)


def _left(connection: Connection) -> str:
    """The most that trust may be, whatever alarms there are: what was taken away by hand, or by a rollback that failed,
    comes back with `resume` or a promotion; after a rollback with `resume` only."""
    taken = connection.execute(
        """SELECT 1 FROM journal WHERE event IN ('suspended', 'rollback_failed') AND seq > (
               SELECT coalesce(max(seq), 0) FROM journal WHERE event = 'trust_changed' AND body ->> 'to' = 'normal')"""
    ).fetchone()
    if taken:
        return SUSPENDED
    return NORMAL if get_setting(connection, "automatic_promotion", True) else CAUTION


def suspended_domains(connection: Connection) -> list[str]:
    """The domains whose answers by the live version are not to be used: labels have shown that it serves them badly."""
    row = connection.execute("SELECT version FROM live WHERE scope = '*'").fetchone()
    return suspended_for(connection, row["version"]) if row else []


def suspended_for(connection: Connection, version: str) -> list[str]:
    """The same of a version that was live before."""
    return list(get_setting(connection, "suspended", {}).get(version, []))


def suspend_domains(
    connection: Connection,
    version: str,
    domains: Iterable[str],
    *,
    by: str,
    reason: str,
    at: datetime,
    after: str | None = None,
) -> None:
    """Sets the suspended domains of a version, and journals which ones came and went. Then publish the pointer.

    They stand with the version: what labels showed of one says nothing of the next, and a rollback brings them back.
    `after`: the version that this one follows; those of it that stay are no news.
    """
    before, now = {*suspended_for(connection, after or version)}, {*domains}
    put_setting(connection, "suspended", {**get_setting(connection, "suspended", {}), version: sorted(now)})
    for event, moved in (("domains_suspended", now - before), ("domains_restored", before - now)):
        if moved:
            body = {"version": version, "domains": sorted(moved), "reason": reason}
            journal.append(connection, event, at=at, by=by, body=body)
