"""Versions, their states, and what is live: one table of legal moves, and one transaction per decision.

Promote and rollback are the same code path: a compare-and-set on the generation of what is live, the states, the
activation and the journal's event in one transaction; the pointer file follows it. Nothing here loads a model.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

from agent.clock import rfc3339
from agent.drift import episodes
from agent.drift.domains import HOME, NEW, common_since, place_of
from agent.errors import HomeostatError, NotEnoughEvidence, Refused
from agent.store import journal
from agent.store.database import Connection, insert
from agent.trust import CAUTION, NORMAL, set_trust, suspend_domains, suspended_for
from agent.versions import bundle, pointer, reserve
from agent.workspace import Workspace, put_setting

# Every legal move between the states of a version. All else raises Refused.
MOVES: dict[str, frozenset[str]] = {
    "training": frozenset({"candidate", "abandoned"}),
    "candidate": frozenset({"rejected", "held", "approved"}),
    "held": frozenset({"candidate", "rejected"}),  # labels came and it is judged again, or a person gives it up
    "approved": frozenset({"probation", "rejected"}),
    "probation": frozenset({"active", "retired", "rolled_back"}),
    "active": frozenset({"retired", "rolled_back"}),
    "retired": frozenset({"active"}),  # by rollback only
    "rolled_back": frozenset({"active"}),  # by a rollback that names it
    "rejected": frozenset(),
    "abandoned": frozenset(),
}

# How the journal tells that a version reached a state.
EVENTS = {
    "candidate": "version_reopened",
    "held": "version_held",
    "approved": "version_approved",
    "rejected": "version_rejected",
    "abandoned": "version_abandoned",
    "active": "version_confirmed",
}

ALIASES: dict[str, str] = {
    "champion": "SELECT version AS id FROM live WHERE scope = '*'",
    "challenger": "SELECT id FROM versions WHERE state IN ('candidate', 'held') ORDER BY number DESC LIMIT 1",
    "shadow": "SELECT version AS id FROM observations WHERE role = 'shadow' ORDER BY id DESC LIMIT 1",
    "previous": """
        SELECT previous AS id FROM activations
        WHERE scope = '*' AND how != 'rollback' AND version = (SELECT version FROM live WHERE scope = '*')
        ORDER BY generation DESC LIMIT 1""",
}

# What becomes of the version that goes live, and of the one that leaves.
ARRIVALS = {"promote": ("probation", "retired"), "rollback": ("active", "rolled_back")}


@dataclass(frozen=True, kw_only=True)
class Activation:
    """What was live and what is now."""

    before: str
    now: str
    generation: int


# reading --------------------------------------------------------------------------------------------------------------


def get(connection: Connection, version: str) -> dict[str, Any]:
    """The row of one version by its id. Raises HomeostatError when there is none."""
    row = connection.execute("SELECT * FROM versions WHERE id = :id", {"id": version}).fetchone()
    if row is None:
        raise HomeostatError(f"there is no version {version!r}: 'homeostat versions' lists them")
    return dict(row)


def resolve(connection: Connection, name: str) -> str:
    """The id behind v3, champion, challenger, shadow or previous. Raises HomeostatError when there is none."""
    if name not in ALIASES:
        return get(connection, name)["id"]
    row = connection.execute(ALIASES[name]).fetchone()
    if row is None or row["id"] is None:
        raise HomeostatError(f"there is no {name} at present: 'homeostat versions' lists what there is")
    return row["id"]


def live(connection: Connection) -> dict[str, Any]:
    """version, generation, since of what is live. Raises HomeostatError before anything is."""
    row = connection.execute("SELECT * FROM live WHERE scope = '*'").fetchone()
    if row is None:
        raise HomeostatError("nothing is live: 'homeostat init' deploys a base model")
    return dict(row)


def versions(connection: Connection) -> list[dict[str, Any]]:
    """Every version, oldest first."""
    return [dict(row) for row in connection.execute("SELECT * FROM versions ORDER BY number")]


def verdicts(connection: Connection, version: str) -> list[dict[str, Any]]:
    """What the gates said of a version, those that block first."""
    rows = connection.execute("SELECT * FROM verdicts WHERE version = :id ORDER BY role DESC, gate", {"id": version})
    return [dict(row) for row in rows]


def lineage(connection: Connection, version: str) -> list[str]:
    """The version and its ancestors, to v0."""
    line = [version]
    while (parent := get(connection, line[-1])["parent"]) is not None:
        line.append(parent)
    return line


def activations(connection: Connection) -> list[dict[str, Any]]:
    """What became live, oldest first."""
    return [dict(row) for row in connection.execute("SELECT * FROM activations WHERE scope = '*' ORDER BY generation")]


# moves within a transaction of the caller's ---------------------------------------------------------------------------


def register_base(
    connection: Connection, *, digest: str, base_digest: str, plan_digest: str, by: str, at: datetime
) -> None:
    """v0, the model as deployed, live from the start. Its bundle is written already, `digest` being the bundle's."""
    now = rfc3339(at)
    insert(
        connection,
        "versions",
        number=0,
        id="v0",
        state="active",
        recipe="base",
        digest=digest,
        plan_digest=plan_digest,
        base_digest=base_digest,
        created_at=now,
        approved_by=by,
        approved_because="deployed",
    )
    insert(connection, "live", scope="*", version="v0", generation=1, since=now)
    insert(
        connection, "activations", scope="*", generation=1, version="v0", at=now, by=by, reason="deployed", how="init"
    )
    body = {"version": "v0", "digest": digest, "base_digest": base_digest, "generation": 1}
    journal.append(connection, "version_deployed", at=at, by=by, body=body)


def create(
    connection: Connection, *, recipe: str, parent: str, job: str | None, plan_digest: str, by: str, at: datetime
) -> str:
    """A version in state training, on the base of its parent; returns its id, which is never used again."""
    number = connection.execute("SELECT COALESCE(MAX(number), -1) + 1 AS next FROM versions").fetchone()["next"]
    version = f"v{number}"
    base_digest = get(connection, parent)["base_digest"]
    insert(
        connection,
        "versions",
        number=number,
        id=version,
        parent=parent,
        state="training",
        recipe=recipe,
        job=job,
        plan_digest=plan_digest,
        base_digest=base_digest,
        created_at=rfc3339(at),
    )
    body = {"version": version, "parent": parent, "recipe": recipe, "job": job, "plan_digest": plan_digest}
    journal.append(connection, "version_started", at=at, by=by, body=body)
    return version


def complete(connection: Connection, version: str, *, digest: str, by: str, reason: str, at: datetime) -> None:
    """From training to candidate; `digest` is that of the bundle that stands on disk already."""
    before = _step(connection, version, "candidate")
    connection.execute("UPDATE versions SET digest = :digest WHERE id = :id", {"digest": digest, "id": version})
    body = {"version": version, "from": before, "to": "candidate", "digest": digest, "reason": reason}
    journal.append(connection, "version_trained", at=at, by=by, body=body)


def move(connection: Connection, version: str, to: str, *, by: str, reason: str, at: datetime) -> None:
    """One legal move with its event. Going live and leaving it is `activate`. Raises Refused for any other move."""
    before = _step(connection, version, to)
    body = {"version": version, "from": before, "to": to, "reason": reason}
    journal.append(connection, EVENTS[to], at=at, by=by, body=body)


def activate(
    connection: Connection, version: str, *, how: str, by: str, reason: str, at: datetime, expected: int
) -> Activation:
    """Makes `version` live by "promote" or "rollback", if what is live is still at generation `expected`.

    Promoted, it goes on probation and its predecessor retires; rolled back to, it is active, its predecessor is
    rolled_back, and automatic promotion pauses until a person resumes it. Raises Refused for an illegal move, and where
    somebody else was faster.
    """
    arrives, leaves = ARRIVALS[how]
    before, generation = live(connection)["version"], expected + 1
    now = {"version": version, "since": rfc3339(at), "generation": generation, "expected": expected}
    taken = connection.execute(
        "UPDATE live SET version = :version, generation = :generation, since = :since"
        " WHERE scope = '*' AND generation = :expected",
        now,
    )
    if taken.rowcount != 1:
        raise Refused(f"{before} became live meanwhile, by somebody else: look at 'homeostat status' and decide again")
    _step(connection, version, arrives)
    _step(connection, before, leaves)
    AFTERMATHS[how](connection, version, before, by, at)
    insert(
        connection,
        "activations",
        scope="*",
        generation=generation,
        version=version,
        previous=before,
        at=now["since"],
        by=by,
        reason=reason,
        how=how,
    )
    event = {"promote": "version_promoted", "rollback": "version_rolled_back"}[how]
    body = {"version": version, "previous": before, "generation": generation, "reason": reason}
    journal.append(connection, event, at=at, by=by, body=body)
    return Activation(before=before, now=version, generation=generation)


def _after_promotion(connection: Connection, version: str, before: str, by: str, at: datetime) -> None:
    """Probation begins; the shifts that it has learnt are dealt with, and answers may be trusted again.

    A shift of known domains goes on where it has learnt nothing of home, or home stays suspended, and one of new
    domains while a common one is left that is not known: not learnt, or not yet up to what was approved, as its own
    anchors show. A domain that it has learnt is answered again, unless the version is not yet up to what was approved
    there.
    """
    facts = json.loads(get(connection, version)["measures"] or "{}")
    served = {place_of(domain) for domain in {*facts.get("domains", ())} - {*facts.get("below", ())}}
    left = [domain for domain in suspended_for(connection, before) if domain not in served]
    suspend_domains(connection, version, left, by=by, reason=f"{version} was promoted", at=at, after=before)
    seen = connection.execute("SELECT COALESCE(MAX(number), 0) AS n FROM observations").fetchone()["n"]
    put_setting(connection, "probation", {"version": version, "previous": before, "since": seen})
    kept = {kind for alarm in episodes.open_alarms(connection) if (kind := _goes_on(connection, version, alarm))}
    ended = {*episodes.OF_SHIFT, episodes.FAR_OUT} - kept
    episodes.close_alarms(connection, ended, because=f"{version} was promoted", by=by, at=at)
    if kept:
        journal.append(connection, "alarm_kept", at=at, by=by, body={"version": version, "kinds": sorted(kept)})
        return
    set_trust(connection, NORMAL, by=by, reason=f"{version} was promoted", at=at)


def _goes_on(connection: Connection, version: str, alarm: Mapping[str, Any]) -> str | None:
    """The kind of an open shift that the version, live now, has not dealt with; None where it has."""
    kind = episodes.kind_of(alarm["shift"], alarm["stream"])
    if kind == episodes.ARRIVAL:
        left = common_since(connection, alarm["since_case"] or alarm["opened_at_case"], NEW)
        return kind if left else None
    facts = json.loads(get(connection, version)["measures"] or "{}")
    learnt = any(place_of(domain) == HOME for domain in facts.get("domains", [HOME]))
    goes_on = not learnt or HOME in suspended_for(connection, version)
    return kind if kind == episodes.SHIFT and goes_on else None


def _after_rollback(connection: Connection, version: str, before: str, by: str, at: datetime) -> None:
    """The plan promotes nothing until a person resumes it; the charts start anew on the older version's reference."""
    put_setting(connection, "automatic_promotion", False)
    put_setting(connection, "probation", None)
    episodes.close_alarms(
        connection, {*episodes.OF_SHIFT, episodes.FAR_OUT}, because=f"{before} was rolled back", by=by, at=at
    )
    set_trust(connection, CAUTION, by=by, reason=f"{before} was rolled back", at=at)


AFTERMATHS = {"promote": _after_promotion, "rollback": _after_rollback}


def _step(connection: Connection, version: str, to: str) -> str:
    state = get(connection, version)["state"]
    if to not in MOVES[state]:
        ways = ", ".join(sorted(MOVES[state]))
        says = f"from there it can become {ways}" if ways else "that is final, and an update makes another one"
        raise Refused(f"{version} is {state} and can't become {to}: {says}")
    connection.execute("UPDATE versions SET state = :to WHERE id = :id", {"to": to, "id": version})
    return state


# decisions of a person or of the plan, each a transaction -------------------------------------------------------------


def approve(workspace: Workspace, name: str, *, by: str, reason: str) -> str:
    """Lets a judged candidate be promoted; returns its id.

    Raises NotEnoughEvidence with the number of labelled patients that is missing where it is held or not yet judged,
    and Refused in any other state or where a required gate failed it.
    """
    with workspace.store.transaction() as connection:
        version = resolve(connection, name)
        _evidence(connection, version)
        move(connection, version, "approved", by=by, reason=reason, at=workspace.now())
        connection.execute(
            "UPDATE versions SET approved_by = :by, approved_because = :reason WHERE id = :id",
            {"by": by, "reason": reason, "id": version},
        )
    return version


def reject(workspace: Workspace, name: str, *, by: str, reason: str) -> str:
    """Refuses a candidate for good; it is kept. Raises Refused where it went live or was refused before."""
    with workspace.store.transaction() as connection:
        version = resolve(connection, name)
        move(connection, version, "rejected", by=by, reason=reason, at=workspace.now())
    return version


def promote(workspace: Workspace, name: str, *, by: str, reason: str) -> Activation:
    """Makes an approved version live and publishes it.

    Raises NotEnoughEvidence where it is held, and Refused where it isn't approved, its files are not those that were
    registered, or something else became live while this was decided.
    """
    with workspace.store.read() as connection:
        version = resolve(connection, name)
        now = live(connection)
        row = get(connection, version)
        state = row["state"]
        if state in ("candidate", "held"):
            _evidence(connection, version)
            raise Refused(f"{version} is not approved: 'homeostat approve {version}' lets it be promoted")
        if state == "approved" and row["parent"] != now["version"]:
            raise Refused(
                f"{version} was judged against {row['parent']}, and {now['version']} is live: "
                "ask for an update from what is live with 'homeostat update'"
            )
    _check(workspace, version)
    reserve.keep(workspace)
    done = _commit(workspace, version, "promote", by, reason, now["generation"])
    pointer.publish(workspace)
    return done


def rollback(workspace: Workspace, name: str | None = None, *, by: str, reason: str) -> Activation:
    """Live goes back to the version before the one that is live, or to the named one that was live once; published.

    It needs the store and the files of the version that it goes back to, nothing of the one that it leaves; on a full
    disk it takes the space that was kept back for it. Raises Refused where there is nothing to go back to, or that
    version's files are damaged.
    """
    attempt = partial(reserve.spending, workspace)
    version, seen = attempt(lambda: _way_back(workspace, name))
    _check(workspace, version)
    done = attempt(lambda: _commit(workspace, version, "rollback", by, reason, seen))
    attempt(lambda: pointer.publish(workspace))
    return done


def _way_back(workspace: Workspace, name: str | None) -> tuple[str, int]:
    """The version to go back to, and the generation of what is live."""
    with workspace.store.read() as connection:
        now = live(connection)
        if name is None and connection.execute(ALIASES["previous"]).fetchone()["id"] is None:
            raise Refused(f"there is nothing to roll back to: {now['version']} is the model as deployed")
        version = resolve(connection, name or "previous")
        if version == now["version"]:
            raise Refused(f"{version} is live already: name another version with --to")
    return version, now["generation"]


def _check(workspace: Workspace, version: str) -> None:
    """Refuses a version whose files are not those that were registered."""
    with workspace.store.read() as connection:
        digest = get(connection, version)["digest"]
    if digest is not None and (wrong := bundle.check(workspace.path("versions", version), digest)):
        raise Refused(f"{version} can't go live, for {wrong[0]}: name another, or restore its folder from a backup")


def _commit(workspace: Workspace, version: str, how: str, by: str, reason: str, seen: int) -> Activation:
    with workspace.store.transaction() as connection:
        return activate(connection, version, how=how, by=by, reason=reason, at=workspace.now(), expected=seen)


def _evidence(connection: Connection, version: str) -> None:
    """Raises unless every required gate passed the version, or nobody needs to ask because of its state."""
    state = get(connection, version)["state"]
    if state not in ("candidate", "held"):
        return
    required = [row for row in verdicts(connection, version) if row["role"] == "require"]
    failed = [row for row in required if row["verdict"] == "FAIL"]
    open_ = [row for row in required if row["verdict"] == "INSUFFICIENT"]
    if failed:
        raise Refused(f"{version} was failed by the gate {failed[0]['gate']}: {failed[0]['says']}")
    if open_:
        raise NotEnoughEvidence(f"{version} is held: " + "; ".join(_missing(row) for row in open_))
    if not required or state == "held":
        raise NotEnoughEvidence(f"{version} has not been judged yet: 'homeostat run --until-idle' judges it")


def _missing(row: dict[str, Any]) -> str:
    if row["needed"] is None:
        return f"the gate {row['gate']} can't tell from {row['n']} labelled patients"
    more = max(row["needed"] - row["n"], 1)
    return f"the gate {row['gate']} has {row['n']} labelled patients and needs {row['needed']}: {more} are missing"
