"""Clear: an alarm ends where labels show that the change did no harm; what has come since then joins the reference."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from agent.drift import episodes
from agent.drift.domains import HOME, is_episode
from agent.drift.reference import open_epoch
from agent.plan import Plan
from agent.store import Connection, journal
from agent.trust import CAUTION, NORMAL, set_trust, trust_now
from agent.updates import material
from agent.updates.material import SERVED
from agent.versions import pointer, registry
from agent.workspace import Workspace, get_setting, put_setting

if TYPE_CHECKING:
    from monitors import Judgement

LOOKS = (25, 50, 100, 200)  # labelled patients of a domain since the change; the looks share the plan's alpha
RARE = 0.05  # a domain with a smaller share of the cases since the change is not asked for


class Clearing:
    """Looks again when labels have come; what it rests on is in the store."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._seen: tuple[int, int] | None = None  # the alarm, and the labels that were there

    def step(self, now: datetime) -> bool:
        """Ends the open alarm of a shift where every domain since its onset is shown to be served as well as approved.

        As well: an accuracy at most the plan's margin of forgetting below that of the deployed model on the patients
        of its reference that did not teach it; a domain that the live version has learnt is held to what its anchors
        showed then, under the burden that the plan has for such domains. All have to show it, so each is tested at the
        full level.
        """
        with self.workspace.store.read() as connection:
            alarm = connection.execute(
                """SELECT id, coalesce(since_case, opened_at_case) AS onset, (SELECT max(id) FROM labels) AS labels
                   FROM alarms WHERE state != 'closed' AND shift IS NOT NULL AND shift != 'far-out'
                   ORDER BY id DESC LIMIT 1"""
            ).fetchone()
            if alarm is None or (alarm["id"], alarm["labels"]) == self._seen:
                return False
            found = judged(connection, self.workspace.config.plan, alarm["onset"])
        self._seen = (alarm["id"], alarm["labels"])
        if not found or not all(shown for _, shown in found.values()):
            return False
        worst = min((judgement for judgement, _ in found.values()), key=lambda one: one.interval or (0.0, 0.0))
        with self.workspace.store.transaction() as connection:
            _end(connection, alarm["id"], sorted(found), f"labels show no harm: {worst.says}", now)
        pointer.publish(self.workspace)
        return True


def judged(connection: Connection, plan: Plan, onset: int) -> dict[str, tuple[Judgement, bool]]:
    """Per domain of the cases since the onset: (is the live version as good there as was approved, is that shown).

    Empty: too early. A look takes the first so many patients in order of their labels: looked at twice, it is the same
    test.
    """
    from monitors import unharmed

    cases, since = _since(connection, onset)
    common = [domain for domain, n in cases.items() if n >= RARE * sum(cases.values())]
    if not common or min(len(since[domain]) for domain in common) < LOOKS[0]:
        return {}
    rule, alpha = plan.gates["forgetting"], plan.alpha / len(LOOKS)
    approved, learnt, found = _approved(connection), _learnt(connection), {}
    for domain in common:
        n = max(look for look in LOOKS if look <= len(since[domain]))
        right = sum(since[domain][:n]), n
        if domain in learnt and rule.elsewhere == "no_harm_found":
            judgement = unharmed(learnt[domain], right, rule.margin, alpha)
            found[domain] = judgement, judgement.verdict != "FAIL"
        else:
            judgement = unharmed(approved, right, rule.margin, alpha)
            found[domain] = judgement, judgement.verdict == "PASS"
    return found


def below(connection: Connection, plan: Plan, right: Mapping[str, tuple[float, int]]) -> list[str]:
    """The domains beside home at which a version is shown to be worse than what was approved, by more than the margin
    of forgetting; `right` is what its anchors say: {domain: (right patients, patients)}. Better than before it may be:
    that a candidate gained makes it live, not good enough to be trusted."""
    from monitors import unharmed

    level, margin = _approved(connection), plan.gates["forgetting"].margin
    return sorted(
        domain
        for domain, shown in right.items()
        if domain != HOME and unharmed(level, shown, margin, plan.alpha).verdict == "FAIL"
    )


def _learnt(connection: Connection) -> dict[str, tuple[float, int]]:
    """What the anchors of each domain beside home showed of the live version: (right patients, patients)."""
    row = registry.get(connection, registry.live(connection)["version"])
    shown = json.loads(row["measures"] or "{}").get("right", {})
    return {domain: (right, n) for domain, (right, n) in shown.items() if domain != HOME and not is_episode(domain)}


def _since(connection: Connection, onset: int) -> tuple[dict[str, int], dict[str, list[float]]]:
    """Per domain, home's episodes being home: the live version's answered cases since the onset, and the shares of its
    labelled patients, without those whom it may have learnt from."""
    classes, live = get_setting(connection, "classes"), registry.live(connection)["version"]
    rows = connection.execute(
        """SELECT c.domain, c.patient_key AS patient, o.scores, l.id AS label, l.value FROM observations o
           JOIN cases c ON c.case_id = o.case_id
           JOIN versions v ON v.id = o.version
           LEFT JOIN labels l ON l.case_id = o.case_id AND l.kind = 'class' AND NOT EXISTS (
               SELECT 1 FROM cases k JOIN patients p ON p.patient_key = k.patient_key AND p.split = 'train'
               JOIN labels known ON known.case_id = k.case_id
               WHERE k.patient_key = c.patient_key AND known.received_at <= v.created_at)
           WHERE o.role = 'live' AND o.version = :live AND o.number >= :onset AND o.abstained = 0
           ORDER BY l.id""",
        {"live": live, "onset": onset},
    )
    cases: dict[str, int] = defaultdict(int)
    right: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        domain = HOME if is_episode(row["domain"]) else row["domain"]
        cases[domain] += 1
        if row["label"] is not None:
            right[domain][row["patient"]].append(_is_right(row, classes))
    return cases, {domain: _shares(right[domain]) for domain in cases}


def _approved(connection: Connection) -> tuple[float, int]:
    """(right patients, patients) of the deployed model's first reference, without those who taught it."""
    classes = get_setting(connection, "classes")
    rows = connection.execute(
        """SELECT c.patient_key AS patient, o.scores, l.value
           FROM (SELECT min(epoch) AS first FROM reference_epochs WHERE version = 'v0')
           JOIN reference_members m ON m.epoch = first
           JOIN observations o ON o.case_id = m.case_id AND o.version = 'v0'
           JOIN cases c ON c.case_id = m.case_id
           JOIN labels l ON l.case_id = m.case_id AND l.kind = 'class'
           WHERE m.part = 'calibrate' ORDER BY l.id""",
    )
    right: dict[str, list[bool]] = defaultdict(list)
    for row in rows:
        right[row["patient"]].append(_is_right(row, classes))
    return sum(_shares(right)), len(right)


def _is_right(row: Mapping[str, Any], classes: list[str]) -> bool:
    import numpy as np

    return bool(classes[int(np.frombuffer(row["scores"], "<f4").argmax())] == row["value"])


def _shares(right: Mapping[str, list[bool]]) -> list[float]:
    return [sum(answers) / len(answers) for answers in right.values()]


def _end(connection: Connection, alarm: int, domains: Sequence[str], because: str, now: datetime) -> None:
    """The alarm closes, its cases join what the live version is watched against, and what was held for it gives way.

    The domains need not be learnt any more. Trust returns to normal only where nobody took it away for good: after a
    rollback a person resumes.
    """
    live, by = registry.live(connection)["version"], "homeostat"
    known = material.epoch_cases(connection, live)[-material.MOST_REFERENCE :]
    members = {
        case["case_id"]: "transform" if case["split"] == "train" else "calibrate"
        for case in [*known, *material.reference_cases(connection, ())]
    }
    open_epoch(connection, version=live, sensor=get_setting(connection, "sensor"), members=members, at=now, by=by)
    for held in connection.execute("SELECT id FROM versions WHERE state = 'held'").fetchall():
        registry.move(connection, held["id"], "rejected", by=by, reason=because, at=now)
    put_setting(connection, SERVED, sorted({*get_setting(connection, SERVED, []), *domains}))
    episodes.close_alarms(connection, {episodes.SHIFT}, because=because, by=by, at=now)
    journal.append(connection, "alarm_cleared", at=now, by=by, body={"alarm": alarm, "says": because})
    if trust_now(connection) == CAUTION and get_setting(connection, "automatic_promotion", True):
        set_trust(connection, NORMAL, by=by, reason=because, at=now)
