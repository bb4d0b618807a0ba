"""Clear: what late labels say of an open alarm. No harm: it ends, and what has come since joins the reference. Harm:
the domain's answers are suspended."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any

from agent.drift import episodes
from agent.drift.domains import HOME, KNOWN, SERVED, common_since, is_episode, place_of
from agent.drift.labelled import UNTAUGHT
from agent.drift.reference import open_epoch
from agent.plan import Plan
from agent.store import Connection, journal
from agent.trust import CAUTION, NORMAL, SUSPENDED, set_trust, suspend_domains, suspended_for, trust_now
from agent.updates import material
from agent.versions import pointer, registry
from agent.workspace import Workspace, get_setting, put_setting

if TYPE_CHECKING:
    from monitors import Judgement

LOOKS = (8, 16, 32, 64, 128, 192, 256, 384, 512)  # labelled cases of a domain since the change
LATEST = 128  # of them a look takes the latest so many: what came and went is not held against today
ENOUGH = 32  # and no alarm ends before so many


class Clearing:
    """Looks again when labels have come; what it rests on is in the store."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self._seen: dict[int, int] = {}  # alarm -> the labels that were there

    def step(self, now: datetime) -> bool:
        """Ends an open alarm of a shift where every domain of its stream is shown to be served as well as approved, and
        suspends each that is shown to be served worse.

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
        plan = self.workspace.config.plan
        with self.workspace.store.read() as connection:
            live = registry.live(connection)["version"]
            found = judged(connection, plan, onset, alarm["stream"])
            before = {*suspended_for(connection, live)}
            common = common_since(connection, onset, alarm["stream"])
        worse = {domain for domain, (judgement, _) in found.items() if judgement.verdict == "FAIL"}
        well = {domain for domain, (_, shown) in found.items() if shown}
        now_suspended = (before | worse if plan.harm_shown == SUSPENDED else before) - well
        if now_suspended != before:
            with self.workspace.store.transaction() as connection:
                suspend_domains(connection, live, now_suspended, by="homeostat", reason="labels show it", at=now)
            pointer.publish(self.workspace)
        if not common or not {*common} <= well:
            return now_suspended != before
        worst = min((found[domain][0] for domain in common), key=lambda one: one.interval or (0.0, 0.0))
        with self.workspace.store.transaction() as connection:
            _end(connection, alarm, sorted(common), f"labels show no harm: {worst.says}", now)
        pointer.publish(self.workspace)
        return True


def judged(connection: Connection, plan: Plan, onset: int, stream: str = KNOWN) -> dict[str, tuple[Judgement, bool]]:
    """Per common domain of a stream since the onset with labels enough for a look: (is the live version as good there
    as was approved, is that shown).

    A look comes at so many cases in order of their labels: looked at twice, it is the same test. What counts of them is
    each patient's share of right answers. Harm and its absence are two claims; the looks for each share the plan's
    alpha.
    """
    from monitors import unharmed

    common, since = common_since(connection, onset, stream), _since(connection, onset)
    rule = plan.gates["forgetting"]
    for_harm, for_none = plan.alpha / len(LOOKS), plan.alpha / sum(look >= ENOUGH for look in LOOKS)
    approved, learnt, found = _approved(connection), _learnt(connection), {}
    for domain in common:
        n = max((look for look in LOOKS if look <= len(since[domain])), default=0)
        if not n:
            continue
        latest = _shares(since[domain][:n][-LATEST:])
        own = stream == KNOWN and domain in learnt and rule.elsewhere == "no_harm_found"
        level, now = learnt[domain] if own else approved, (sum(latest), len(latest))
        harm, none = (unharmed(level, now, rule.margin, alpha) for alpha in (for_harm, for_none))
        shown = harm.verdict != "FAIL" if own else none.verdict == "PASS"
        found[domain] = (none if shown else harm), shown and n >= ENOUGH
    return found


def served_so_far(connection: Connection, plan: Plan) -> set[str]:
    """Domains in alarm at which the labels so far estimate the accuracy within half the margin of the approved one.

    Nothing is shown by that, but no update could be shown to gain there either: it waits for what further labels say.
    Empty where the plan asks for no gain.
    """
    rule, found = plan.gates["forgetting"], set[str]()
    if plan.gates["gain"].role != "require":
        return found
    for alarm in episodes.open_alarms(connection):
        if episodes.kind_of(alarm["shift"], alarm["stream"]) in episodes.OF_SHIFT:
            since = alarm["since_case"] or alarm["opened_at_case"]
            for domain, (judgement, _) in judged(connection, plan, since, alarm["stream"]).items():
                before, after = judgement.before or 0.0, judgement.after or 0.0
                if judgement.n >= LOOKS[1] and after >= before - rule.margin / 2:
                    found.add(domain)
    return found


def below(connection: Connection, plan: Plan, right: Mapping[str, tuple[float, int]]) -> list[str]:
    """The domains beside home at which a version's accuracy is below the approved one by more than the margin of
    forgetting; `right` is what its anchors say: {domain: (right patients, patients)}.

    That a candidate gained there makes it live, not good enough to be trusted. A point estimate, because few anchors
    could show neither: in doubt the alarm goes on, and a suspension stands, until later labels clear it or a better
    version is learnt.
    """
    hits, patients = _approved(connection)
    least = hits / max(1, patients) - plan.gates["forgetting"].margin
    return sorted(domain for domain, (hit, n) in right.items() if domain != HOME and hit < least * n)


def _learnt(connection: Connection) -> dict[str, tuple[float, int]]:
    """What the anchors of each domain beside home showed of the live version: (right patients, patients)."""
    row = registry.get(connection, registry.live(connection)["version"])
    shown = json.loads(row["measures"] or "{}").get("right", {})
    return {domain: (right, n) for domain, (right, n) in shown.items() if domain != HOME and not is_episode(domain)}


def _since(connection: Connection, onset: int) -> dict[str, list[tuple[str, bool]]]:
    """Per domain, home's episodes being home: (patient, whether the live version was right) of the labelled cases since
    the onset in order of their labels, without patients whom it may have learnt from; and without those that were asked
    for because the answer was unsure, which is no fair sample."""
    classes, live = get_setting(connection, "classes"), registry.live(connection)["version"]
    rows = connection.execute(
        """SELECT c.domain, c.patient_key AS patient, o.scores, l.id AS label, l.value FROM observations o
           JOIN cases c ON c.case_id = o.case_id
           JOIN labels l ON l.case_id = o.case_id AND l.kind = 'class'
           WHERE o.role = 'live' AND o.version = :live AND o.number >= :onset AND o.abstained = 0
             AND l.arm != 'active' AND """
        + UNTAUGHT
        + " ORDER BY l.id",
        {"live": live, "onset": onset},
    )
    right: dict[str, list[tuple[str, bool]]] = defaultdict(list)
    for row in rows:
        right[place_of(row["domain"])].append((row["patient"], _is_right(row, classes)))
    return right


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
    shares = _shares([(row["patient"], _is_right(row, classes)) for row in rows])
    return sum(shares), len(shares)


def _is_right(row: Mapping[str, Any], classes: list[str]) -> bool:
    import numpy as np

    return bool(classes[int(np.frombuffer(row["scores"], "<f4").argmax())] == row["value"])


def _shares(answers: Sequence[tuple[str, bool]]) -> list[float]:
    """Of right answers, per patient."""
    right: dict[str, list[bool]] = defaultdict(list)
    for patient, is_right in answers:
        right[patient].append(is_right)
    return [sum(some) / len(some) for some in right.values()]


def _end(connection: Connection, alarm: Mapping[str, Any], domains: Sequence[str], because: str, now: datetime) -> None:
    """The alarm closes, its cases join what the live version is watched against, and what was held for it gives way.

    The domains are known from now on, and need not be learnt any more. Trust returns to normal once no shift is open,
    and only where nobody took it away for good: after a rollback a person resumes.
    """
    live, by = registry.live(connection)["version"], "homeostat"
    reference = material.next_reference(connection, live, domains)
    members = {case["case_id"]: "transform" if case["split"] == "train" else "calibrate" for case in reference}
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
