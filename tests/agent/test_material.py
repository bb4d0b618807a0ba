"""What an update learns from and is judged on: no patient stands on both sides."""

from __future__ import annotations

import pytest
from stocked import add_case, stock

from agent.cases.split import Split
from agent.drift import episodes
from agent.drift.domains import SERVED
from agent.updates import material
from agent.updates.anchors import current
from agent.workspace import Workspace, put_setting


@pytest.fixture
def workspace(tmp_path):
    """Thirty patients of three splits with two numbered cases each; the last ten patients are of a new site."""
    workspace = stock(tmp_path / "site")
    with workspace.store.transaction() as connection:
        for number in range(1, 61):
            patient = (number - 1) // 2
            add_case(
                connection,
                workspace,
                f"c{number}",
                patient=f"p{patient}",
                split=("train", "develop", "judge")[patient % 3],
                domain="home" if patient < 20 else "hillside",
                number=number,
                abstained=number in (41, 59),
            )
    return workspace


def alarm(workspace, *, shift="undetermined", since=None, at=60) -> None:
    with workspace.store.transaction() as connection:
        episodes.open_alarm(connection, monitor="embedding", shift=shift, at_case=at, since_case=since, statistic=1.0,
                            threshold=1.0, score=1.0, evidence={}, at=workspace.now())  # fmt: skip


def test_no_patient_learns_and_judges(workspace):
    """Training, selection and judging share no patient; all of them together are all that is labelled."""
    with workspace.store.read() as connection:
        sides = [
            {case["patient"] for case in cases}
            for cases in (
                material.trainable_cases(connection),
                material.develop_cases(connection),
                material.judge_cases(connection),
            )
        ]
    assert [len(side) for side in sides] == [10, 10, 10]
    assert len(set.union(*sides)) == 30


def test_an_update_learns_from_the_cases_since_the_change(workspace):
    """What came before the onset is memory's business, not the update's."""
    with workspace.store.read() as connection:
        assert {case["domain"] for case in material.new_cases(connection)} == {"home", "hillside"}
    alarm(workspace, since=41)
    with workspace.store.read() as connection:
        new = material.new_cases(connection)
    assert {case["domain"] for case in new} == {"hillside"}
    assert material.patients(new) == 3 and len(new) == 6


def test_an_update_learns_a_new_site_from_all_its_labels(workspace):
    """A scanner came before the alarm that its cases raised, and its labels come weeks late: none of them is lost."""
    alarm(workspace, since=51)
    with workspace.store.read() as connection:
        assert {case["case_id"] for case in material.new_cases(connection)} >= {"c43", "c44"}
    with workspace.store.transaction() as connection:
        connection.execute("UPDATE cases SET domain = 'since-alarm-1' WHERE domain = 'hillside'")
        assert not {case["case_id"] for case in material.new_cases(connection)} & {"c43", "c44"}


def test_the_onset_is_that_of_the_latest_shift(workspace):
    """Far-out images and silence are no change to learn from; without an estimate the alarm's own case stands in."""
    with workspace.store.read() as connection:
        assert material.onset(connection) == 1
    alarm(workspace, since=None, at=37)
    alarm(workspace, shift="far-out", since=55)
    alarm(workspace, shift=None, since=58)
    with workspace.store.read() as connection:
        assert material.onset(connection) == 37


def test_the_next_reference_leaves_out_what_was_far_out(workspace):
    """An X-ray among blood smears doesn't become normal by an update, but a labelled new domain does."""
    alarm(workspace, since=41)
    with workspace.store.read() as connection:
        unknown = material.reference_cases(connection, ["home"])
        learnt = {case["case_id"] for case in material.reference_cases(connection, ["hillside"])}
    with workspace.store.transaction() as connection:
        put_setting(connection, SERVED, ["hillside"])
        known = {case["case_id"] for case in material.reference_cases(connection, [])}
    assert unknown == [] and learnt == {f"c{i}" for i in range(41, 61)}
    assert learnt - known == {"c41", "c59"}


def test_fit_and_init_on_one_folder_share_no_patient_between_training_and_anchors(founded, home):
    """The base has never seen an image of a patient that any version will be judged on."""
    workspace = Workspace(founded)
    split = Split.read(workspace.base)
    raw = {f"harbour-patient-1-{i:04}" for i in range(240)}
    trained_on = {split.assign(patient) for patient in raw}
    assert trained_on == {"train", "develop", "judge"}
    from agent.cases.pseudonym import patient_key

    seen_by_fit = {patient_key(workspace.key, patient) for patient in raw if split.assign(patient) != "judge"}
    with workspace.store.read() as connection:
        anchored = {case["patient"] for one in current(connection) for case in one.cases}
        learning = {case["patient"] for case in material.trainable_cases(connection)}
        calibrating = {
            row["patient_key"]
            for row in connection.execute(
                "SELECT patient_key FROM reference_members JOIN cases USING (case_id) WHERE part = 'calibrate'"
            )
        }
    assert len(seen_by_fit) == 168 and len(anchored) == 72
    assert not anchored & seen_by_fit
    assert learning < seen_by_fit and not learning & calibrating
    workspace.store.close()


def test_a_second_study_years_later_follows_the_first(workspace):
    """The split of a patient is for ever: it is the patient's, not the case's."""
    with workspace.store.transaction() as connection:
        add_case(connection, workspace, "later", patient="p2", split="train", number=61)
    with workspace.store.read() as connection:
        assert "later" in {case["case_id"] for case in material.judge_cases(connection)}
        assert "later" not in {case["case_id"] for case in material.new_cases(connection)}


def open_for(workspace, stream: str, since: int) -> None:
    with workspace.store.transaction() as connection:
        episodes.open_alarm(connection, monitor="embedding", shift="undetermined", stream=stream, at_case=60,
                            since_case=since, statistic=1.0, threshold=1.0, score=1.0, evidence={},
                            at=workspace.now())  # fmt: skip


@pytest.mark.parametrize(
    ("open_", "home_since"), [([("new", 1)], None), ([("new", 1), ("known", 21)], 21), ([("known", 11)], 11)]
)
def test_home_is_taught_since_its_own_change_only(workspace, open_, home_since):
    """A new scanner is learnt from its own cases: months of home beside it are memory's business."""
    for stream, since in open_:
        open_for(workspace, stream, since)
    with workspace.store.read() as connection:
        new = material.new_cases(connection)
    home = [int(case["case_id"][1:]) for case in new if case["domain"] == "home"]
    assert {case["domain"] for case in new} >= {"hillside"}
    assert not home if home_since is None else home_since <= min(home) < home_since + 6


def test_a_new_case_tells_when_its_label_came(workspace):
    """How many of today's labels an earlier try had is counted by that."""
    with workspace.store.read() as connection:
        assert all(case["labelled_at"] <= workspace.now().isoformat() for case in material.new_cases(connection))
