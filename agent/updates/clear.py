"""Clear: an alarm ends where labels show that the change did no harm; what has come since then joins the reference."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from agent.drift import episodes
from agent.drift.domains import HOME, KNOWN, SERVED, common_since, is_episode
from agent.drift.reference import open_epoch
from agent.plan import Plan
from agent.store import Connection, journal
from agent.trust import CAUTION, NORMAL, set_trust, trust_now
from agent.updates import material
from agent.versions import pointer, registry
from agent.workspace import Workspace, get_setting, put_setting

if TYPE_CHECKING:
    from monitors import Judgement

LOOKS = (25, 50, 100, 200)  # labelled patients of a domain since the change; the looks share the plan's alpha


class Clearing:
    """Looks again when labels have come; what it rests on is in the store."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._seen: dict[int, int] = {}  # alarm -> the labels that were there

    def step(self, now: datetime) -> bool:
        """Ends an open alarm of a shift where every domain of its stream is shown to be served as well as approved.

        As well: an accuracy at most the plan's margin of forgetting below that of the deployed model on the patients
        of its reference that did not teach it; a known domain that the live version has learnt is held to what its
        anchors showed then, under the burden that the plan has for such domains. All have to show it, so each is tested
        at the full level.
        """
        with self.workspace.store.read() as connection:
            labels = connection.execute("SELECT coalesce(max(id), 0) FROM labels").fetchone()[0]
            alarms = [
                alarm
                for alarm in episodes.open_alarms(connection)
                if episodes.kind_of(alarm["shift"], alarm["stream"]) in episodes.OF_SHIFT
                and self._seen.get(alarm["id"]) != labels
            ]
        return sum(self._try(alarm, labels, now) for alarm in alarms) > 0

    def _try(self, alarm: Mapping[str, Any], labels: int, now: datetime) -> bool:
        self._seen[alarm["id"]] = labels
        onset = alarm["since_case"] or alarm["opened_at_case"]
        with self.workspace.store.read() as connection:
            found = judged(connection, self.workspace.config.plan, onset, alarm["stream"])
        if not found or not all(shown for _, shown in found.values()):
            return False
        worst = min((judgement for judgement, _ in found.values()), key=lambda one: one.interval or (0.0, 0.0))
        with self.workspace.store.transaction() as connection:
            _end(connection, alarm, sorted(found), f"labels show no harm: {worst.says}", now)
        pointer.publish(self.workspace)
        return True


def judged(connection: Connection, plan: Plan, onset: int, stream: str = KNOWN) -> dict[str, tuple[Judgement, bool]]:
    """Per domain of a stream's cases since the onset: (is the live version as good there as was approved, is that
    shown).

    Empty: too early. A look takes the first so many patients in order of their labels: looked at twice, it is the same
    test.
    """
    from monitors import unharmed

    common, since = common_since(connection, onset, stream), _since(connection, onset)
    if not common or min(len(since[domain]) for domain in common) < LOOKS[0]:
        return {}
    rule, alpha = plan.gates["forgetting"], plan.alpha / len(LOOKS)
    approved, learnt, found = _approved(connection), _learnt(connection), {}
    for domain in common:
        n = max(look for look in LOOKS if look <= len(since[domain]))
        right = sum(since[domain][:n]), n
        if stream == KNOWN and domain in learnt and rule.elsewhere == "no_harm_found":
            judgement = unharmed(learnt[domain], right, rule.margin, alpha)
            found[domain] = judgement, judgement.verdict != "FAIL"
        else:
            judgement = unharmed(approved, right, rule.margin, alpha)
            found[domain] = judgement, judgement.verdict == "PASS"
    return found


def below(connection: Connection, plan: Plan, right: Mapping[str, tuple[float, int]]) -> list[str]:
    """The domains beside home at which a version's accuracy is below the approved one by more than the margin of
    forgetting; `right` is what its anchors say: {domain: (right patients, patients)}.

    That a candidate gained there makes it live, not good enough to be trusted. A point estimate, because few anchors
    could show neither: in doubt the alarm goes on, until later labels clear it or a better version is learnt.
    """
    hits, patients = _approved(connection)
    least = hits / max(1, patients) - plan.gates["forgetting"].margin
    return sorted(domain for domain, (hit, n) in right.items() if domain != HOME and hit < least * n)


def _learnt(connection: Connection) -> dict[str, tuple[float, int]]:
    """What the anchors of each domain beside home showed of the live version: (right patients, patients)."""
    row = registry.get(connection, registry.live(connection)["version"])
    shown = json.loads(row["measures"] or "{}").get("right", {})
    return {domain: (right, n) for domain, (right, n) in shown.items() if domain != HOME and not is_episode(domain)}


def _since(connection: Connection, onset: int) -> dict[str, list[float]]:
    """Per domain, home's episodes being home: the shares of right answers of the live version's labelled patients since
    the onset, without those whom it may have learnt from."""
    classes, live = get_setting(connection, "classes"), registry.live(connection)["version"]
    rows = connection.execute(
        """SELECT c.domain, c.patient_key AS patient, o.scores, l.id AS label, l.value FROM observations o
           JOIN cases c ON c.case_id = o.case_id
           JOIN versions v ON v.id = o.version
           JOIN labels l ON l.case_id = o.case_id AND l.kind = 'class' AND NOT EXISTS (
               SELECT 1 FROM cases k JOIN patients p ON p.patient_key = k.patient_key AND p.split = 'train'
               JOIN labels known ON known.case_id = k.case_id
               WHERE k.patient_key = c.patient_key AND known.received_at <= v.created_at)
           WHERE o.role = 'live' AND o.version = :live AND o.number >= :onset AND o.abstained = 0
           ORDER BY l.id""",
        {"live": live, "onset": onset},
    )
    right: dict[str, dict[str, list[bool]]] = defaultdict(lambda: defaultdict(list))
    for row in rows:
        domain = HOME if is_episode(row["domain"]) else row["domain"]
        right[domain][row["patient"]].append(_is_right(row, classes))
    return defaultdict(list, {domain: _shares(some) for domain, some in right.items()})


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


def _end(connection: Connection, alarm: Mapping[str, Any], domains: Sequence[str], because: str, now: datetime) -> None:
    """The alarm closes, its cases join what the live version is watched against, and what was held for it gives way.

    The domains are known from now on, and need not be learnt any more. Trust returns to normal once no shift is open,
    and only where nobody took it away for good: after a rollback a person resumes.
    """
    live, by = registry.live(connection)["version"], "homeostat"
    known = material.epoch_cases(connection, live)[-material.MOST_REFERENCE :]
    members = {
        case["case_id"]: "transform" if case["split"] == "train" else "calibrate"
        for case in [*known, *material.reference_cases(connection, domains)]
    }
    open_epoch(connection, version=live, sensor=get_setting(connection, "sensor"), members=members, at=now, by=by)
    for held in connection.execute("SELECT id FROM versions WHERE state = 'held'").fetchall():
        registry.move(connection, held["id"], "rejected", by=by, reason=because, at=now)
    put_setting(connection, SERVED, sorted({*get_setting(connection, SERVED, []), *domains}))
    kind = episodes.kind_of(alarm["shift"], alarm["stream"])
    episodes.close_alarms(connection, {kind}, because=because, by=by, at=now)
    journal.append(connection, "alarm_cleared", at=now, by=by, body={"alarm": alarm["id"], "says": because})
    others = {episodes.kind_of(one["shift"], one["stream"]) for one in episodes.open_alarms(connection)}
    lowered = trust_now(connection) == CAUTION and get_setting(connection, "automatic_promotion", True)
    if lowered and not others & episodes.OF_SHIFT:
        set_trust(connection, NORMAL, by=by, reason=because, at=now)
