"""Jobs: a worker that dies, is killed, or takes too much leaves a sentence and no half version."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import deployed
import pytest
from stocked import add_case, answered

from agent.cycle import Cycle, situation
from agent.drift import episodes
from agent.drift.reference import open_epoch
from agent.plan import Limits
from agent.store import insert
from agent.updates import jobs, update
from agent.updates.asked import SCRATCH
from agent.versions import registry
from agent.workspace import put_setting

SPEC = {"base": "base", "live": None, "recipes": ["recalibrate"], "new": [], "memory": [], "develop": [],
        "task": "classification", "classes": ["a", "b"], "seed": 0, "batch": 16, "margin": 0.05, "shown": True,
        "stop": "all", "change": 1.0, "asked": [], "spares": False, "learnt": []}  # fmt: skip


@pytest.fixture
def workspace(tmp_path):
    workspace = deployed.deploy(tmp_path / "site")
    workspace.path("homeostat.yaml").write_text("")
    return workspace


def start(workspace, **limits) -> jobs.Job:
    return jobs.start(workspace, "train", SPEC, Limits(**limits), at=workspace.now())


def ended(workspace, job: jobs.Job) -> str:
    """Polls until the job fails; what is said of it."""
    with pytest.raises(jobs.JobFailed) as caught:
        while jobs.poll(workspace, job, at=workspace.now()) is None:
            time.sleep(0.02)
    return str(caught.value)


def row(workspace, job: str) -> dict:
    with workspace.store.read() as connection:
        return dict(connection.execute("SELECT * FROM jobs WHERE id = ?", (job,)).fetchone())


def gone(process: subprocess.Popen) -> bool:
    """Whether it is dead; what its parent in this test has not waited for yet counts as dead too."""
    return process.wait(timeout=30) is not None


def test_a_job_that_takes_too_long_is_killed_with_a_sentence(workspace):
    """The limit of the plan is named, the worker is gone, and the record says how it ended."""
    job = start(workspace, minutes=1e-6)
    said = ended(workspace, job)
    assert "plan.limits.minutes" in said and "job1" in said
    assert job.process.poll() == -signal.SIGKILL
    record = row(workspace, "job1")
    assert record["state"] == "failed" and record["ended_at"] and record["lease_until"] is None


def test_a_job_that_takes_too_much_memory_is_killed_with_a_sentence(workspace):
    """Resident memory counts: an interpreter alone is more than a megabyte."""
    job = start(workspace, memory_gib=0.001)
    assert "plan.limits.memory_gib" in ended(workspace, job)
    assert job.process.poll() == -signal.SIGKILL


@pytest.mark.parametrize("end", ["limit", "killed"])
def test_what_was_made_before_a_job_had_to_end_counts(workspace, end):
    """A deep step that runs out of time, or is killed for its memory, costs nothing of the cheaper ones."""
    job = start(workspace, minutes=1e-6 if end == "limit" else 10)
    (job.folder / "result.json").write_text(json.dumps({"finalist": "recalibrate"}))
    if end == "killed":
        jobs.kill(job)
    assert jobs.poll(workspace, job, at=workspace.now()) == {"finalist": "recalibrate"}
    assert job.process.poll() == -signal.SIGKILL
    record = row(workspace, job.id)
    assert record["state"] == "done"
    assert ("plan.limits.minutes" if end == "limit" else "killed by signal 9") in record["says"]


def test_a_worker_that_was_killed_is_told_and_its_version_abandoned(workspace):
    """Kill -9 of the worker: what is live stays, and the version says why it is nothing."""
    job, version = start(workspace), deployed.train(workspace)
    making = update.Making(version=version, job=job, learnt=("home",), labelled=30, tried=("recalibrate",))
    os.kill(job.process.pid, signal.SIGKILL)
    with pytest.raises(jobs.JobFailed, match="killed by signal 9"):
        while update.advance(workspace, making, at=workspace.now()) is None:
            time.sleep(0.02)
    assert deployed.state(workspace, version) == "abandoned" and deployed.live(workspace) == "v0"
    with workspace.store.read() as connection:
        events = connection.execute("SELECT event, body FROM journal ORDER BY seq DESC LIMIT 2").fetchall()
    assert [event["event"] for event in events] == ["version_abandoned", "job_failed"]
    assert all("killed by signal 9" in event["body"] for event in events)


def test_a_worker_that_gives_up_says_why(workspace):
    """An error of the input is one sentence in the record; the traceback is in the job's log."""
    from agent.updates.worker import main

    folder = workspace.path("jobs", "job1")
    folder.mkdir()
    folder.joinpath("job.json").write_text(json.dumps({**SPEC, "kind": "train", "threads": 1}))
    with pytest.raises((ValueError, OSError)):
        main(folder)
    assert "no new labelled case" in json.loads(folder.joinpath("result.json").read_text())["error"]


def test_a_recipe_that_fails_costs_nothing_of_the_others(tmp_path, home, base, monkeypatch):
    """Its reason is told; the finalist is chosen of what could be made, and lies in the job's folder."""
    import csv
    import shutil

    from agent.updates.worker import main
    from strategies.data import NewCases
    from strategies.objective import CrossEntropy
    from strategies.parameter import Full, LinearProbe
    from strategies.protocols import Recipe, Stage
    from strategies.recipes import RECIPES

    probe = RECIPES["linear_probe"].stages[0]
    wild = Stage(parameter=LinearProbe(learning_rate=1e9), objective=CrossEntropy(), data=probe.data, epochs=2)
    monkeypatch.setitem(RECIPES, "wild", Recipe(name="wild", risk=9, stages=(wild,)))

    class Greedy(LinearProbe):
        def attach(self, model):
            raise MemoryError

    greedy = Stage(parameter=Greedy(), objective=CrossEntropy(), data=probe.data, epochs=2)
    monkeypatch.setitem(RECIPES, "greedy", Recipe(name="greedy", risk=9, stages=(greedy,)))
    rows = list(csv.DictReader((home / "cases.csv").open()))[:60]
    cases = [{"uri": f"home/{row['file']}", "media_type": "image/png", "label": row["label"],
              "patient": row["patient_id"], "domain": "home"} for row in rows]  # fmt: skip
    shutil.copytree(home, tmp_path / "home")
    shutil.copytree(base, tmp_path / "base")
    spec = {**SPEC, "new": cases[:30], "develop": cases[30:], "classes": sorted({row["label"] for row in rows})}
    folder = tmp_path / "jobs" / "job1"
    folder.mkdir(parents=True)

    def result(*recipes: str, **plan: float) -> dict:
        job = {**spec, "recipes": recipes, "kind": "train", "threads": 1, **plan}
        folder.joinpath("job.json").write_text(json.dumps(job))
        main(folder)
        return json.loads(folder.joinpath("result.json").read_text())

    found = result("recalibrate", "greedy", "wild")
    assert found["finalist"] == "recalibrate" and [*found["develop"]] == ["recalibrate"]
    assert "diverged" in found["failed"]["wild"] and "memory" in found["failed"]["greedy"]
    assert (folder / "recipes" / "recalibrate" / "recalibrator.json").is_file()
    assert found["axes"]["depth"]["earliest_block"] is None and found["axes"]["robustness"]["n"] == 30
    with pytest.raises(ValueError, match="wild: The training diverged"):
        result("wild")
    moving = Stage(parameter=Full(learning_rate=1e-2), objective=CrossEntropy(), data=NewCases(), epochs=1)
    monkeypatch.setitem(RECIPES, "moving", Recipe(name="moving", risk=9, stages=(moving,)))
    found = result("recalibrate", "moving", change=1e-6)
    assert found["finalist"] == "recalibrate" and "plan.limits.change is 1e-06" in found["failed"]["moving"]


def test_what_a_dead_agent_left_is_ended_and_closed_at_start_up(workspace):
    """No worker goes on without anybody watching, no version stays in training for ever, no case's features stay."""
    job, version = start(workspace), deployed.train(workspace)
    for meanwhile in ("latents", SCRATCH):
        (job.folder / meanwhile).mkdir()
    assert job.process.poll() is None
    Cycle(workspace).start(workspace.now())
    assert gone(job.process) and job.process.returncode == -signal.SIGKILL
    assert row(workspace, job.id)["state"] == "abandoned"
    assert deployed.state(workspace, version) == "abandoned"
    assert job.folder.is_dir() and not any((job.folder / meanwhile).exists() for meanwhile in ("latents", SCRATCH))
    Cycle(workspace).start(workspace.now())
    with workspace.store.read() as connection:
        events = [event["event"] for event in connection.execute("SELECT event FROM journal")]
    assert events.count("job_abandoned") == 1 and events.count("version_abandoned") == 1


@pytest.mark.parametrize("argument", [None, "0", "/elsewhere"])
def test_another_process_that_got_the_pid_is_not_killed(workspace, argument):
    """Pids are used again, even by the worker of a job whose folder has a longer name."""
    folder = workspace.path("jobs", "job1")
    named = [] if argument is None else [f"{folder}{argument}"]
    other = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)", *named], start_new_session=True)
    try:
        while b"sleep" not in Path(f"/proc/{other.pid}/cmdline").read_bytes():
            time.sleep(0.01)
        with workspace.store.transaction() as connection:
            insert(connection, "jobs", id="job1", kind="train", spec_digest="x", state="running", attempt=1,
                   created_at="2025-01-01T00:00:00.000000Z", pid=other.pid)  # fmt: skip
        jobs.abandon_orphans(workspace, at=workspace.now())
        assert row(workspace, "job1")["state"] == "abandoned"
        with pytest.raises(subprocess.TimeoutExpired):
            other.wait(timeout=0.3)
    finally:
        other.kill()
        other.wait()


def test_an_update_whose_second_job_fails_waits_for_more_labels(workspace):
    """A candidate that could be trained and not be shown to the anchors is not trained again and again."""
    with workspace.store.transaction() as connection:
        put_setting(connection, "classes", ["a", "b"])
        open_epoch(connection, version="v0", sensor="base:x", members={}, at=workspace.now(), by="init")
        episodes.open_alarm(connection, monitor="embedding", shift="undetermined", at_case=1, since_case=1,
                            statistic=1.0, threshold=1.0, score=1.0, evidence={}, at=workspace.now())  # fmt: skip
        for i in range(1, 5):
            add_case(connection, workspace, f"c{i}", split="train", number=i)
            add_case(connection, workspace, f"d{i}", split="develop")
    making = update.begin(workspace, ["recalibrate"], by="homeostat", at=workspace.now())
    jobs.kill(making.job)
    (making.job.folder / "result.json").write_text(json.dumps({"finalist": "recalibrate"}))
    (making.job.folder / "recipes" / "recalibrate").mkdir(parents=True, exist_ok=True)
    assert update.advance(workspace, making, at=workspace.now()) is None
    os.killpg(making.job.process.pid, signal.SIGKILL)
    making.job.process.wait()
    with pytest.raises(jobs.JobFailed):
        update.advance(workspace, making, at=workspace.now())
    with workspace.store.read() as connection:
        assert registry.get(connection, making.version)["job"] == "job2", "the job that it died of"
        assert situation(connection, least=20).tried_with == 4


def test_a_domain_that_is_not_taught_has_no_say_in_the_selection(workspace):
    """A scanner that can't be judged yet isn't learnt: its cases would set epoch and temperature for the rest."""
    with workspace.store.transaction() as connection:
        put_setting(connection, "classes", ["a", "b"])
        open_epoch(connection, version="v0", sensor="base:x", members={}, at=workspace.now(), by="init")
        for i, domain in enumerate(("home", "vale", "hillside"), 1):
            add_case(connection, workspace, f"c{i}", split="train", number=i, domain=domain)
            add_case(connection, workspace, f"d{i}", split="develop", domain=domain)
    for domains, selecting in (({"vale"}, {"home", "vale"}), (None, {"home", "vale", "hillside"})):
        making = update.begin(workspace, ["recalibrate"], by="ana", at=workspace.now(), domains=domains)
        spec = json.loads((making.job.folder / "job.json").read_text())
        assert {case["domain"] for case in spec["develop"]} == selecting
        update.abandon(workspace, making, "seen", at=workspace.now())


@pytest.mark.parametrize(("domains", "spares"), [({"home"}, True), (None, False)])
def test_the_job_is_told_what_the_plan_asks(workspace, domains, spares):
    """Of every finalist that will be judged: the plan's own unless it is no better, a person's in any case."""
    workspace.path("homeostat.yaml").write_text("plan: {portfolio: {asked: [unseen_domain, label_curve]}}")
    workspace = type(workspace)(workspace.root)
    with workspace.store.transaction() as connection:
        put_setting(connection, "classes", ["a", "b"])
        for i in range(1, 3):
            add_case(connection, workspace, f"c{i}", split="train", number=i)
            add_case(connection, workspace, f"d{i}", split="develop")
    making = update.begin(workspace, ["recalibrate"], by="ana", at=workspace.now(), domains=domains)
    spec = json.loads((making.job.folder / "job.json").read_text())
    update.abandon(workspace, making, "seen", at=workspace.now())
    assert (spec["asked"], spec["spares"], spec["learnt"]) == (["unseen_domain", "label_curve"], spares, [])
    assert making.spares is spares


@pytest.mark.parametrize(("domains", "state"), [({"home"}, "abandoned"), (None, "training")])
def test_a_finalist_that_is_no_better_is_not_shown_to_the_anchors(workspace, domains, state):
    """The plan's own try ends there and counts as one; what a person asked for is judged all the same."""
    with workspace.store.transaction() as connection:
        put_setting(connection, "classes", ["a", "b"])
        open_epoch(connection, version="v0", sensor="base:x", members={}, at=workspace.now(), by="init")
        episodes.open_alarm(connection, monitor="embedding", shift="undetermined", at_case=1, since_case=1,
                            statistic=1.0, threshold=1.0, score=1.0, evidence={}, at=workspace.now())  # fmt: skip
        for i in range(1, 5):
            add_case(connection, workspace, f"c{i}", split="train", number=i)
            add_case(connection, workspace, f"d{i}", split="develop")
    making = update.begin(workspace, ["recalibrate"], by="homeostat", at=workspace.now(), domains=domains)
    jobs.kill(making.job)
    result = {"finalist": "recalibrate", "worth_judging": False, "develop": {}}
    (making.job.folder / "result.json").write_text(json.dumps(result))
    (making.job.folder / "recipes" / "recalibrate").mkdir(parents=True, exist_ok=True)
    assert update.advance(workspace, making, at=workspace.now()) == ("abandoned" if domains else None)
    assert deployed.state(workspace, making.version) == state
    with workspace.store.read() as connection:
        assert situation(connection, least=20).tried_with == (4 if domains else None)
        assert connection.execute("SELECT count(*) FROM looks").fetchone()[0] == 0
    jobs.kill(making.job)


def test_each_version_is_asked_only_what_its_judgement_needs(workspace):
    """The original and the live version answer the anchors; the candidate the reference too, none of it twice."""
    version = deployed.held(workspace)
    measures = json.dumps({"labelled": 30, "domains": ["home"]})
    workspace.path("versions", version, "version.json").write_text(json.dumps({"made": {}, "develop": {}}))
    with workspace.store.transaction() as connection:
        put_setting(connection, "classes", ["a", "b"])
        connection.execute("UPDATE versions SET measures = ? WHERE id = ?", (measures, version))
        for i in range(1, 61):
            split = "judge" if i <= 20 else "train"
            add_case(connection, workspace, f"c{i}", split=split, number=i, label="a" if i <= 20 else None)
        for i in range(31, 61):
            answered(connection, workspace, f"c{i}", version, "replay", (0.6, 0.4))
    making = update.rejudge(workspace, at=workspace.now())
    spec = json.loads((making.job.folder / "job.json").read_text())
    assert {name: n for name, (_, n) in spec["versions"].items()} == {"v0": 20, version: 30}
    asked = [case["patient"] for case in spec["cases"]]
    assert sorted(asked[:20]) == sorted(f"patient of c{i}" for i in range(1, 21))
    assert sorted(asked[20:]) == sorted(f"patient of c{i}" for i in range(21, 31))
    assert {case["label"] for case in spec["cases"][:20]} == {"a"}, (
        "in the next reference too, and judged by their label"
    )
    jobs.kill(making.job)


def test_a_held_version_that_cannot_be_judged_again_is_given_up(workspace):
    """Its second judgement failed: it isn't tried at every step for ever."""
    version = deployed.held(workspace)
    making = update.Making(version=version, job=start(workspace, minutes=1e-6), learnt=("home",), labelled=30,
                           tried=("recalibrate",), trained={"finalist": "recalibrate"},
                           parts=workspace.path("versions", version))  # fmt: skip
    with pytest.raises(jobs.JobFailed):
        while update.advance(workspace, making, at=workspace.now()) is None:
            time.sleep(0.02)
    assert deployed.state(workspace, version) == "rejected"


def test_a_held_version_stays_held_when_the_agent_is_stopped(workspace):
    """The next start judges it again."""
    version, cycle = deployed.held(workspace), Cycle(workspace)
    cycle.making = update.Making(version=version, job=start(workspace), learnt=("home",), labelled=30,
                                 tried=("recalibrate",), trained={"finalist": "recalibrate"})  # fmt: skip
    job = cycle.making.job
    cycle.stop(workspace.now())
    assert gone(job.process) and deployed.state(workspace, version) == "held"
    record = row(workspace, job.id)
    assert (record["state"], record["says"]) == ("abandoned", "the agent was stopped")
