"""Versions and what is live: legal moves, decisions, and the way back."""

from __future__ import annotations

import json
import shutil

import pytest
from deployed import FAILED, approved, candidate, deploy, held, live, promoted, state, train

from agent.drift import episodes
from agent.errors import HomeostatError, NotEnoughEvidence, Refused
from agent.trust import set_trust, suspend_domains, trust_now
from agent.versions import pointer, registry, verify
from agent.workspace import get_setting

WHO = {"by": "ana", "reason": "because"}


@pytest.fixture
def workspace(tmp_path):
    return deploy(tmp_path / "site")


def test_v0_is_live_from_the_start(workspace):
    """The model as deployed is a version like any other: live, in the pointer and in the journal."""
    assert live(workspace) == "v0"
    assert pointer.read(workspace.path("live.json")) == pointer.stored(workspace)
    with workspace.store.read() as connection:
        assert [row["event"] for row in connection.execute("SELECT event FROM journal")] == ["version_deployed"]


def test_promotion_puts_a_version_on_probation_and_retires_the_last(workspace):
    """Promoting moves both versions, the pointer and the journal together."""
    version = promoted(workspace)

    assert (live(workspace), state(workspace, version), state(workspace, "v0")) == (version, "probation", "retired")
    published = pointer.read(workspace.path("live.json"))
    assert (published.version, published.generation) == (version, 2)
    with workspace.store.read() as connection:
        last = connection.execute("SELECT * FROM journal ORDER BY seq DESC LIMIT 1").fetchone()
    body = json.loads(last["body"])
    assert (last["event"], body["version"], body["previous"]) == ("version_promoted", version, "v0")


@pytest.mark.parametrize(
    ("facts", "left"),
    [
        ({"domains": ["main/C"]}, ["home"]),
        ({"domains": ["main/C"], "below": ["main/C"]}, ["home", "main/C"]),
        ({"domains": ["since-alarm-1"]}, ["main/C"]),
        ({}, ["home", "main/C"]),
    ],
)
def test_a_promotion_answers_again_where_it_has_learnt(workspace, facts, left):
    """A domain stays suspended that it didn't learn, or is not up to; a rollback brings all back."""
    with workspace.store.transaction() as connection:
        suspend_domains(connection, "v0", ["home", "main/C"], by="homeostat", reason="labels", at=workspace.now())
    version = candidate(workspace)
    with workspace.store.transaction() as connection:
        connection.execute("UPDATE versions SET measures = ? WHERE id = ?", (json.dumps(facts), version))
    registry.approve(workspace, version, **WHO)
    registry.promote(workspace, version, **WHO)
    assert json.loads(workspace.path("live.json").read_text())["suspended"] == left
    with workspace.store.read() as connection:
        rows = connection.execute(
            "SELECT event, body FROM journal WHERE event LIKE 'domains_%' ORDER BY seq"
        ).fetchall()
    assert [row["event"] for row in rows] == ["domains_suspended"] + ["domains_restored"] * (len(left) < 2)
    registry.rollback(workspace, **WHO)
    assert json.loads(workspace.path("live.json").read_text())["suspended"] == ["home", "main/C"]


@pytest.mark.parametrize(("below", "open_"), [([], 0), (["since-alarm-1"], 1)])
def test_homes_alarm_goes_on_while_home_is_suspended(workspace, below, open_):
    """Only an open alarm's labels lift a suspension: ended with the promotion, home would never be answered again."""
    at = workspace.now()
    with workspace.store.transaction() as connection:
        episodes.open_alarm(connection, monitor="embedding", shift="undetermined", at_case=9, since_case=1,
                            statistic=3.0, threshold=2.0, score=7.0, evidence={}, at=at)  # fmt: skip
        set_trust(connection, "caution", by="homeostat", reason="an alarm", at=at)
        suspend_domains(connection, "v0", ["home"], by="homeostat", reason="labels", at=at)
    version = candidate(workspace)
    facts = json.dumps({"domains": ["since-alarm-1"], "below": below})
    with workspace.store.transaction() as connection:
        connection.execute("UPDATE versions SET measures = ? WHERE id = ?", (facts, version))
    registry.approve(workspace, version, **WHO)
    registry.promote(workspace, version, **WHO)
    with workspace.store.read() as connection:
        assert len(episodes.open_alarms(connection)) == open_
        assert trust_now(connection) == ("caution" if open_ else "normal")


def test_rollback_goes_back_step_by_step_to_v0_and_then_says_no(workspace):
    """Each rollback goes to the version before the live one was promoted; from v0 there is no way back."""
    first, second = promoted(workspace), promoted(workspace)

    backs = [registry.rollback(workspace, **WHO).now for _ in range(2)]

    assert backs == [first, "v0"]
    assert [state(workspace, v) for v in ("v0", first, second)] == ["active", "rolled_back", "rolled_back"]
    with pytest.raises(Refused, match="nothing to roll back to: v0"):
        registry.rollback(workspace, **WHO)


def test_previous_after_a_rollback_is_not_the_version_that_was_left(workspace):
    """Once v2 is rolled back, a version promoted after it goes back to where it came from, and never to v2."""
    first, second = promoted(workspace), promoted(workspace)
    registry.rollback(workspace, **WHO)
    third = promoted(workspace)

    assert registry.rollback(workspace, **WHO).now == first
    assert state(workspace, third) == state(workspace, second) == "rolled_back"


def test_rollback_to_a_named_version_may_undo_a_rollback(workspace):
    """A person may name any version that was live once, also one that was rolled back."""
    version = promoted(workspace)
    registry.rollback(workspace, **WHO)

    assert registry.rollback(workspace, version, **WHO).now == version
    assert state(workspace, version) == "active"


def test_rollback_pauses_automatic_promotion(workspace):
    """After a rollback the agent promotes nothing by itself until a person resumes it."""
    promoted(workspace)
    registry.rollback(workspace, **WHO)
    with workspace.store.read() as connection:
        assert get_setting(connection, "automatic_promotion", True) is False


def test_rollback_needs_nothing_of_the_version_it_leaves(workspace):
    """With the newest version's folder gone and its configuration unreadable, the way back is open."""
    version = promoted(workspace)
    shutil.rmtree(workspace.path("versions", version))
    workspace.path("homeostat.yaml").write_text("plan: [")

    assert registry.rollback(workspace, **WHO).now == "v0"


def test_rollback_refuses_a_damaged_target_and_keeps_what_is_live(workspace):
    """A rollback to files that were changed would be a second harm: it names them and changes nothing."""
    first, second = promoted(workspace), promoted(workspace)
    head = workspace.path("versions", first, "head.safetensors")
    head.chmod(0o644)
    head.write_bytes(b"other")

    with pytest.raises(Refused, match=r"head\.safetensors was changed"):
        registry.rollback(workspace, **WHO)
    assert live(workspace) == second
    assert registry.rollback(workspace, "v0", **WHO).now == "v0"


def test_rollback_to_a_version_that_never_was_live_is_refused(workspace):
    """A candidate can't get live around the gates by way of a rollback."""
    version = approved(workspace)
    with pytest.raises(Refused, match="is approved and can't become active"):
        registry.rollback(workspace, version, **WHO)


def test_approving_what_was_refused_is_refused(workspace):
    """A rejected version stays rejected."""
    version = candidate(workspace)
    registry.reject(workspace, version, **WHO)
    for act in (registry.approve, registry.promote, registry.reject):
        with pytest.raises(Refused):
            act(workspace, version, **WHO)
    assert state(workspace, version) == "rejected"


def test_a_held_version_tells_how_many_patients_are_missing(workspace):
    """Approving or promoting a held version is no error of the person: it says which evidence is missing."""
    version = held(workspace)
    for act in (registry.approve, registry.promote):
        with pytest.raises(NotEnoughEvidence, match=r"forgetting:home:live has 166 .* needs 314: 148 are missing"):
            act(workspace, version, **WHO)
    registry.reject(workspace, version, **WHO)
    assert state(workspace, version) == "rejected"


def test_a_candidate_without_verdicts_or_with_a_failed_gate_is_not_approved(workspace):
    """Approval lets a *judged* candidate go on: no judgement, no approval, and none against a required gate."""
    unjudged, failed = candidate(workspace, ()), candidate(workspace, FAILED)
    with pytest.raises(NotEnoughEvidence, match="not been judged"):
        registry.approve(workspace, unjudged, **WHO)
    with pytest.raises(Refused, match="failed by the gate forgetting:home:live"):
        registry.approve(workspace, failed, **WHO)


def test_promotion_needs_approval(workspace):
    """A judged candidate waits for a person, or the plan, before it can go live."""
    version = candidate(workspace)
    with pytest.raises(Refused, match="not approved"):
        registry.promote(workspace, version, **WHO)
    assert live(workspace) == "v0"


def test_promoting_on_an_outdated_view_is_refused(workspace):
    """Of two decisions that were taken on the same view of what is live, the second one changes nothing."""
    one, other = approved(workspace), approved(workspace)
    now = {"how": "promote", "at": workspace.now(), "expected": 1, **WHO}
    with workspace.store.transaction() as connection:
        registry.activate(connection, one, **now)
    with pytest.raises(Refused, match=f"{one} became live meanwhile"), workspace.store.transaction() as connection:
        registry.activate(connection, other, **now)
    assert (live(workspace), state(workspace, other)) == (one, "approved")


def test_names_of_roles_resolve_to_ids(workspace):
    """champion, challenger and previous are accepted wherever a version is; an unknown name is told as such."""
    version, waiting = promoted(workspace), candidate(workspace)
    with workspace.store.read() as connection:
        found = {name: registry.resolve(connection, name) for name in ("champion", "challenger", "previous", "v0")}
        assert found == {"champion": version, "challenger": waiting, "previous": "v0", "v0": "v0"}
        for name in ("shadow", "v99", "'; --"):
            with pytest.raises(HomeostatError):
                registry.resolve(connection, name)


def test_ids_are_not_used_again(workspace):
    """An abandoned attempt keeps its number, so that v1 means one thing for ever."""
    first = train(workspace)
    with workspace.store.transaction() as connection:
        registry.move(connection, first, "abandoned", by="agent", reason="died", at=workspace.now())
    assert (first, train(workspace)) == ("v1", "v2")


def test_every_state_is_in_the_table_and_final_ones_have_no_way_out(workspace):
    """The table is closed: each move leads to a state that has a row of its own."""
    assert set().union(*registry.MOVES.values()) <= registry.MOVES.keys()
    assert {name for name, ways in registry.MOVES.items() if not ways} == {"rejected", "abandoned"}
    assert len(registry.MOVES) == 10


def test_a_refused_move_leaves_no_trace(workspace):
    """An illegal move is rolled back with its event, and the workspace still verifies."""
    version = train(workspace)
    with pytest.raises(Refused), workspace.store.transaction() as connection:
        registry.move(connection, version, "approved", by="x", reason="y", at=workspace.now())
    assert state(workspace, version) == "training"
    assert verify.problems(workspace) == []
