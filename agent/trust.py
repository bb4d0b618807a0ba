"""Trust: what the site may think of today's answers. It goes with every prediction, and into live.json."""

from __future__ import annotations

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
