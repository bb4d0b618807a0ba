"""The cycle of a deployment, one step at a time, under an injected clock. It reads as the agent's job description."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Collection
from datetime import datetime

from agent import watch
from agent.alerting import alerts
from agent.cases import inbox
from agent.drift.detect import Detector
from agent.drift.domains import HOME, place_of
from agent.errors import HomeostatError
from agent.observe import Observer
from agent.store import Connection, journal
from agent.updates import anchors, jobs, requests, update
from agent.updates.clear import Clearing, served_so_far
from agent.updates.decide import Decision, Situation, decide
from agent.updates.material import new_cases, patients
from agent.updates.settle import settle
from agent.versions import registry
from agent.workspace import Workspace, get_setting


class Cycle:
    """Holds what is costly to build (models, monitors, a running job); everything durable is in the store."""

    def __init__(self, workspace: Workspace) -> None:
        self.workspace = workspace
        self.observer = Observer(workspace)
        self.detector = Detector(workspace)
        self.clearing = Clearing(workspace)
        self.making: update.Making | None = None
        self._told: dict[str, str] = {}
        self._undecided = -1

    def start(self, now: datetime) -> None:
        """What a dead process left half-way is closed as abandoned, and the pointer is brought up to the store."""
        from agent.versions import pointer

        jobs.abandon_orphans(self.workspace, at=now)
        pointer.publish(self.workspace)

    def step(self, now: datetime) -> bool:
        """One turn of the cycle; returns whether anything was done."""
        steps: tuple[Callable[[datetime], bool], ...] = (
            self.take,  # source -> case, durable
            self.observe,  # case -> answer and embedding
            self.detect,  # ticks -> signals -> alarm
            self.clear,  # labels that show no harm -> the alarm ends
            self.decide,  # alarm, labels, plan -> recipes, or nothing
            self.update,  # recipes -> candidate -> verdicts
            self.promote,  # by the plan, where it may
            self.watch,  # probation -> active, or back
            self.alert,  # people are told
        )
        return sum(step(now) for step in steps) > 0  # every step has its turn, whatever the others did

    def stop(self, now: datetime) -> None:
        """Ends a running job; its version is closed as abandoned."""
        if self.making is not None:
            update.abandon(self.workspace, self.making, "the agent was stopped", at=now)
            self.making = None

    def take(self, now: datetime) -> bool:
        return self.workspace.config.intake.inbox and inbox.scan(self.workspace) > 0

    def observe(self, now: datetime) -> bool:
        observed = self.observer.step(now)
        return settle(self.workspace) > 0 or observed > 0

    def detect(self, now: datetime) -> bool:
        return self.detector.step(now) > 0

    def clear(self, now: datetime) -> bool:
        return self.making is None and self.clearing.step(now)

    def decide(self, now: datetime) -> bool:
        """A person's request comes first, then what is held for labels, then the plan."""
        if self.making is not None or (seq := self._last_event()) == self._undecided:
            return False
        if (asked := requests.pending(self.workspace)) is not None:
            with requests.answered(self.workspace, asked):
                self.making = update.begin(self.workspace, asked.recipes, by=asked.by, at=now)
                requests.accept(self.workspace, asked, self.making.version)
            return True
        if (again := update.rejudge(self.workspace, at=now)) is not None:
            self.making = again
            return True
        with self.workspace.store.read() as connection:
            if _cases_wait(connection):
                return False  # what has come already may bring labels: an update learns from all that is there
            plan = self.workspace.config.plan
            served = served_so_far(connection, plan)
            found = situation(connection, least=plan.labels.anchor_patients, served=served)
            decision = decide(plan, found)
        if decision.recipes:
            self._say(decision, now)
            self.making = update.begin(self.workspace, decision.recipes, by="homeostat", at=now, domains=found.domains)
            return True
        self._undecided = seq  # the same store gets the same answer: it is not asked again until something happens
        return bool(decision.left_out) and self._complain("update_left_out", decision.says, now)

    def _last_event(self) -> int:
        with self.workspace.store.read() as connection:
            return int(connection.execute("SELECT coalesce(max(seq), 0) FROM journal").fetchone()[0])

    def update(self, now: datetime) -> bool:
        if self.making is None:
            return False
        with contextlib.suppress(jobs.JobFailed):  # journaled, and the version is closed as abandoned
            if update.advance(self.workspace, self.making, at=now) is None:
                return True
        self.making = None
        return True

    def promote(self, now: datetime) -> bool:
        """In bounded_auto a candidate that passed is approved by the plan, and cites it."""
        plan = self.workspace.config.plan
        if plan.mode != "bounded_auto" or self.making is not None:
            return False
        with self.workspace.store.read() as connection:
            if not get_setting(connection, "automatic_promotion", True):
                return False
            ready = connection.execute(
                """SELECT id, state, recipe FROM versions WHERE state IN ('candidate', 'approved')
                   ORDER BY number DESC LIMIT 1"""
            ).fetchone()
        declared = {recipe for response in plan.responses.values() for recipe in response.recipes}
        if ready is None or ready["recipe"] not in declared:
            return False
        by = f"plan {self.workspace.config.plan_digest[:12]}"
        try:
            if ready["state"] == "candidate":
                registry.approve(self.workspace, ready["id"], by=by, reason="every required gate passed")
            registry.promote(self.workspace, ready["id"], by=by, reason="within the plan's bounds")
        except HomeostatError as error:
            return self._complain("promotion_failed", str(error), now)
        return True

    def watch(self, now: datetime) -> bool:
        return watch.step(self.workspace, now) is not None

    def alert(self, now: datetime) -> bool:
        alerts.deliver(self.workspace)
        return False  # a channel that fails is tried again later: no reason to stay awake

    def _say(self, decision: Decision, now: datetime) -> None:
        with self.workspace.store.transaction() as connection:
            body = {"recipes": list(decision.recipes), "says": decision.says}
            journal.append(connection, "update_decided", at=now, by="homeostat", body=body)

    def _complain(self, event: str, says: str, now: datetime) -> bool:
        """Journals what can't be done once, not at every step."""
        if says == self._told.get(event):
            return False
        self._told[event] = says
        with self.workspace.store.transaction() as connection:
            journal.append(connection, event, at=now, by="homeostat", body={"says": says})
        return True


def _cases_wait(connection: Connection) -> bool:
    row = connection.execute("SELECT 1 FROM cases WHERE state = 'pending' AND alias_of IS NULL LIMIT 1").fetchone()
    return row is not None


def situation(connection: Connection, *, least: int, served: Collection[str] = ()) -> Situation:
    """What the plan decides on, as the store knows it; a domain is judgeable with `least` labelled judge patients, and
    one that is `served` well so far is not learnt."""
    alarm = connection.execute(
        """SELECT id, shift, opened_at, evidence FROM alarms
           WHERE state != 'closed' AND shift IS NOT NULL AND shift != 'far-out' ORDER BY id DESC LIMIT 1"""
    ).fetchone()
    if alarm is None:
        return Situation(shift=None, labelled=0, tried_with=None, waiting=False)
    waiting = connection.execute(
        "SELECT count(*) FROM versions WHERE state IN ('training', 'candidate', 'approved')"
    ).fetchone()[0]
    tried = connection.execute(
        """SELECT v.created_at, v.measures FROM versions v LEFT JOIN jobs j ON j.id = v.job
           WHERE v.number > 0 AND v.created_at >= :since
             AND (v.state NOT IN ('training', 'candidate', 'approved', 'abandoned')
                  OR v.state = 'abandoned' AND (j.state = 'failed' OR v.measures ->> 'no_better'))
           ORDER BY v.number DESC LIMIT 1""",
        {"since": alarm["opened_at"]},
    ).fetchone()
    domains = {domain for domain in anchors.judgeable(connection, least=least) if place_of(domain) not in served}
    labelled = [case for case in new_cases(connection) if case["domain"] in domains]
    learnt = {} if tried is None else json.loads(tried["measures"] or "{}")
    had = [] if tried is None else [case for case in labelled if case["labelled_at"] <= tried["created_at"]]
    return Situation(
        shift=alarm["shift"],
        domains=domains,
        labelled=patients(labelled),
        tried_with=None if tried is None else patients(had),
        more_domains=not {case["domain"] for case in labelled} <= {HOME, *learnt.get("domains", ())},
        waiting=waiting > 0,
        distance=json.loads(alarm["evidence"]).get("distance"),
        sealed=get_setting(connection, "sealed", False),
    )
