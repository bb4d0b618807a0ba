"""Which domain a case belongs to, and which domains are known: approved, and trusted while no alarm says otherwise.

Anchors, memory and forgetting are kept per domain. Drift is watched in two streams, the cases of known domains and
those of new ones: a new scanner that differs then casts no doubt on the old ones, and is not diluted by them.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from agent.store import Connection
from agent.workspace import get_setting

HOME = "home"
EPISODE = "since-alarm-"
KNOWN, NEW, ALL = "known", "new", "all"  # streams
SERVED = "served"  # setting: domains that labels have shown to be served as well as home
RARE = 0.05  # a domain with a smaller share of a stream's cases since a change is not asked for


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
    """The domain of home's cases while a shift of known domains goes on; None outside of one."""
    row = connection.execute(
        """SELECT id FROM alarms WHERE state != 'closed' AND shift IS NOT NULL AND shift != 'far-out'
           AND stream != 'new' ORDER BY id DESC LIMIT 1"""
    ).fetchone()
    return f"{EPISODE}{row['id']}" if row else None


def is_episode(domain: str) -> bool:
    """Whether it is home during an alarm, and no site or scanner of its own."""
    return domain.startswith(EPISODE)


def place_of(domain: str) -> str:
    """The domain itself; home's episodes are home."""
    return HOME if is_episode(domain) else domain


def home_keys(connection: Connection) -> list[str]:
    return get_setting(connection, "home", [])


def learnt(connection: Connection) -> list[str]:
    """The domains that the live version and those that it was made from learnt."""
    return sorted({domain for measures in _line(connection) for domain in measures.get("domains", ())})


def known(connection: Connection) -> set[str]:
    """Home, what labels have shown to be served as well, and what was learnt up to what was approved."""
    line = _line(connection)
    below = line[0].get("below", []) if line else []
    return {HOME, *get_setting(connection, SERVED, [])} | ({*learnt(connection)} - {*below})


def stream_of(domain: str, known: Collection[str]) -> str:
    """KNOWN or NEW."""
    return KNOWN if is_episode(domain) or domain in known else NEW


def common_since(connection: Connection, onset: int, stream: str) -> dict[str, int]:
    """{domain: cases} of a stream's answered cases since observation `onset`, rare domains left out; home's episodes
    are home."""
    is_known, cases = known(connection), Counter[str]()
    rows = connection.execute(
        """SELECT c.domain, count(*) AS n FROM observations o JOIN cases c ON c.case_id = o.case_id
           WHERE o.role = 'live' AND o.number >= ? AND o.abstained = 0 GROUP BY c.domain""",
        (onset,),
    )
    for row in rows:
        if stream_of(row["domain"], is_known) == stream:
            cases[place_of(row["domain"])] += row["n"]
    return {domain: n for domain, n in cases.items() if n >= RARE * cases.total()}


def _line(connection: Connection) -> list[dict[str, Any]]:
    """What is known of the live version and of those that it was made from, in this order."""
    rows = connection.execute(
        """WITH RECURSIVE line(depth, id, parent, measures) AS (
               SELECT 0, id, parent, measures FROM versions WHERE id = (SELECT version FROM live WHERE scope = '*')
               UNION SELECT depth + 1, v.id, v.parent, v.measures FROM versions v JOIN line ON v.id = line.parent)
           SELECT measures FROM line ORDER BY depth"""
    )
    return [json.loads(row["measures"] or "{}") for row in rows]
