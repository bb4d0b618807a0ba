"""Watch: probation of a promoted version. Harm that labels show, or outputs that need no assumption, roll it back."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any

from agent.errors import Refused
from agent.store import Connection, journal
from agent.tasks import task_of
from agent.trust import SUSPENDED, set_trust
from agent.versions import pointer, registry
from agent.workspace import Workspace, get_setting, put_setting

COLLAPSE_WINDOW = 50  # latest answers in which a collapse is looked for


@dataclass(frozen=True)
class Trip:
    """A guard that calls for a rollback; `reason` goes into the record."""

    guard: str
    reason: str


def step(workspace: Workspace, now: datetime) -> str | None:
    """Rolls back, confirms, or goes on watching; answers "rolled_back", "active", or None.

    Where no older version can go live, trust is suspended, and "no_way_back" is answered once.
    """
    with workspace.store.read() as connection:
        probation = get_setting(connection, "probation")
        if not probation:
            return None
        trip = _broken_outputs(connection, probation) or _harm(connection, workspace, probation)
        seen = connection.execute(
            "SELECT count(*) FROM observations WHERE role = 'live' AND version = :v AND number > :since",
            {"v": probation["version"], "since": probation["since"]},
        ).fetchone()[0]
    if trip:
        return _roll_back(workspace, probation, f"{trip.guard}: {trip.reason}", now)
    if seen < workspace.config.plan.probation.cases:
        return None
    with workspace.store.transaction() as connection:
        reason = f"{seen} cases on probation without a guard tripping"
        registry.move(connection, probation["version"], "active", by="homeostat", reason=reason, at=now)
        put_setting(connection, "probation", None)
    return "active"


def _roll_back(workspace: Workspace, probation: dict[str, Any], reason: str, now: datetime) -> str | None:
    """To the version before; where its files are damaged, to the model as deployed."""
    for target in dict.fromkeys((probation["previous"], "v0")):
        try:
            registry.rollback(workspace, target, by="homeostat", reason=reason)
            return "rolled_back"
        except Refused as error:
            with workspace.store.read() as connection:
                if registry.live(connection)["version"] != probation["version"]:
                    return None  # a person was faster
            reason = f"{reason}; {error}"
    with workspace.store.transaction() as connection:
        first = set_trust(connection, SUSPENDED, by="homeostat", reason=reason, at=now)
        if first:
            body = {"version": probation["version"], "reason": reason}
            journal.append(connection, "rollback_failed", at=now, by="homeostat", body=body)
    pointer.publish(workspace)
    return "no_way_back" if first else None


def _broken_outputs(connection: Connection, probation: dict[str, Any]) -> Trip | None:
    import numpy as np

    from monitors import collapse

    rows = connection.execute(
        """SELECT l.scores AS live, s.scores AS shadow FROM observations l
           LEFT JOIN observations s ON s.case_id = l.case_id AND s.role = 'shadow' AND s.version = :previous
           WHERE l.role = 'live' AND l.version = :version AND l.number > :since ORDER BY l.number DESC LIMIT :n""",
        {**probation, "n": COLLAPSE_WINDOW},
    ).fetchall()
    if not rows:
        return None
    live = np.stack([np.frombuffer(row["live"], "<f4") for row in rows[::-1]])
    before = [np.frombuffer(row["shadow"], "<f4") for row in rows[::-1] if row["shadow"] is not None]
    shadow = np.stack(before) if before else np.zeros((0, live.shape[1]), np.float32)
    says = collapse(live, shadow, exclusive=task_of(connection).exclusive)
    return Trip("outputs", says) if says else None


def _harm(connection: Connection, workspace: Workspace, probation: dict[str, Any]) -> Trip | None:
    """The promoted version against its predecessor on the same labelled patients, in the order of their labels."""
    import numpy as np

    from monitors import PairedHarm

    classes, task = get_setting(connection, "classes"), task_of(connection)
    rows = connection.execute(
        """SELECT l.scores AS live, s.scores AS shadow, al.worth AS live_worth, sh.worth AS shadow_worth,
                  labels.value AS label, c.patient_key AS patient
           FROM observations l JOIN cases c ON c.case_id = l.case_id
           JOIN observations s ON s.case_id = l.case_id AND s.role = 'shadow' AND s.version = :previous
           JOIN labels ON labels.case_id = l.case_id
           LEFT JOIN answers al ON al.observation = l.id LEFT JOIN answers sh ON sh.observation = s.id
           WHERE l.role = 'live' AND l.version = :version AND l.number > :since ORDER BY labels.id""",
        probation,
    ).fetchall()
    right: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        before, now = (
            task.outcome(
                {"scores": row[who], "value": row["label"], "worth": row[f"{who}_worth"], "sure": None}, classes
            )[0]
            for who in ("shadow", "live")
        )
        if before is not None and now is not None:
            right.setdefault(row["patient"], []).append((before, now))
    if not right:
        return None
    evidence = PairedHarm(alpha=workspace.config.plan.probation.alpha)
    for pairs in right.values():
        previous, promoted = np.mean(pairs, axis=0)
        evidence.update(promoted, previous)
    if not evidence.harmful:
        return None
    return Trip("labels", f"on {len(right)} labelled patients it is worse than {probation['previous']}")
