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
from agent.drift.estimated import estimators
from agent.drift.reference import open_epoch, read_reference
from agent.observe import record
from agent.store import insert
from agent.trust import trust_now
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


def test_how_far_the_cases_lie_goes_on_after_the_name_is_given(workspace: Workspace) -> None:
    """A change that grows is answered by what it has grown to."""
    opened(workspace)
    seen(workspace, "moved", 200, "mean", live_from=1)
    near = json.loads(asked(workspace)[1]["evidence"])["distance"]
    assert 0.4 < near < 1.3
    seen(workspace, "farther", 300, "ramp", live_from=201)
    found, alarm, _ = asked(workspace)
    far = json.loads(alarm["evidence"])["distance"]
    assert (found, alarm["shift"]) == ([], "acquisition") and far > near + 0.2


def labelled(
    workspace: Workspace, name: str, n: int, shift: str | None, *, first: int = 0, otherwise: bool = False
) -> None:
    """Labels of cases that `seen` made, from the first on; some of the larger class are called by the other's name."""
    truth = WORLD.stream(n + 600, (len(name), n), shift).label[600:]
    renamed = np.random.default_rng(0).random(n) < (0.5 if otherwise else 0.0)
    with workspace.store.transaction() as connection:
        for i in range(first, n):
            add_label(connection, workspace, f"{name}-{i:04}", CLASSES[int(truth[i] | renamed[i])])


def test_labels_that_come_late_name_what_images_cannot(workspace: Workspace) -> None:
    """Cases alone say nothing; once their labels are there, called by other names, it is annotation, and final. Until
    there are thirty labels nothing is asked again."""
    opened(workspace)
    seen(workspace, "renamed", 400, None, live_from=1)
    found, alarm, _ = asked(workspace)
    assert (found, alarm["shift"]) == ([], "undetermined")
    labelled(workspace, "renamed", 400, None, first=371, otherwise=True)
    assert json.loads(asked(workspace)[1]["evidence"])["labels_at"] == 0

    with workspace.store.transaction() as connection:
        connection.execute("DELETE FROM labels WHERE case_id LIKE 'renamed%'")
    labelled(workspace, "renamed", 400, None, otherwise=True)
    found, alarm, told = asked(workspace)
    assert (found, alarm["shift"], told[-1]["was"]) == (["annotation"], "annotation", "undetermined")
    evidence = json.loads(alarm["evidence"])
    assert (evidence["labelled"], evidence["labels_at"], evidence["driver"]) == (400, 400, "labels")
    seen(workspace, "afterwards", 300, "mean", live_from=401)
    assert asked(workspace)[0] == []


def test_labels_add_the_mix_to_a_named_shift_of_images(workspace: Workspace) -> None:
    """An acquisition shift whose labels, too, come in another mix is mixed; without such labels it stays."""
    opened(workspace)
    seen(workspace, "moved", 200, "mean", live_from=1)
    assert asked(workspace)[0] == ["acquisition"]
    labelled(workspace, "moved", 200, "mean")
    found, alarm, _ = asked(workspace)
    evidence = json.loads(alarm["evidence"])
    assert (found, alarm["shift"], evidence["labels_at"]) == ([], "acquisition", 200)

    with workspace.store.transaction() as connection:
        connection.execute("UPDATE labels SET value = 'b' WHERE case_id GLOB 'moved-00[0-9][02468]'")
    seen(workspace, "more", 150, "mean", live_from=201)
    labelled(workspace, "more", 150, "mean")
    assert asked(workspace)[0] == ["mixed"]


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
    from agent.drift.reference import calibration_rows, classes_in

    with workspace.store.transaction() as connection:
        connection.execute("DELETE FROM labels WHERE case_id = 'ranked-0003'")
        found = classes_in(connection, calibration_rows(connection, 1, "v0"))
    truth = WORLD.stream(RANKED + 600, (len("ranked"), RANKED), None).label[600:].astype(int)
    assert found[3] == -1
    assert np.array_equal(np.delete(found, 3), np.delete(truth, 3))


def cost(workspace: Workspace) -> dict:
    """What the alarm's evidence says of it after a tick."""
    with workspace.store.transaction() as connection:
        naming.estimate_again(connection, read_reference(connection, 1, "v0"), 1, "v0")
        evidence = json.loads(connection.execute("SELECT evidence FROM alarms").fetchone()["evidence"])
    assert evidence["lead"] == "prediction"
    return evidence["estimated"]


def test_the_evidence_says_what_the_change_may_cost(workspace: Workspace) -> None:
    """The accuracy that the reference's labels show, and the estimated one of the new cases with a band: not of twelve
    patients, of two hundred once they have come, and anew when there are half as many again."""
    opened(workspace)
    seen(workspace, "early", 12, "mean", live_from=1)
    assert cost(workspace) == {}

    seen(workspace, "moved", 200, "mean", live_from=13)
    found = cost(workspace)
    assert {*found} == {how.name for how in ESTIMATORS}
    known, live = (WORLD.stream(n + 600, (len(name), n), shift) for name, n, shift in
                   (("ranked", RANKED, None), ("moved", 200, "mean")))  # fmt: skip
    before, now = (np.mean(((side.score >= 0.5) == side.label)[600:]) for side in (known, live))
    for one in found.values():
        assert (one["patients"], one["before"]) == (212, pytest.approx(before, abs=1e-4))
        assert one["low"] <= now <= one["high"]

    seen(workspace, "more", 60, "mean", live_from=213)
    assert cost(workspace) == found
    seen(workspace, "enough", 60, "mean", live_from=273)
    assert {one["patients"] for one in cost(workspace).values()} == {332}


def test_what_another_mix_costs_is_estimated_as_such(workspace: Workspace) -> None:
    """Named a change of prevalence, the alarm has an estimate that reckons with it and is nearer to the truth than any
    other; named otherwise it has not."""
    opened(workspace)
    seen(workspace, "mixed", 300, "prevalence", live_from=1)
    assert asked(workspace)[0] == ["prevalence"]
    found = cost(workspace)
    live = WORLD.stream(900, (len("mixed"), 300), "prevalence")
    true = np.mean(((live.score >= 0.5) == live.label)[600:])
    error = {name: abs(one["now"] - true) for name, one in found.items()}

    assert min(error, key=error.__getitem__) == "CBPE, another mix"
    assert {*found} == {how.name for how in estimators("prevalence")} > {how.name for how in ESTIMATORS}


def test_without_labels_of_the_reference_no_cost_is_estimated(workspace: Workspace) -> None:
    """Nothing stands in the evidence then, and the alarm is named all the same."""
    with workspace.store.transaction() as connection:
        connection.execute("DELETE FROM labels")
    opened(workspace)
    seen(workspace, "moved", 200, "mean", live_from=1)

    assert asked(workspace)[0] == ["acquisition"]
    assert cost(workspace) == {}


def test_what_a_change_may_cost_moves_no_trust(workspace: Workspace) -> None:
    """Estimates are told and obeyed by nobody: the shift and the trust are as before, and no event is journaled."""
    opened(workspace)
    seen(workspace, "moved", 200, "prevalence", live_from=1)
    with workspace.store.read() as connection:
        before = [tuple(row) for row in connection.execute("SELECT seq, event FROM journal")]
        trust = trust_now(connection)
    assert cost(workspace)
    with workspace.store.read() as connection:
        assert [tuple(row) for row in connection.execute("SELECT seq, event FROM journal")] == before
        assert (trust_now(connection), connection.execute("SELECT shift FROM alarms").fetchone()["shift"]) == (
            trust,
            "undetermined",
        )
