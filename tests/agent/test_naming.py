"""An open alarm is named once its cases say enough; the answer goes into the record and never raises trust."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from stocked import CLASSES, add_label, stock

from agent.clock import rfc3339
from agent.drift import episodes, naming
from agent.drift.domains import KNOWN
from agent.drift.reference import open_epoch, read_reference
from agent.observe import record
from agent.store import insert
from agent.workspace import Workspace
from benchmarks.drift.worlds import World
from monitors import ESTIMATORS

WORLD = World(seed=3, dim=16)
TAUGHT, RANKED = 100, 300


def seen(workspace: Workspace, name: str, n: int, shift: str | None, *, live_from: int | None = None) -> None:
    """n labelled patients of the world, observed; as live cases from a number on, else as the reference's."""
    stream = WORLD.stream(n + 600, (len(name), n), shift)
    now = workspace.now()
    with workspace.store.transaction() as connection:
        for i in range(n):
            case = f"{name}-{i:04}"
            x, score, label = (part[600 + i] for part in stream)
            connection.execute("INSERT OR IGNORE INTO patients VALUES (?, 'judge', ?)", (case, rfc3339(now)))
            origin = "feed" if live_from else "reference"
            insert(connection, "cases", case_id=case, origin=origin, state="observed", patient_key=case,
                   domain="home", received_at=rfc3339(now), facts="{}")  # fmt: skip
            record(connection, case_id=case, version="v0", role="live" if live_from else "replay",
                   scores=np.array([1 - score, score], np.float32), embedding=x, sensor="pinned", trust="normal",
                   at=now, number=live_from + i if live_from else None)  # fmt: skip
            if live_from is None:
                add_label(connection, workspace, case, CLASSES[int(label)])
        if live_from:
            connection.execute("UPDATE observations SET tick = number WHERE tick IS NULL AND role = 'live'")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = stock(tmp_path)
    seen(workspace, "taught", TAUGHT, None)
    seen(workspace, "ranked", RANKED, None)
    parts = {f"taught-{i:04}": "transform" for i in range(TAUGHT)}
    parts |= {f"ranked-{i:04}": "calibrate" for i in range(RANKED)}
    with workspace.store.transaction() as connection:
        open_epoch(connection, version="v0", sensor="pinned", members=parts, at=workspace.now(), by="test")
    return workspace


def opened(workspace: Workspace, stream: str = KNOWN) -> None:
    with workspace.store.transaction() as connection:
        episodes.open_alarm(connection, monitor="prediction", shift="undetermined", stream=stream, at_case=20,
                            since_case=1, statistic=30.0, threshold=7.0, score=8.0, evidence={"lead": "prediction"},
                            at=workspace.now())  # fmt: skip


def asked(workspace: Workspace) -> tuple[list[str], dict, list[dict]]:
    """(the new answers, the alarm, the journal's events of naming)."""
    with workspace.store.transaction() as connection:
        reference = read_reference(connection, 1, "v0")
        found = naming.name_again(connection, reference, 1, "v0", workspace.now())
        alarm = dict(connection.execute("SELECT * FROM alarms").fetchone())
        told = connection.execute("SELECT body FROM journal WHERE event = 'alarm_named'").fetchall()
    return found, alarm, [json.loads(row["body"]) for row in told]


@pytest.mark.parametrize(("shift", "called"), [("prevalence", "prevalence"), ("mean", "acquisition")])
def test_an_open_question_is_answered_once_the_cases_say_enough(workspace: Workspace, shift: str, called: str) -> None:
    """Twenty patients leave it open, three hundred name it; the evidence keeps what it rests on, the journal the
    change."""
    opened(workspace)
    seen(workspace, "early", 6, shift, live_from=1)
    found, alarm, told = asked(workspace)
    assert (found, alarm["shift"], told) == ([], "undetermined", [])

    seen(workspace, "later", 300, shift, live_from=7)
    found, alarm, told = asked(workspace)
    assert (found, alarm["shift"]) == ([called], called)
    evidence = json.loads(alarm["evidence"])
    assert (evidence["lead"], evidence["patients"]) == ("prediction", 306)
    assert [(event["was"], event["shift"]) for event in told] == [("undetermined", called)]
    assert evidence["says"] == told[0]["says"]


def test_it_is_not_asked_again_before_there_are_half_as_many_cases_again(workspace: Workspace) -> None:
    """Asking at every tick would be a hundred tests where one was promised."""
    opened(workspace)
    seen(workspace, "first", 200, "prevalence", live_from=1)
    asked(workspace)
    with workspace.store.transaction() as connection:
        connection.execute("UPDATE alarms SET shift = 'undetermined'")
    seen(workspace, "more", 50, "prevalence", live_from=201)
    assert asked(workspace)[0] == []
    seen(workspace, "enough", 60, "prevalence", live_from=251)
    assert asked(workspace)[0] == ["prevalence"]


def test_a_named_shift_of_images_is_final(workspace: Workspace) -> None:
    """What was learnt for it stays explained by it."""
    opened(workspace)
    seen(workspace, "moved", 200, "mean", live_from=1)
    assert asked(workspace)[0] == ["acquisition"]
    seen(workspace, "other", 320, "prevalence", live_from=201)
    assert asked(workspace)[0] == []


def test_the_onset_has_an_interval_that_narrows(workspace: Workspace) -> None:
    """A named alarm is dated again as its cases come; the page says so in words and as a band, and names no case."""
    opened(workspace)
    seen(workspace, "quiet", 120, None, live_from=1)
    with workspace.store.transaction() as connection:
        connection.execute("UPDATE alarms SET since_case = 125, opened_at_case = 160, shift = 'acquisition'")
    seen(workspace, "moved", 40, "mean", live_from=121)
    early = json.loads(asked(workspace)[1]["evidence"])["onset"]
    seen(workspace, "more", 300, "mean", live_from=161)
    found, alarm, _ = asked(workspace)
    late = json.loads(alarm["evidence"])["onset"]

    assert (found, alarm["shift"], alarm["since_case"]) == ([], "acquisition", 125)
    assert late["low"] <= 121 <= late["high"]
    assert late["low"] <= late["case"] <= late["high"]
    assert late["high"] - late["low"] < early["high"] - early["low"]


def test_another_versions_cases_date_no_onset(workspace: Workspace) -> None:
    """What answered after the change only can't tell when it came: the alarm keeps what it had."""
    opened(workspace)
    seen(workspace, "moved", 200, "mean", live_from=21)
    with workspace.store.transaction() as connection:
        connection.execute("UPDATE alarms SET since_case = 5, shift = 'acquisition'")

    assert "onset" not in json.loads(asked(workspace)[1]["evidence"])


def test_labels_of_the_reference_come_in_its_order(workspace: Workspace) -> None:
    """A class index per calibration case; one without a label is -1."""
    from agent.drift.reference import read_classes

    with workspace.store.transaction() as connection:
        connection.execute("DELETE FROM labels WHERE case_id = 'ranked-0003'")
        found = read_classes(connection, 1, "v0", CLASSES)
    truth = WORLD.stream(RANKED + 600, (len("ranked"), RANKED), None).label[600:].astype(int)
    assert found[3] == -1
    assert np.array_equal(np.delete(found, 3), np.delete(truth, 3))


def test_the_evidence_says_what_the_change_may_cost(workspace: Workspace) -> None:
    """The accuracy that the reference's labels show and the estimated one of the new cases, with a band; where the
    model is as sure as before they are the same, and trust and the shift are as without it."""
    opened(workspace)
    seen(workspace, "moved", 200, "mean", live_from=1)
    _, alarm, _ = asked(workspace)
    found = json.loads(alarm["evidence"])["estimated"]

    assert set(found) == {how.name for how in ESTIMATORS}
    known, live = (WORLD.stream(n + 600, (len(name), n), shift) for name, n, shift in
                   (("ranked", RANKED, None), ("moved", 200, "mean")))  # fmt: skip
    right = ((known.score >= 0.5) == known.label)[600:].mean()
    for one in found.values():
        assert one["patients"] == 200
        assert one["before"] == pytest.approx(right, abs=1e-4)
        assert one["low"] <= ((live.score >= 0.5) == live.label)[600:].mean() <= one["high"]


def test_without_labels_of_the_reference_no_cost_is_estimated(workspace: Workspace) -> None:
    """Nothing stands in the evidence then, and the alarm is named all the same."""
    with workspace.store.transaction() as connection:
        connection.execute("DELETE FROM labels")
    opened(workspace)
    seen(workspace, "moved", 200, "mean", live_from=1)
    found, alarm, _ = asked(workspace)

    assert found == ["acquisition"]
    assert json.loads(alarm["evidence"])["estimated"] == {}
