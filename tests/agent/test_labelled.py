"""Late labels are read once each, at a decision, and say when the live version has begun to be wrong."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import deployed
import numpy as np
import pytest
from stocked import CLASSES, add_label

from agent.clock import rfc3339
from agent.drift import episodes
from agent.drift.detect import Detector
from agent.drift.labelled import came, compared, has_come
from agent.drift.reference import open_epoch, read_reference
from agent.observe import record
from agent.store import insert
from agent.versions import registry
from agent.workspace import Workspace, get_setting, put_setting
from benchmarks.drift.worlds import World
from monitors import Signal

WORLD = World(seed=3, dim=16)
TAUGHT, RANKED = 60, 200


def see(
    workspace: Workspace,
    name: str,
    n: int,
    *,
    live: bool = True,
    split: str = "judge",
    labels: bool = False,
    by: str = "v0",
):
    """n patients of an unchanged world, observed; returns the class that each truly has."""
    stream, now = WORLD.stream(n, (len(name), n), None), workspace.now()
    with workspace.store.transaction() as connection:
        first = connection.execute("SELECT coalesce(max(number), 0) + 1 FROM observations").fetchone()[0]
        for i, (x, score, label) in enumerate(zip(*stream, strict=True)):
            case = f"{name}-{i:04}"
            connection.execute("INSERT OR IGNORE INTO patients VALUES (?, ?, ?)", (case, split, rfc3339(now)))
            insert(connection, "cases", case_id=case, origin="feed" if live else "reference", state="observed",
                   patient_key=case, domain="home", received_at=rfc3339(now), facts="{}")  # fmt: skip
            record(connection, case_id=case, version=by, role="live" if live else "replay",
                   scores=np.array([1 - score, score], np.float32), embedding=x, sensor="base:x", trust="normal",
                   at=now, number=first + i if live else None)  # fmt: skip
            if labels:
                add_label(connection, workspace, case, CLASSES[int(label)])
    return stream[2].astype(int)


def label(workspace: Workspace, name: str, truth) -> None:
    with workspace.store.transaction() as connection:
        for i, one in enumerate(truth):
            add_label(connection, workspace, f"{name}-{i:04}", CLASSES[int(one)])


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = deployed.deploy(tmp_path / "site")
    with workspace.store.transaction() as connection:
        put_setting(connection, "classes", CLASSES)
        put_setting(connection, "sensor", "base:x")
    workspace.path("homeostat.yaml").write_text("monitors: {subgroups: [age]}\n")
    see(workspace, "taught", TAUGHT, live=False, split="train", labels=True)
    see(workspace, "ranked", RANKED, live=False, labels=True)
    parts = {f"taught-{i:04}": "transform" for i in range(TAUGHT)}
    parts |= {f"ranked-{i:04}": "calibrate" for i in range(RANKED)}
    with workspace.store.transaction() as connection:
        open_epoch(connection, version="v0", sensor="base:x", members=parts, at=workspace.now(), by="test")
    return workspace


def decide(workspace: Workspace) -> None:
    Detector(workspace).step(workspace.now())


def alarms(workspace: Workspace) -> list[dict]:
    with workspace.store.read() as connection:
        return [dict(row) for row in connection.execute("SELECT * FROM alarms ORDER BY id")]


def readings(workspace: Workspace) -> dict[str, int]:
    """Cases that each monitor of labels has read so far."""
    with workspace.store.read() as connection:
        rows = connection.execute(
            """SELECT monitor, sum(n) AS n FROM signals
               WHERE monitor IN ('performance', 'calibration', 'subgroups') GROUP BY monitor"""
        )
        return {row["monitor"]: row["n"] for row in rows}


def test_labels_that_disagree_raise_an_alarm_where_no_image_has_changed(workspace):
    """Half of the answers are wrong by the labels of a month later, and every image looks as before: the alarm names
    the outcome, and its onset is a case, not a label's date."""
    truth = see(workspace, "week", 100)
    decide(workspace)
    assert alarms(workspace) == [] and readings(workspace) == {}
    wrong = np.where(np.arange(100) % 2 == 0, 1 - truth, truth)
    label(workspace, "week", wrong)
    see(workspace, "after", 10)
    decide(workspace)
    (alarm,) = alarms(workspace)
    assert alarm["monitor"] in ("performance", "calibration", "subgroups") and alarm["stream"] == "known"
    assert alarm["since_case"] <= 20 and alarm["opened_at_case"] == 110
    assert "outcome" in json.loads(alarm["evidence"])


def test_true_labels_are_no_news(workspace):
    """The same labels as the images deserve: nothing is said."""
    label(workspace, "week", see(workspace, "week", 200))
    decide(workspace)
    assert alarms(workspace) == []
    assert readings(workspace) == {"performance": 200, "calibration": 200, "subgroups": 200}


def test_each_label_is_read_once_whenever_it_comes(workspace):
    """With its case, before the decision on it, after it, or after a restart."""
    with_cases = see(workspace, "first", 25, labels=True)
    decide(workspace)  # two whole ticks; five cases wait
    assert readings(workspace)["performance"] == 20
    late = see(workspace, "later", 25)
    decide(workspace)
    assert readings(workspace)["performance"] == 25
    label(workspace, "later", late)
    see(workspace, "last", 10)
    decide(workspace)
    decide(workspace)
    assert readings(workspace)["performance"] == len(with_cases) + len(late)
    with workspace.store.read() as connection:
        newest = connection.execute("SELECT max(id) FROM labels").fetchone()[0]
        assert get_setting(connection, "labels_read_of") == {"v0": [newest, 60]}


def test_labels_of_a_version_wait_until_it_is_live_again(workspace):
    """v0 answered, v1 went live, then the labels of v0's answers came: they say nothing of v1, and after a rollback
    v0's charts read each of them once, in the order of the cases; also those of answers on whose day v1 took over."""
    truth = see(workspace, "old", 25)
    label(workspace, "old", truth[:5])
    with workspace.store.transaction() as connection:  # of a case that waits for the rest of its tick
        add_label(connection, workspace, "old-0024", CLASSES[int(truth[24])])
    decide(workspace)
    assert readings(workspace)["performance"] == 5
    version = deployed.promoted(workspace)
    see(workspace, "new", 25, by=version)
    decide(workspace)
    with workspace.store.transaction() as connection:
        for i in reversed(range(5, 24)):
            add_label(connection, workspace, f"old-{i:04}", CLASSES[int(truth[i])])
    see(workspace, "newer", 10, by=version)
    decide(workspace)
    assert readings(workspace)["performance"] == 5, "they are none of v1's"

    registry.rollback(workspace, by="ana", reason="complaints")
    see(workspace, "back", 10)
    with workspace.store.read() as connection:
        batch, _ = came(connection, "v0", 1, range(61, 71), ["home"], ())
    assert batch.index.tolist() == [*range(6, 26)] and batch.target.tolist() == truth[5:].tolist()
    decide(workspace)
    assert readings(workspace)["performance"] == 25
    label(workspace, "new", [0] * 25)
    see(workspace, "further", 10)
    decide(workspace)
    assert readings(workspace)["performance"] == 25, "each is read once, and none of another version's"


def test_who_taught_the_version_says_nothing_of_others(workspace):
    """A patient whose labels it may have learnt from comes again: that answer is left out."""
    with workspace.store.transaction() as connection:
        now = rfc3339(workspace.now())
        for case, patient in (("again", "taught-0001"), ("fresh", "somebody")):
            connection.execute("INSERT OR IGNORE INTO patients VALUES (?, 'train', ?)", (patient, now))
            insert(connection, "cases", case_id=case, origin="feed", state="observed", patient_key=patient,
                   domain="home", received_at=now, facts="{}")  # fmt: skip
            record(connection, case_id=case, version="v0", role="live", scores=np.array([0.9, 0.1], np.float32),
                   embedding=np.zeros(16, np.float32), sensor="base:x", trust="normal", at=workspace.now(),
                   number=1 if case == "again" else 2)  # fmt: skip
        connection.execute("UPDATE versions SET created_at = :now", {"now": now})
        assert not has_come(connection)
        add_label(connection, workspace, "again", "a")
        add_label(connection, workspace, "fresh", "a")
        assert has_come(connection)
        batch, _ = came(connection, "v0", 1, (1, 2), ["home"], ())
    assert batch.index.tolist() == [2] and batch.target.tolist() == [0]


def test_without_labels_nobody_pays_for_them(workspace):
    """A site whose labels never come keeps the whole budget for its images."""
    see(workspace, "week", 20)
    decide(workspace)
    with workspace.store.read() as connection:
        before = connection.execute("SELECT threshold FROM signals WHERE monitor = 'embedding'").fetchone()[0]
    label(workspace, "week", [0])
    see(workspace, "after", 10)
    decide(workspace)
    with workspace.store.read() as connection:
        after = connection.execute(
            "SELECT threshold FROM signals WHERE monitor = 'embedding' ORDER BY tick DESC LIMIT 1"
        ).fetchone()[0]
    assert after > before


def test_labels_of_doubtful_answers_are_not_read(workspace):
    """The list of wanted labels asks for them because the answer is unsure: they are no sample of anything."""
    truth = see(workspace, "week", 30)
    decide(workspace)
    with workspace.store.transaction() as connection:
        for i, one in enumerate(truth):
            insert(connection, "labels", case_id=f"week-{i:04}", kind="class", value=CLASSES[int(one)],
                   received_at=rfc3339(workspace.now()), arm="active" if i < 20 else "audit")  # fmt: skip
    see(workspace, "after", 10)
    decide(workspace)
    assert readings(workspace)["performance"] == 10


def test_late_labels_of_the_reference_change_nothing(workspace):
    """What is compared with stays what it was when it was approved, also after a restart; and such a label is no sign
    that the feed's come."""
    with workspace.store.transaction() as connection:
        connection.execute("DELETE FROM labels WHERE case_id LIKE 'ranked-000%'")
    label(workspace, "week", see(workspace, "week", 40))
    decide(workspace)
    with workspace.store.read() as connection:
        before = compared(connection, 1, "v0", ()).calibrate.target
    workspace.now = lambda: datetime(2031, 1, 1, tzinfo=UTC)
    label(workspace, "ranked", [1] * 10)
    with workspace.store.read() as connection:
        np.testing.assert_array_equal(compared(connection, 1, "v0", ()).calibrate.target, before)
    late = see(workspace, "after", 20)
    decide(workspace)
    label(workspace, "after", late)
    see(workspace, "last", 10)
    decide(workspace)
    assert readings(workspace)["performance"] == 60
    with workspace.store.read() as connection:
        told = connection.execute("SELECT body FROM journal WHERE event = 'monitor_failed'").fetchall()
    assert told == []


def test_a_monitor_that_breaks_is_left_out_and_told(workspace, monkeypatch):
    """Not what it was made to raise, but a fault of its own: the others go on, and so does the daemon."""
    import monitors

    def broken(self, *_):
        raise ZeroDivisionError

    see(workspace, "week", 20)
    monkeypatch.setattr(monitors.PredictionStream, "update", broken)
    decide(workspace)
    monkeypatch.setattr(monitors.FarOut, "fit", broken)
    see(workspace, "after", 10)
    decide(workspace)
    with workspace.store.read() as connection:
        told = [json.loads(row["body"]) for row in connection.execute(
            "SELECT body FROM journal WHERE event = 'monitor_failed'")]  # fmt: skip
        read = connection.execute("SELECT DISTINCT monitor FROM signals WHERE tick = 3").fetchall()
    assert {one["monitor"] for one in told} == {"prediction", "far-out"}
    assert all("ZeroDivisionError" in one["says"] for one in told)
    assert {row["monitor"] for row in read} >= {"embedding", "family"}


def test_what_ended_no_alarm_begins_the_charts_anew_in_memory_too(workspace):
    """`resume` while the daemon runs: what it holds is what the store holds, so a restart changes nothing."""
    detector = Detector(workspace)
    see(workspace, "week", 20)
    detector.step(workspace.now())
    with workspace.store.transaction() as connection:
        episodes.close_alarms(connection, episodes.OF_SHIFT, because="resumed", by="ana", at=workspace.now())
    see(workspace, "after", 10)
    detector.step(workspace.now())
    with workspace.store.read() as connection:
        states = connection.execute("SELECT monitor, key, value FROM monitor_state ORDER BY 1, 2").fetchall()
        before = {(row["monitor"], row["key"]): bytes(row["value"]) for row in states}
    again = Detector(workspace)
    with workspace.store.read() as connection:
        again._fit(connection)
    for _, monitor in again._monitors:
        kept = {key for name, key in before if name == monitor.name}
        assert {key for key in kept if "levels" not in key} == {key for key in monitor.state() if "levels" not in key}


def test_a_lot_of_labels_at_once_is_read_in_the_order_of_the_cases(workspace):
    """A file of a quarter, newest first: what went wrong lately is what the charts remember, whatever the file's
    order."""
    truth = see(workspace, "quarter", 200)
    decide(workspace)
    wrong = np.where(np.arange(200) >= 100, 1 - truth, truth)
    with workspace.store.transaction() as connection:
        for i in reversed(range(200)):
            add_label(connection, workspace, f"quarter-{i:04}", CLASSES[int(wrong[i])])
    see(workspace, "after", 10)
    decide(workspace)
    (alarm,) = alarms(workspace)
    assert "outcome" in json.loads(alarm["evidence"])


def test_the_alarm_is_that_of_the_monitor_that_used_up_its_share(workspace, monkeypatch):
    """A monitor with a small share may stand higher and not have reached its own line: it does not name the alarm."""
    signals = {
        "schema": Signal(monitor="schema", log_e=9.0, statistic=1.0, threshold=10.0, n=10),
        "embedding": Signal(monitor="embedding", log_e=8.0, statistic=1.0, threshold=7.9, n=10),
    }
    see(workspace, "week", 10)
    detector = Detector(workspace)
    read = detector._read
    monkeypatch.setattr(detector, "_read", lambda one, batch: signals.get(one.name) or read(one, batch))
    monkeypatch.setattr("agent.drift.detect.stream_of", lambda domain, known: "known")
    detector.step(workspace.now())
    assert [alarm["monitor"] for alarm in alarms(workspace)] == ["embedding"]


def test_scanners_are_strata(workspace):
    """Two that take turns by the day are each compared with their own reference."""
    with workspace.store.transaction() as connection:
        connection.execute("UPDATE cases SET scanner = CASE WHEN seq % 2 THEN 'A' ELSE 'B' END")
        connection.execute("UPDATE cases SET scanner = NULL WHERE seq = 1")
        known = read_reference(connection, 1, "v0")
    assert {*known.calibrate.stratum} == {"A", "B"} and {*known.transform.stratum} == {"", "A", "B"}
