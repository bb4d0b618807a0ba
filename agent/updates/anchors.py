"""Anchor sets: labelled judge patients of one domain, in immutable generations, with a ledger of every look at them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256

from agent.clock import rfc3339
from agent.drift.domains import HOME
from agent.store import Connection, insert, journal
from agent.updates.material import Case, judge_cases, patients

LARGE = 100  # patients from which a set is followed by a fresh one instead of growing


@dataclass(frozen=True)
class AnchorSet:
    """One generation of judge-only cases of a domain.

    looks: how often these patients were looked at, in generations that this one grew from too. carried: the alpha that
    the latest of these looks hands on. seen_by: the alpha of each candidate that was shown this very generation.
    """

    domain: str
    generation: int
    cases: Sequence[Case]
    looks: int
    carried: float
    seen_by: Mapping[str, float]

    @property
    def name(self) -> str:
        return f"{self.domain}.{self.generation}"


def open_generations(connection: Connection, *, least: int, alpha: float, by: str, at: datetime) -> None:
    """Opens the first generation of a domain at `least` patients, and the next when enough fresh patients are there.

    A set of LARGE patients or more is followed by one of fresh patients alone, as many again: fresh labels, fresh
    alpha. A smaller one decides little, so it grows by half instead, and goes on with the alpha that it has left: a
    group-sequential test (Pocock 1977), whose looks together stay in alpha by the union bound.
    """
    used: dict[str, set[str]] = defaultdict(set)
    latest: dict[str, tuple[int, int]] = {}
    for row in connection.execute("SELECT domain, generation, n_patients FROM anchor_sets ORDER BY generation"):
        latest[row["domain"]] = (row["generation"], row["n_patients"])
    members = connection.execute(
        "SELECT m.domain, c.patient_key FROM anchor_members m JOIN cases c ON c.case_id = m.case_id"
    )
    for row in members:
        used[row["domain"]].add(row["patient_key"])
    everyone = judge_cases(connection)
    fresh: dict[str, list[Case]] = defaultdict(list)
    for case in everyone:
        if case["patient"] not in used[case["domain"]]:
            fresh[case["domain"]].append(case)
    for domain, cases in sorted(fresh.items()):
        generation, size = latest.get(domain, (0, 0))
        grows = 0 < size < LARGE
        if patients(cases) < (size / 2 if grows else max(size, least)):
            continue
        spent = 0.0
        if grows:
            before = connection.execute(
                "SELECT case_id FROM anchor_members WHERE domain = ? AND generation = ?", (domain, generation)
            ).fetchall()
            known = {row["case_id"] for row in before}
            cases = [*cases, *(case for case in everyone if case["case_id"] in known)]
            spent = connection.execute(
                "SELECT spent FROM anchor_sets WHERE domain = ? AND generation = ?", (domain, generation)
            ).fetchone()["spent"]
        ids = sorted(case["case_id"] for case in cases)
        insert(
            connection,
            "anchor_sets",
            domain=domain,
            generation=generation + 1,
            digest=sha256("\n".join(ids).encode()).hexdigest(),
            n_patients=patients(cases),
            alpha=alpha,
            spent=spent,
            opened_at=rfc3339(at),
        )
        connection.executemany(
            "INSERT INTO anchor_members (domain, generation, case_id) VALUES (?, ?, ?)",
            [(domain, generation + 1, case) for case in ids],
        )
        body = {"domain": domain, "generation": generation + 1, "patients": patients(cases), "cases": len(ids)}
        journal.append(connection, "anchors_opened", at=at, by=by, body=body)


def judgeable(connection: Connection, *, least: int) -> set[str]:
    """Domains on which a candidate can be judged: home, and those whose labelled judge patients open an anchor set."""
    found: dict[str, set[str]] = defaultdict(set)
    for case in judge_cases(connection):
        found[case["domain"]].add(case["patient"])
    return {HOME, *(domain for domain, some in found.items() if len(some) >= least)}


def current(connection: Connection) -> list[AnchorSet]:
    """The latest generation of every domain, with the looks taken at it."""
    by_id = {case["case_id"]: case for case in judge_cases(connection)}
    sets = []
    rows = connection.execute(
        "SELECT domain, max(generation) AS generation FROM anchor_sets GROUP BY domain"
    ).fetchall()
    for row in rows:
        key = {"d": row["domain"], "g": row["generation"]}
        members = connection.execute(
            "SELECT case_id FROM anchor_members WHERE domain = :d AND generation = :g ORDER BY case_id", key
        )
        cases = [by_id[m["case_id"]] for m in members if m["case_id"] in by_id]
        looks = connection.execute(
            """SELECT generation, version, alpha, passed FROM looks WHERE domain = :d AND generation IN
               (SELECT theirs.generation FROM anchor_members theirs JOIN anchor_members ours
                ON ours.case_id = theirs.case_id AND ours.domain = :d AND ours.generation = :g
                WHERE theirs.domain = :d) ORDER BY id""",
            key,
        ).fetchall()
        seen_by = {one["version"]: one["alpha"] for one in looks if one["generation"] == row["generation"]}
        carried = looks[-1]["alpha"] if looks and looks[-1]["passed"] else 0.0
        sets.append(AnchorSet(row["domain"], row["generation"], cases, len(looks), carried, seen_by))
    return sets


def look(connection: Connection, anchors: AnchorSet, *, version: str, alpha: float, passed: bool, at: datetime) -> None:
    """Records that a candidate was judged on the set, at which alpha, and whether it was shown to do no harm there:
    then that alpha is not lost but handed on. All was revealed (the verdicts' figures)."""
    key = {"d": anchors.domain, "g": anchors.generation}
    connection.execute(
        """INSERT INTO looks (domain, generation, version, alpha, passed, revealed, at)
           VALUES (:d, :g, :version, :alpha, :passed, 'all', :at)""",
        {**key, "version": version, "alpha": alpha, "passed": int(passed), "at": rfc3339(at)},
    )
    connection.execute(
        "UPDATE anchor_sets SET spent = min(alpha, spent + :lost) WHERE domain = :d AND generation = :g",
        {**key, "lost": 0.0 if passed else alpha},
    )
