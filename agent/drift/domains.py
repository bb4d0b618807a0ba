"""Which domain a case belongs to: anchors, memory and forgetting are kept per domain."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from agent.store import Connection
from agent.workspace import get_setting

HOME = "home"
EPISODE = "since-alarm-"


def domain_of(case: Mapping[str, Any], *, by: Sequence[str], home: Sequence[str], episode: str | None) -> str:
    """The names of a site and scanner that the reference did not have; else home, or the open episode.

    home: the values that the reference's cases had, as `key_of` writes them. episode: "since-alarm-3" while an alarm
    of a shift is open, None otherwise. What comes from home's own scanner meanwhile may be what has changed (it ages,
    it is set up anew): as home it would be learnt, and judged on how home looked before.
    """
    key = key_of(case, by)
    if key and key not in home:
        return key
    return episode or HOME


def key_of(case: Mapping[str, Any], by: Sequence[str]) -> str:
    return "/".join(str(case[column]) for column in by if case[column])


def episode_name(connection: Connection) -> str | None:
    """The domain of home's cases while a shift goes on; None outside of one."""
    row = connection.execute(
        """SELECT id FROM alarms WHERE state != 'closed' AND shift IS NOT NULL AND shift != 'far-out'
           ORDER BY id DESC LIMIT 1"""
    ).fetchone()
    return f"{EPISODE}{row['id']}" if row else None


def is_episode(domain: str) -> bool:
    """Whether it is home during an alarm, and no site or scanner of its own."""
    return domain.startswith(EPISODE)


def home_keys(connection: Connection) -> list[str]:
    return get_setting(connection, "home", [])
