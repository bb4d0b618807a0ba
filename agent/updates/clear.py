"""Clear: what late labels say of an open alarm. No harm: it ends, and what has come since joins the reference. Harm:
the domain's answers are suspended."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Any, NamedTuple

from agent.drift import episodes
from agent.drift.domains import EPISODE, HOME, KNOWN, SERVED, common_since, is_episode, place_of
from agent.drift.labelled import UNTAUGHT
from agent.drift.reference import open_epoch
from agent.plan import Plan
from agent.store import Connection, journal
from agent.tasks import Task, task_of
from agent.trust import CAUTION, NORMAL, SUSPENDED, set_trust, suspend_domains, suspended_for, trust_now
from agent.updates import material
from agent.versions import pointer, registry
from agent.workspace import Workspace, get_setting, put_setting

if TYPE_CHECKING:
    from monitors import Judgement
    from monitors.harm import Correction
    from monitors.protocols import Float

# Labelled cases of a domain since the change at which is looked, and of them the latest so many that a look takes: what
# came and went is not held against today. After the last of them every 128th, or every 32nd, goes on.
HARM_LOOKS, HARM_LATEST = (8, 16, 32, 64, 128, 192, 256, 384, 512), 128
LOOKS, LATEST = tuple(range(32, 513, 32)), 192
SHARES = 12  # of alpha, one for each look; simulated: sixteen looks that overlap so much err no more often than that
TODAY = 256  # the latest so many cases, labelled or not, are what it is like now


class Answer(NamedTuple):
    """Of a labelled case: worth 0..1 (1 or 0 of a class, Dice of a mask) and confidence 0..1; `at`, from when on both
    the answer and its label were there."""

    patient: str
    worth: float
    confidence: float
    at: str


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

    A look comes at so many cases in order of their labels, and knows what was there then: looked at twice, it is the
    same test. What counts is each patient's share of right answers. That there is no harm has to be shown of today,
    against the approval and home as it was in use until its first alarm: labels tell of images that are weeks old, so
    what they say is moved to today's cases by the confidence of these.

    Harm and its absence are two claims, each at the plan's alpha over the looks of 512 labelled cases. A longer alarm
    has it anew with the next 512: without further looks a domain that was mended would stay suspended. Harm: theorem,
    up to the normal approximation; each look has its part. Its absence: simulated (`homeostat bench clearing`), where
    the labelled are a fair sample of their time and confidence shows what has changed since.
    """
    from monitors import Verdict, unharmed

    common = common_since(connection, onset, stream)
    since = _labelled(connection, registry.live(connection)["version"], onset)
    rule, found = plan.gates["forgetting"], {}
    approved, before, learnt = _approved(connection), _before(connection), _learnt(connection)
    home = _hits(approved)
    for domain in common:
        answers = since[domain]
        for_harm, for_none = (_look(looks, len(answers)) for looks in (HARM_LOOKS, LOOKS))
        if not for_harm:
            continue
        own = stream == KNOWN and domain in learnt and rule.elsewhere == "no_harm_found"
        level = learnt[domain] if own else home
        now = _hits(answers[:for_harm][-HARM_LATEST:])
        judgement = unharmed(level, now, rule.margin, plan.alpha / len(HARM_LOOKS))
        shown = judgement.verdict is not Verdict.FAIL and for_none > 0
        if shown and not own:
            latest = answers[:for_none][-LATEST:]
            at = max(one.at for one in answers[:for_none])
            correction = _to_today(connection, onset, domain, approved, latest, at)
            level = _hits([*approved, *(one for one in before if one.at <= at)])
            none = unharmed(level, _hits(latest), rule.margin, plan.alpha / SHARES, correction)
            shown = none.verdict is Verdict.PASS
            judgement = none if shown else judgement
        found[domain] = judgement, shown
    return found


def _look(looks: Sequence[int], n: int) -> int:
    """The number of labelled cases at the last look that `n` of them have reached; 0 before the first."""
    last, step = looks[-1], looks[-1] - looks[-2]
    return n // step * step if n > last else max((look for look in looks if look <= n), default=0)


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
                if judgement.n >= HARM_LOOKS[1] and after >= before - rule.margin / 2:
                    found.add(domain)
    return found


def below(connection: Connection, plan: Plan, right: Mapping[str, tuple[float, int]]) -> list[str]:
    """The domains beside home at which a version's accuracy is below the approved one by more than the margin of
    forgetting; `right` is what its anchors say: {domain: (right patients, patients)}.

    That a candidate gained there makes it live, not good enough to be trusted. A point estimate, because few anchors
    could show neither: in doubt the alarm goes on, and a suspension stands, until later labels clear it or a better
    version is learnt.
    """
    hits, patients = _hits(_approved(connection))
    least = hits / max(1, patients) - plan.gates["forgetting"].margin
    return sorted(domain for domain, (hit, n) in right.items() if domain != HOME and hit < least * n)


def _learnt(connection: Connection) -> dict[str, tuple[float, int]]:
    """What the anchors of each domain beside home showed of the live version: (right patients, patients)."""
    row = registry.get(connection, registry.live(connection)["version"])
    shown = json.loads(row["measures"] or "{}").get("right", {})
    return {domain: (right, n) for domain, (right, n) in shown.items() if domain != HOME and not is_episode(domain)}


def _labelled(connection: Connection, version: str, first: int, last: int = 2**62) -> dict[str, list[Answer]]:
    """Per domain, home's episodes being home: the answers of a version, while it was live, to the labelled cases of
    these observations in order of their labels, without patients whom it may have learnt from; and without those that
    were asked for because the answer was unsure, which is no fair sample."""
    classes, task = get_setting(connection, "classes"), task_of(connection)
    rows = connection.execute(
        """SELECT c.domain, c.patient_key AS patient, o.scores, a.worth, a.sure, l.value, max(o.at, l.received_at) AS at
           FROM observations o
           JOIN cases c ON c.case_id = o.case_id
           JOIN labels l ON l.case_id = o.case_id
           LEFT JOIN answers a ON a.observation = o.id
           WHERE o.role = 'live' AND o.version = :version AND o.number BETWEEN :first AND :last AND o.abstained = 0
             AND l.arm != 'active' AND """
        + UNTAUGHT
        + " ORDER BY l.id",
        {"version": version, "first": first, "last": last},
    )
    answers: dict[str, list[Answer]] = defaultdict(list)
    for row in rows:
        answers[place_of(row["domain"])] += _answers(task, [row], classes)
    return answers


def _before(connection: Connection) -> list[Answer]:
    """The deployed model's at home before any change of it was alarmed: how good it is in use. What came after the
    first change is no standard: every change could then take a margin more."""
    row = connection.execute(
        """SELECT min(coalesce(since_case, opened_at_case)) AS first FROM alarms
           WHERE shift IS NOT NULL AND shift != 'far-out' AND stream != 'new'"""
    ).fetchone()
    last = 2**62 if row["first"] is None else row["first"] - 1
    return _labelled(connection, "v0", 0, last)[HOME]


def _approved(connection: Connection) -> list[Answer]:
    """The deployed model's on its first reference, without the patients who taught it."""
    classes = get_setting(connection, "classes")
    rows = connection.execute(
        """SELECT c.patient_key AS patient, o.scores, a.worth, a.sure, l.value, o.at
           FROM (SELECT min(epoch) AS first FROM reference_epochs WHERE version = 'v0')
           JOIN reference_members m ON m.epoch = first
           JOIN observations o ON o.case_id = m.case_id AND o.version = 'v0'
           JOIN cases c ON c.case_id = m.case_id
           JOIN labels l ON l.case_id = m.case_id
           LEFT JOIN answers a ON a.observation = o.id
           WHERE m.part = 'calibrate' ORDER BY l.id""",
    )
    return _answers(task_of(connection), rows, classes)


def _to_today(
    connection: Connection, onset: int, domain: str, approved: Sequence[Answer], latest: Sequence[Answer], at: str
) -> Correction:
    """From the latest labelled cases of a domain to its latest cases at that time, of patients who taught nothing."""
    from monitors import by_confidence

    classes = get_setting(connection, "classes")
    rows = connection.execute(
        """SELECT c.patient_key AS patient, o.scores, 0.0 AS worth, a.sure, NULL AS value, o.at
           FROM observations o JOIN cases c ON c.case_id = o.case_id
           LEFT JOIN answers a ON a.observation = o.id
           WHERE o.role = 'live' AND o.version = :live AND o.number >= :onset AND o.abstained = 0 AND o.at <= :at
             AND (c.domain = :domain OR (:domain = :home AND c.domain LIKE :episode)) AND """
        + UNTAUGHT
        + " ORDER BY o.number DESC LIMIT :n",
        {
            "live": registry.live(connection)["version"],
            "onset": onset,
            "at": at,
            "domain": domain,
            "home": HOME,
            "episode": f"{EPISODE}%",
            "n": TODAY,
        },
    )
    today = _answers(task_of(connection), rows, classes)
    return by_confidence(_rates(approved), _rates(latest), _rates(today)[1])


def _answers(task: Task, rows: Iterable[Mapping[str, Any]], classes: Sequence[str]) -> list[Answer]:
    """Without those whose worth is not known yet."""
    said = ((row, task.outcome(row, classes)) for row in rows)
    return [Answer(row["patient"], worth, sure, row["at"]) for row, (worth, sure) in said if worth is not None]


def _hits(answers: Sequence[Answer]) -> tuple[float, int]:
    """(what the answers of each patient were worth on average, added up; patients)."""
    right, _ = _rates(answers)
    return float(right.sum()), len(right)


def _rates(answers: Sequence[Answer]) -> tuple[Float, Float]:
    """Per patient [n]: mean worth (the share of right answers, or Dice), mean confidence."""
    import numpy as np

    _, patient = np.unique(np.array([one.patient for one in answers], np.str_), return_inverse=True)
    cases = np.bincount(patient)
    right, confidence = ([float(one[column]) for one in answers] for column in (1, 2))
    return np.bincount(patient, right) / cases, np.bincount(patient, confidence) / cases


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
