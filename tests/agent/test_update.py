"""Between two candidates: what is held doesn't block, and gives way to what knows more."""

from __future__ import annotations

import json

import deployed
from stocked import add_case, stock

from agent.cycle import situation
from agent.drift import episodes
from agent.plan import Plan
from agent.updates import material, records, update
from agent.updates.decide import decide
from agent.versions import registry


def alarmed(tmp_path):
    workspace = deployed.deploy(tmp_path / "site")
    with workspace.store.transaction() as connection:
        episodes.open_alarm(connection, monitor="embedding", shift="undetermined", at_case=9, since_case=1,
                            statistic=3.0, threshold=2.0, score=7.0, evidence={}, at=workspace.now())  # fmt: skip
    return workspace


def hold(workspace, labelled: int) -> str:
    """A held version that was made when the labels of so many patients since the change were there."""
    with workspace.store.transaction() as connection:
        for i in range(labelled):
            add_case(connection, workspace, f"had {i}", domain="home", split="train", number=i + 1)
    version = deployed.candidate(workspace, deployed.HELD)
    with workspace.store.transaction() as connection:
        registry.move(connection, version, "held", by="homeostat", reason="too few", at=workspace.now())
    return version


def test_a_held_candidate_waits_for_half_as_many_labels_again_and_then_gives_way(tmp_path):
    """A year must not end with the first candidate that could not be decided."""
    workspace = alarmed(tmp_path)
    held = hold(workspace, 40)
    with workspace.store.read() as connection:
        found = situation(connection, least=20)
    assert (found.waiting, found.tried_with) == (False, 40)
    assert decide(Plan(), found).says == "21 more labelled patients are needed for the next update"
    newer = deployed.candidate(workspace)
    with workspace.store.transaction() as connection:
        records.supersede(connection, newer, workspace.now())
    with workspace.store.read() as connection:
        assert registry.get(connection, held)["state"] == "rejected"
        assert registry.get(connection, newer)["state"] == "candidate"


def test_the_plan_learns_a_domain_once_it_can_be_judged(tmp_path):
    """A candidate without a test would be held, and each one spends alpha on the other anchors."""
    workspace = stock(tmp_path / "site")
    with workspace.store.transaction() as connection:
        for i in range(12):
            add_case(connection, workspace, f"new {i}", domain="vale", split="train", number=i + 1)
        for i in range(4):
            add_case(connection, workspace, f"judge {i}", domain="vale", number=20 + i)
        episodes.open_alarm(connection, monitor="embedding", shift="undetermined", at_case=9, since_case=1,
                            statistic=3.0, threshold=2.0, score=7.0, evidence={}, at=workspace.now())  # fmt: skip
        for least, domains, labelled in ((5, {"home"}, 0), (4, {"home", "vale"}, 12)):
            found = situation(connection, least=least)
            assert (found.domains, found.labelled) == (domains, labelled)


def test_the_plan_is_told_how_far_the_open_change_lies(tmp_path):
    """By the alarm that it answers to; an alarm that nobody could measure has no distance."""
    workspace = stock(tmp_path / "site")
    for evidence, distance in (({}, None), ({"distance": None}, None), ({"distance": 1.25}, 1.25)):
        with workspace.store.transaction() as connection:
            episodes.open_alarm(connection, monitor="embedding", shift="acquisition", at_case=9, since_case=1,
                                statistic=300.0, threshold=2.0, score=7.0, evidence=evidence,
                                at=workspace.now())  # fmt: skip
            assert situation(connection, least=5).distance == distance


def test_a_version_keeps_the_curve_beside_what_its_record_says_of_the_labels(tmp_path):
    """Both are one axis: the curve ends with all patients, whose number the record knows."""
    workspace = alarmed(tmp_path)
    workspace.path("homeostat.yaml").write_text("")
    parts = workspace.path("jobs", "job1", "recipes", "linear_probe")
    parts.mkdir(parents=True)
    parts.parents[1].joinpath("job.json").write_text(json.dumps({"new": [], "memory": [], "develop": []}))
    axes = {"label_efficiency": {"curve": [], "curve_of": [8]}, "depth": {"touched": 3}}
    trained = {"finalist": "linear_probe", "made": {"seconds": 1.0}, "develop": {}, "gained": 0.1, "axes": axes}
    making = update.Making(version="v1", job=None, learnt=("home",), labelled=12, tried=("linear_probe",),
                           trained=trained, parts=parts)  # fmt: skip
    found = update._facts(workspace, making, "v0")["axes"]
    label = {"labelled_patients": 12, "gained_on_develop": 0.1}
    assert found["label_efficiency"] == label | axes["label_efficiency"]
    assert found["depth"] == {"touched": 3} and found["cost"]["seconds"] == 1.0


def test_a_version_has_learnt_what_it_was_made_from_and_what_it_rehearsed(tmp_path):
    """Labels of a domain that can't be judged yet are rehearsed by the next version, which is not said to have learnt
    it: it has seen the domain all the same."""
    workspace = deployed.deploy(tmp_path / "site")
    with workspace.store.transaction() as connection:
        add_case(connection, workspace, "c1", domain="hillside", split="train")
        assert material.learnt_from(connection, "v0") == []
    for domains, rehearses in ((["vale"], "hillside"), (["coast"], "coast")):
        version = deployed.promoted(workspace)
        with workspace.store.transaction() as connection:
            records.add_measures(connection, version, {"domains": domains})
            connection.execute("INSERT INTO memory VALUES (?, ?, ?)", (version, "c1", rehearses))
    with workspace.store.read() as connection:
        assert material.learnt_from(connection, "v1") == ["vale"]
        assert material.learnt_from(connection, "v2") == ["coast", "hillside", "vale"]


def test_a_domain_that_the_last_try_lacked_is_a_reason_for_the_next(tmp_path):
    """A new scanner that can be judged at last doesn't wait until the others have brought half as many labels again."""
    workspace = alarmed(tmp_path)
    held = hold(workspace, 40)
    with workspace.store.transaction() as connection:
        for i in range(12):
            add_case(connection, workspace, f"new {i}", domain="vale", split="train", number=i + 1)
        assert not situation(connection, least=4).more_domains
        for i in range(4):
            add_case(connection, workspace, f"judge {i}", domain="vale", number=20 + i)
        assert situation(connection, least=4).more_domains
        measures = json.dumps({"labelled": 40, "domains": ["home", "vale"]})
        connection.execute("UPDATE versions SET measures = ? WHERE id = ?", (measures, held))
        assert not situation(connection, least=4).more_domains
