"""Watch: a promoted version is confirmed by cases, or rolled back by what labels and outputs show."""

from __future__ import annotations

import json

import deployed
import pytest
from stocked import CLASSES, add_case, add_label, answered

from agent import watch
from agent.versions import pointer, registry
from agent.workspace import put_setting

RIGHT, WRONG = (0.8, 0.2), (0.3, 0.7)  # of a case that is labelled "a"


@pytest.fixture
def workspace(tmp_path):
    """v1 on probation for 40 cases after v0."""
    workspace = deployed.deploy(tmp_path / "site")
    workspace.path("homeostat.yaml").write_text("plan: {probation: {cases: 40, alpha: 0.01}}\n")
    with workspace.store.transaction() as connection:
        put_setting(connection, "classes", CLASSES)
    deployed.promoted(workspace)
    return workspace


def see(workspace, n: int, *, live=RIGHT, previous=RIGHT, label=None, version="v1", before="v0", patients=None) -> None:
    """n more cases with the answers of both versions; answers may depend on the position."""
    with workspace.store.transaction() as connection:
        first = connection.execute("SELECT coalesce(max(number), 0) + 1 FROM observations").fetchone()[0]
        for i in range(first, first + n):
            case = f"c{i}"
            add_case(connection, workspace, case, label=label, patient=f"p{i % patients}" if patients else None)
            tilt = 0.001 * (i % 7)
            for who, role, says, number in ((version, "live", live, i), (before, "shadow", previous, None)):
                says = says(i) if callable(says) else says
                if says is None:
                    continue
                answered(connection, workspace, case, who, role, (says[0] - tilt, says[1] + tilt), number=number)


def events(workspace) -> list[str]:
    with workspace.store.read() as connection:
        rows = connection.execute("SELECT event, body FROM journal WHERE event LIKE 'version_%'").fetchall()
    return [(row["event"], json.loads(row["body"])["version"]) for row in rows][-1]


def test_a_version_that_does_no_harm_is_confirmed_once(workspace):
    """Probation ends with the last of its cases, and is over then."""
    see(workspace, 39, label="a")
    assert watch.step(workspace, workspace.now()) is None
    assert deployed.state(workspace, "v1") == "probation"
    see(workspace, 1)
    assert watch.step(workspace, workspace.now()) == "active"
    assert deployed.state(workspace, "v1") == "active" and events(workspace) == ("version_confirmed", "v1")
    assert watch.step(workspace, workspace.now()) is None


def test_without_a_promotion_there_is_nothing_to_watch(tmp_path):
    """v0 has nobody to be compared with."""
    workspace = deployed.deploy(tmp_path / "site")
    assert watch.step(workspace, workspace.now()) is None


def test_harm_that_labels_show_rolls_back(workspace):
    """The version before was right where this one is wrong: it answers again, and the plan promotes nothing."""
    see(workspace, 30, live=WRONG, previous=RIGHT, label="a")
    assert watch.step(workspace, workspace.now()) == "rolled_back"
    assert deployed.live(workspace) == "v0" and deployed.state(workspace, "v1") == "rolled_back"
    assert pointer.read(workspace.path("live.json")).version == "v0"
    with workspace.store.read() as connection:
        reason = connection.execute("SELECT reason FROM activations WHERE how = 'rollback'").fetchone()["reason"]
    assert "30 labelled patients" in reason and "worse than v0" in reason
    assert watch.step(workspace, workspace.now()) is None


def test_labels_that_come_late_roll_back_too(workspace):
    """The evidence is in the store, whenever the labels come."""
    see(workspace, 30, live=WRONG, previous=RIGHT)
    assert watch.step(workspace, workspace.now()) is None
    with workspace.store.transaction() as connection:
        for i in range(1, 31):
            add_label(connection, workspace, f"c{i}", "a")
    assert watch.step(workspace, workspace.now()) == "rolled_back"


def test_a_version_that_is_better_stays(workspace):
    """Which of the two is worse is not mixed up."""
    see(workspace, 39, live=RIGHT, previous=WRONG, label="a")
    assert watch.step(workspace, workspace.now()) is None
    assert deployed.live(workspace) == "v1"


def test_one_patient_with_many_images_is_one_witness(workspace):
    """Thirty images of two patients are no thirty patients."""
    see(workspace, 30, live=WRONG, previous=RIGHT, label="a", patients=2)
    assert watch.step(workspace, workspace.now()) is None


def test_one_unlucky_label_rolls_nothing_back(workspace):
    """A single error is no evidence."""
    see(workspace, 1, live=WRONG, previous=RIGHT, label="a")
    assert watch.step(workspace, workspace.now()) is None


@pytest.mark.parametrize(
    ("says", "what"),
    [((float("nan"), float("nan")), "NaN"), ((0.9, 0.9), "probabilities"), ((-0.5, 1.5), "probabilities")],
)
def test_broken_outputs_roll_back_at_the_first_case(workspace, says, what):
    """That needs no labels and no assumption."""
    see(workspace, 5)
    see(workspace, 1, live=says)
    assert watch.step(workspace, workspace.now()) == "rolled_back"
    with workspace.store.read() as connection:
        assert what in connection.execute("SELECT reason FROM activations WHERE how = 'rollback'").fetchone()["reason"]


def test_a_collapse_rolls_back(workspace):
    """One and the same answer to everything, where the version before told cases apart."""
    see(workspace, 25, live=lambda i: (0.6 + 0.001 * (i % 7), 0.4 - 0.001 * (i % 7)),
        previous=lambda i: RIGHT if i % 2 else WRONG)  # fmt: skip
    assert watch.step(workspace, workspace.now()) == "rolled_back"


def test_answers_before_the_promotion_say_nothing_of_probation(workspace):
    """Only what the version answered while it was live counts."""
    with workspace.store.transaction() as connection:
        put_setting(connection, "probation", {"version": "v1", "previous": "v0", "since": 30})
    see(workspace, 30, live=WRONG, previous=RIGHT, label="a")
    assert watch.step(workspace, workspace.now()) is None


def second_on_probation(workspace) -> None:
    see(workspace, 40)
    assert watch.step(workspace, workspace.now()) == "active"
    deployed.promoted(workspace)


def test_where_the_version_before_is_damaged_the_deployed_model_answers(workspace):
    """A way back is found, and the record says why it was this one."""
    second_on_probation(workspace)
    workspace.path("versions", "v1", "head.safetensors").write_bytes(b"damaged")
    see(workspace, 3, live=(float("nan"), float("nan")), version="v2", before="v1")
    assert watch.step(workspace, workspace.now()) == "rolled_back"
    assert deployed.live(workspace) == "v0"
    with workspace.store.read() as connection:
        last = registry.activations(connection)[-1]
    assert "NaN" in last["reason"] and "v1 can't go live" in last["reason"]


def test_without_any_way_back_trust_is_suspended_and_the_agent_lives(workspace):
    """Every older bundle is damaged: people are told once, the answers are marked, the cycle goes on."""
    workspace.path("versions", "v0", "head.safetensors").write_bytes(b"damaged")
    see(workspace, 3, live=(float("nan"), float("nan")))
    assert watch.step(workspace, workspace.now()) == "no_way_back"
    assert watch.step(workspace, workspace.now()) is None
    assert pointer.read(workspace.path("live.json")).trust == "suspended"
    assert deployed.live(workspace) == "v1"
    with workspace.store.read() as connection:
        body = connection.execute("SELECT body FROM journal WHERE event = 'rollback_failed'").fetchall()
    assert len(body) == 1 and "v0 can't go live" in body[0]["body"]


def test_the_shadow_may_be_missing_for_some_cases(workspace):
    """Where the version before could not answer, the pair is left out."""
    see(workspace, 10, previous=None, live=WRONG, label="a")
    assert watch.step(workspace, workspace.now()) is None


def test_nan_is_seen_without_a_shadow(workspace):
    """The version before may be damaged; that the live one answers NaN is known all the same."""
    see(workspace, 3, previous=None, live=(float("nan"), float("nan")))
    assert watch.step(workspace, workspace.now()) == "rolled_back"
