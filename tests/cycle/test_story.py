"""The whole cycle in one process: what happens, in exactly this order, and nothing besides."""

from __future__ import annotations

import json

import numpy as np
import pytest
import smears
from chapters import AFTER, CHANGED, QUIET, events, feed, labels, last_event, rows, work_off

from agent import cli
from agent.cycle import Cycle
from agent.errors import NotEnoughEvidence, Refused
from agent.updates import requests, update
from agent.versions import pointer, registry

QUIET_EVENTS = ["cases_taken_in", *["cases_observed"] * (QUIET // 10)]
CHANGED_EVENTS = [
    "cases_taken_in",
    "cases_taken_in",
    *["cases_observed", "alarm_opened", "trust_changed"],
    *["cases_observed", "alarm_opened"],
    *["cases_observed"] * (CHANGED // 10 - 2),
]
JUDGED_EVENTS = ["labels_imported", "update_decided", "job_started", "version_started", "job_done", "anchors_opened",
                 "job_started", "job_done", "version_trained", "reference_opened", "version_judged"]  # fmt: skip
PROMOTED_EVENTS = ["version_approved", "alarm_closed", "alarm_closed", "trust_changed", "version_promoted"]
CONFIRMED_EVENTS = ["cases_taken_in", *["cases_observed"] * (AFTER // 10), "version_confirmed"]


def test_the_story_is_told_in_this_order(chapters, tmp_path):
    """Quiet stream, new site, alarm, labels, update, verdicts, approval, promotion, probation, active."""
    workspace = chapters.open("confirmed", tmp_path / "site")
    told = events(workspace)
    start = told.index("anchors_opened") + 1
    assert told[start:] == [*QUIET_EVENTS, *CHANGED_EVENTS, *JUDGED_EVENTS, *PROMOTED_EVENTS, *CONFIRMED_EVENTS]
    assert [row["state"] for row in registry_rows(workspace)] == ["retired", "active"]
    live = pointer.read(workspace.path("live.json"))
    assert (live.version, live.generation, live.trust) == ("v1", 2, "normal")
    assert (
        rows(workspace, "SELECT count(*) AS n FROM observations WHERE role = 'live'")[0]["n"] == QUIET + CHANGED + AFTER
    )
    assert Cycle(workspace).step(workspace.now()) is False, "and then nothing is left to do"


def registry_rows(workspace) -> list[dict]:
    with workspace.store.read() as connection:
        return registry.versions(connection)


def test_the_alarm_comes_with_the_change_and_says_since_when(chapters, tmp_path):
    """No alarm before the new site, one within forty cases of it, dated near its first case; answers say caution."""
    workspace = chapters.open("alarmed", tmp_path / "site")
    alarms = rows(workspace, "SELECT * FROM alarms ORDER BY id")
    shift = alarms[0]
    assert QUIET < shift["opened_at_case"] <= QUIET + 40
    assert QUIET - 10 < shift["since_case"] <= QUIET + 20
    assert pointer.read(workspace.path("live.json")).trust == "caution"
    said = rows(workspace, "SELECT number, trust FROM observations WHERE role = 'live' ORDER BY number")
    assert {row["trust"] for row in said[: shift["opened_at_case"]]} == {"normal"}
    assert {row["trust"] for row in said[shift["opened_at_case"] :]} == {"caution"}


def test_the_alarm_is_named_and_has_a_page(chapters, tmp_path, capsys):
    """A new site's images that are unlike all others stay undetermined beside the far-out alarm; the page shows
    the alarm's monitor, the onset and both sides' cases, and names no case."""
    workspace = chapters.open("alarmed", tmp_path / "site")
    alarm = rows(workspace, "SELECT * FROM alarms ORDER BY id")[0]
    evidence = json.loads(alarm["evidence"])
    assert alarm["shift"] == "undetermined" and "unlike anything in the reference" in evidence["says"]
    assert evidence["estimated"]["CBPE"]["patients"] >= 20
    out = tmp_path / "alarm.html"
    command = ["report", "--alarm", str(alarm["id"]), "--out", str(out), "--workspace", str(workspace.root), "--json"]
    assert cli.main(command) == 0
    assert json.loads(capsys.readouterr().out) == {"out": str(out)}
    text = out.read_text()
    assert all(f">{name}<" in text for name in (alarm["monitor"], "onset", "alarm"))
    assert 3 <= text.count("<polyline") <= 40, "a line for each monitor, whether it is named or not"
    onset = evidence["onset"]
    assert onset["low"] <= QUIET + 1 <= onset["high"] and 'class="band"' in text
    assert f"since about case {onset['case']} (90 % interval {onset['low']} to {onset['high']})" in text
    assert "What it may cost" in text
    assert text.count("<circle") > 60 and "<script" not in text
    names = [row["case_id"] for row in rows(workspace, "SELECT case_id FROM cases LIMIT 50")]
    assert not any(name in text for name in names)
    assert cli.main([*command[:2], "99", *command[3:]]) == 2
    assert "there is no alarm 99" in capsys.readouterr().err


def test_no_anchor_patient_was_learnt_from(chapters, tmp_path):
    """What the job was given and what the candidate was judged on share no patient."""
    workspace = chapters.open("judged", tmp_path / "site")
    spec = json.loads(workspace.path("jobs", "job1", "job.json").read_text())
    learnt = {case["patient"] for part in ("new", "memory", "develop") for case in spec[part]}
    judged = {row["patient_key"] for row in rows(
        workspace, "SELECT patient_key FROM anchor_members JOIN cases USING (case_id)")}  # fmt: skip
    assert learnt and judged and not learnt & judged
    with workspace.store.read() as connection:
        assert {row["verdict"] for row in registry.verdicts(connection, "v1")} == {"PASS"}


@pytest.mark.slow
def test_a_version_is_made_again_from_its_record(chapters, tmp_path, capsys):
    """Two years later: the same job gives the same bytes, and a record that was changed is not trusted."""
    workspace = chapters.open("judged", tmp_path / "site")
    command = ["replay", "v1", "--by", "auditor", "--workspace", str(workspace.root), "--json"]
    killed = workspace.path("jobs", ".replay-v9")
    killed.mkdir()
    assert cli.main(command) == 0
    assert json.loads(capsys.readouterr().out)["differs"] == []
    assert cli.main(["show", "v1", "--workspace", str(workspace.root), "--json"]) == 0
    axes = json.loads(capsys.readouterr().out)["axes"]
    assert axes["auditability"]["replays"] is True
    assert axes["auditability"]["hashed"] == axes["auditability"]["inputs"] > 0
    assert axes["depth"]["touched"] > 0 and axes["robustness"]["n"] > 0
    assert axes["burden"]["clauses"] and axes["cost"]["bytes"] > 0
    assert events(workspace)[-1] == "version_replayed"
    assert not workspace.path("jobs", ".replay-v1").exists() and not killed.exists()
    record = workspace.path("jobs", "job1", "job.json")
    record.write_text(record.read_text().replace('"seed": 0', '"seed": 1'))
    assert cli.main(command) == 2
    assert "is not as it was" in capsys.readouterr().err


def test_during_probation_both_versions_answer(chapters, tmp_path):
    """Otherwise harm could not be shown pair by pair; afterwards the older one rests."""
    workspace = chapters.open("confirmed", tmp_path / "site")
    asked = "SELECT version, role, count(*) AS n FROM observations WHERE role != 'replay' GROUP BY version, role"
    assert {(row["version"], row["role"], row["n"]) for row in rows(workspace, asked)} == {
        ("v0", "live", QUIET + CHANGED), ("v1", "live", AFTER), ("v0", "shadow", AFTER)}  # fmt: skip
    feed(workspace, smears.NEW, 10, 9)
    work_off(workspace)
    assert {row["n"] for row in rows(workspace, asked) if row["role"] == "shadow"} == {AFTER}


def test_the_new_site_is_normal_for_the_version_that_learnt_it(chapters, tmp_path):
    """After the promotion its cases raise no alarm and get answers; the charts are fitted anew."""
    workspace = chapters.open("confirmed", tmp_path / "site")
    since = last_event(workspace)
    feed(workspace, smears.NEW, 40, 10)
    work_off(workspace)
    assert set(events(workspace, since=since)) == {"cases_taken_in", "cases_observed"}
    latest = rows(workspace, "SELECT abstained FROM observations WHERE role = 'live' ORDER BY number DESC LIMIT 40")
    assert sum(row["abstained"] for row in latest) <= 4


def test_harm_by_labels_rolls_the_promotion_back(chapters, tmp_path):
    """In the cycle itself: home's labels turn against the new version, the pointer goes back, people hear of it."""
    workspace = chapters.open("promoted", tmp_path / "site")
    cycle = Cycle(workspace)
    feed(workspace, smears.HOME, 18, 11)
    work_off(workspace, cycle)
    with workspace.store.transaction() as connection:  # the labels that would show harm: right by v0, wrong by v1
        for row in connection.execute(
            "SELECT case_id FROM observations WHERE version = 'v1' AND role = 'live'"
        ).fetchall():
            key = {"case": row["case_id"]}
            old = connection.execute("SELECT scores FROM observations WHERE case_id = :case AND role = 'shadow'", key)
            right = int(np.frombuffer(old.fetchone()["scores"], "<f4").argmax())
            worse = np.full(3, 0.1, "<f4")
            worse[(right + 1) % 3] = 0.8
            connection.execute("UPDATE observations SET scores = :s WHERE case_id = :case AND role = 'live'",
                               {**key, "s": worse.tobytes()})  # fmt: skip
    labels(workspace, smears.HOME, 18, 11)
    since = last_event(workspace)
    work_off(workspace, cycle)
    assert "version_rolled_back" in events(workspace, since=since)
    assert pointer.read(workspace.path("live.json")).version == "v0"
    feed(workspace, smears.HOME, 10, 12)
    work_off(workspace, cycle)
    said = rows(workspace, "SELECT version FROM observations WHERE role = 'live' ORDER BY number DESC LIMIT 10")
    assert {row["version"] for row in said} == {"v0"}


def test_a_persons_rollback_is_followed_by_the_next_step(chapters, tmp_path):
    """The cycle that runs holds no opinion of its own on what is live."""
    workspace = chapters.open("promoted", tmp_path / "site")
    cycle = Cycle(workspace)
    feed(workspace, smears.HOME, 10, 13)
    work_off(workspace, cycle)
    registry.rollback(workspace, by="ana", reason="better so")
    feed(workspace, smears.HOME, 10, 14)
    work_off(workspace, cycle)
    said = rows(workspace, "SELECT version FROM observations WHERE role = 'live' ORDER BY number DESC LIMIT 20")
    assert [row["version"] for row in said] == ["v0"] * 10 + ["v1"] * 10


def test_a_damaged_version_before_doesnt_end_the_cycle(chapters, tmp_path):
    """During probation the older one's bundle is damaged: cases are answered all the same, and it is told once."""
    workspace = chapters.open("promoted", tmp_path / "site")
    file = workspace.path("versions", "v0", "thresholds.json")
    file.chmod(0o600)
    file.write_bytes(file.read_bytes() + b" ")
    since = last_event(workspace)
    feed(workspace, smears.NEW, AFTER, 15)
    work_off(workspace)
    told = events(workspace, since=since)
    assert told.count("shadow_failed") == 1 and told[-1] == "version_confirmed"


@pytest.mark.slow
def test_a_held_version_is_judged_again_when_labels_open_new_anchors(chapters, tmp_path):
    """Nobody has to ask: labels come, a generation opens, the verdicts are renewed."""
    workspace = chapters.open("judged", tmp_path / "site")
    with workspace.store.transaction() as connection:
        registry.move(connection, "v1", "held", by="homeostat", reason="too few", at=workspace.now())
    assert Cycle(workspace).step(workspace.now()) is False, "without fresh labels there is nothing to judge"
    with pytest.raises(NotEnoughEvidence):
        registry.approve(workspace, "v1", by="ana", reason="now")
    since = last_event(workspace)
    feed(workspace, smears.NEW, 200, 16, labels=True)
    work_off(workspace)
    told = [event for event in events(workspace, since=since) if event not in {"cases_taken_in", "cases_observed"}]
    assert told == [
        "anchors_opened",
        "job_started",
        "job_done",
        "version_reopened",
        "reference_opened",
        "version_judged",
    ]
    looks = rows(workspace, "SELECT domain, generation FROM looks WHERE version = 'v1' ORDER BY domain, generation")
    assert [(look["domain"], look["generation"]) for look in looks] == [
        ("hillside", 1), ("hillside", 2), ("home", 1)]  # fmt: skip
    registry.approve(workspace, "v1", by="ana", reason="now")


def test_a_request_without_labels_is_answered_with_too_little_evidence(chapters, tmp_path):
    """The cycle lives on, and who asked gets exit code 3."""
    workspace = chapters.open("alarmed", tmp_path / "site")
    number = requests.ask(workspace, ["recalibrate"], by="ana")
    work_off(workspace)
    said = requests.answer(workspace, number)
    assert said["exit_code"] == 3 and "labels import" in said["error"]


@pytest.mark.slow
def test_what_became_live_meanwhile_ends_an_update(chapters, tmp_path):
    """A candidate made from a version that people have left is not judged against another one."""
    workspace = chapters.open("promoted", tmp_path / "site")
    cycle = Cycle(workspace)
    cycle.making = update.begin(workspace, ["recalibrate"], by="ana", at=workspace.now())
    registry.rollback(workspace, by="ana", reason="better so")
    work_off(workspace, cycle)
    with workspace.store.read() as connection:
        assert registry.get(connection, "v2")["state"] == "abandoned"
    assert pointer.read(workspace.path("live.json")).version == "v0"


@pytest.mark.slow
def test_a_refused_full_finetune_stays_refused(chapters, tmp_path):
    """A candidate that doesn't pass is rejected with figures, can't be approved, and the live model is untouched."""
    workspace = chapters.open("alarmed", tmp_path / "site")
    plan = workspace.path("homeostat.yaml")
    plan.write_text(plan.read_text().replace("gain: {role: require, margin: 0.0", "gain: {role: require, margin: 1.0"))
    labels(workspace, smears.NEW, CHANGED, 3)
    number = requests.ask(workspace, ["full_finetune"], by="ana")
    since = last_event(workspace)
    work_off(workspace)
    assert requests.answer(workspace, number) == {"version": "v1"}
    told = events(workspace, since=since)
    assert told[-2:] == ["version_judged", "version_rejected"] and "update_decided" not in told
    with pytest.raises(Refused):
        registry.approve(workspace, "v1", by="ana", reason="I want it")
    assert pointer.read(workspace.path("live.json")).version == "v0"
