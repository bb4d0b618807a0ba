"""Which domain a case belongs to: home's own scanner stays home only while nothing is known to have changed."""

from __future__ import annotations

import json

import deployed
import pytest

from agent.drift import episodes
from agent.drift.domains import HOME, domain_of, known, learnt, stream_of
from agent.trust import set_trust, trust_now
from agent.versions import registry
from agent.workspace import put_setting

BY = ("site", "scanner")


@pytest.mark.parametrize(
    ("site", "scanner", "episode", "domain"),
    [
        ("harbour", "A", None, "home"),
        ("harbour", "A", "since-alarm-2", "since-alarm-2"),
        ("harbour", "B", None, "harbour/B"),
        ("harbour", "B", "since-alarm-2", "harbour/B"),
        (None, None, None, "home"),
        (None, None, "since-alarm-2", "since-alarm-2"),
    ],
)
def test_a_case_is_of_its_scanner_or_of_home_or_of_the_open_episode(site, scanner, episode, domain):
    """A scanner that ages keeps its name: what it brings after an alarm is judged apart from what it brought before."""
    case = {"site": site, "scanner": scanner}
    assert domain_of(case, by=BY, home=["harbour/A"], episode=episode) == domain


@pytest.fixture
def workspace(tmp_path):
    """v1, live, learnt main/B and main/C, and is below what was approved at main/C; main/D is served by labels."""
    workspace = deployed.deploy(tmp_path / "site")
    version = deployed.candidate(workspace)
    with workspace.store.transaction() as connection:
        facts = json.dumps({"domains": ["main/B", "main/C"], "below": ["main/C"]})
        connection.execute("UPDATE versions SET measures = ? WHERE id = ?", (facts, version))
        put_setting(connection, "served", ["main/D"])
        connection.execute("UPDATE live SET version = ?", (version,))
    return workspace


def test_known_is_what_was_approved_learnt_well_or_served(workspace):
    """A scanner that a version gained at but is not good at stays new: its cases are answered with caution."""
    with workspace.store.read() as connection:
        assert learnt(connection) == ["main/B", "main/C"]
        found = known(connection)
    assert found == {HOME, "main/B", "main/D"}
    streams = {name: stream_of(name, found) for name in (HOME, "since-alarm-4", "main/B", "main/C", "main/E")}
    assert streams == {HOME: "known", "since-alarm-4": "known", "main/B": "known", "main/C": "new", "main/E": "new"}


@pytest.mark.parametrize(
    ("facts", "ends"),
    [
        ({"domains": ["since-alarm-1"]}, True),
        ({"domains": ["main/B"]}, False),  # it has learnt something else
    ],
)
def test_a_promotion_ends_the_shift_that_it_has_learnt(tmp_path, facts, ends):
    """Trust comes back with a version that deals with the change, and not with any version."""
    workspace = deployed.deploy(tmp_path / "site")
    version = deployed.candidate(workspace)
    with workspace.store.transaction() as connection:
        episodes.open_alarm(connection, monitor="embedding", shift="undetermined", at_case=9, since_case=1,
                            statistic=3.0, threshold=2.0, score=7.0, evidence={}, at=workspace.now())  # fmt: skip
        set_trust(connection, "caution", by="homeostat", reason="an alarm", at=workspace.now())
        connection.execute("UPDATE versions SET measures = ? WHERE id = ?", (json.dumps(facts), version))
    registry.approve(workspace, version, by="ana", reason="the gates passed")
    registry.promote(workspace, version, by="ana", reason="the gates passed")
    with workspace.store.read() as connection:
        assert (episodes.open_alarms(connection) == []) == ends
        assert trust_now(connection) == ("normal" if ends else "caution")
