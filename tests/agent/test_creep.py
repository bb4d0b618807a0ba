"""What creeps in at home, while new scanners are learnt beside it, is seen against what home was approved on."""

from __future__ import annotations

from pathlib import Path

import deployed
import numpy as np
import pytest

from agent.clock import rfc3339
from agent.drift import episodes
from agent.drift.detect import Detector
from agent.drift.reference import approved_epoch, open_epoch
from agent.observe import record
from agent.store import insert
from agent.workspace import Workspace, put_setting

DIMENSION, STEP = 16, 0.6  # standard deviations along one direction, too few to be seen at once among so many


def see(workspace: Workspace, name: str, n: int, crept: float, *, live: bool = True) -> list[str]:
    """n patients of home's own scanner, whose images have crept so far."""
    rng, now = np.random.default_rng((len(name), n, int(100 * crept))), rfc3339(workspace.now())
    names = [f"{name}-{i:04}" for i in range(n)]
    with workspace.store.transaction() as connection:
        first = connection.execute("SELECT coalesce(max(number), 0) + 1 FROM observations").fetchone()[0]
        for i, case in enumerate(names):
            x = rng.standard_normal(DIMENSION) + crept * (np.arange(DIMENSION) == 0)
            connection.execute("INSERT OR IGNORE INTO patients VALUES (?, 'judge', ?)", (case, now))
            insert(connection, "cases", case_id=case, origin="feed" if live else "reference", state="observed",
                   patient_key=case, domain="home", received_at=now, facts="{}")  # fmt: skip
            p = float(rng.uniform(0.1, 0.9))
            record(connection, case_id=case, version="v0", role="live" if live else "replay",
                   scores=np.array([1 - p, p], np.float32), embedding=x, sensor="base:x", trust="normal",
                   at=workspace.now(), number=first + i if live else None)  # fmt: skip
    return names


def approve(workspace: Workspace, names: list[str]) -> None:
    """The next reference epoch of what is live, as one that a new scanner's labels open."""
    members = {case: "transform" if i % 3 == 0 else "calibrate" for i, case in enumerate(names)}
    with workspace.store.transaction() as connection:
        open_epoch(connection, version="v0", sensor="base:x", members=members, at=workspace.now(), by="test")


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = deployed.deploy(tmp_path / "site")
    workspace.path("homeostat.yaml").write_text("plan: {mode: observe}\n")
    with workspace.store.transaction() as connection:
        put_setting(connection, "classes", ["a", "b"])
    approve(workspace, see(workspace, "approved", 600, 0.0, live=False))
    return workspace


def alarms(workspace: Workspace) -> list[tuple[str, str]]:
    Detector(workspace).step(workspace.now())
    with workspace.store.read() as connection:
        return [(row["monitor"], row["shift"]) for row in connection.execute("SELECT monitor, shift FROM alarms")]


def test_home_that_creeps_while_scanners_are_learnt_is_an_alarm(workspace):
    """The reference moved along with a new scanner, and home looks as usual to it; against what was approved it does
    not."""
    crept = see(workspace, "spring", 600, 2 * STEP)
    with workspace.store.transaction() as connection:  # so slow that nothing was said: those days are over
        connection.execute("UPDATE observations SET tick = 1 WHERE tick IS NULL AND role = 'live'")
    approve(workspace, crept)
    see(workspace, "summer", 200, 2 * STEP)
    assert alarms(workspace) == [("creep", "undetermined")]


def test_home_that_stays_is_none(workspace):
    """Two references of an unchanged home: nothing is said by either."""
    usual = see(workspace, "spring", 600, 0.0)
    with workspace.store.transaction() as connection:
        connection.execute("UPDATE observations SET tick = 1 WHERE tick IS NULL AND role = 'live'")
    approve(workspace, usual)
    see(workspace, "summer", 200, 0.0)
    assert alarms(workspace) == []


def test_what_was_dealt_with_at_home_is_approved(workspace):
    """A shift of home that ended moves what home is held to; one of a new scanner doesn't."""
    for stream, epoch in (("new", 1), ("known", 3)):
        approve(workspace, see(workspace, f"of {stream}", 60, 0.0))
        with workspace.store.transaction() as connection:
            episodes.open_alarm(connection, monitor="embedding", shift="acquisition", stream=stream, at_case=9,
                                since_case=1, statistic=1.0, threshold=1.0, score=1.0, evidence={},
                                at=workspace.now())  # fmt: skip
            episodes.close_alarms(connection, episodes.OF_SHIFT, because="labels", by="test", at=workspace.now())
            assert approved_epoch(connection) == (epoch, "v0")


def test_a_rollback_approves_nothing(workspace):
    """What it ends, it ends because something was wrong: home is held to what it was approved on before."""
    approve(workspace, see(workspace, "later", 60, 0.0))
    with workspace.store.transaction() as connection:
        episodes.open_alarm(connection, monitor="creep", shift="undetermined", stream="known", at_case=9, since_case=1,
                            statistic=1.0, threshold=1.0, score=1.0, evidence={}, at=workspace.now())  # fmt: skip
        now = workspace.now()
        episodes.close_alarms(connection, episodes.OF_SHIFT, because="v2 was rolled back", by="ana", at=now)
        assert approved_epoch(connection) == (2, "v0"), "any other end is an approval"
        insert(connection, "activations", scope="*", generation=9, version="v0", previous="v2", at=rfc3339(now),
               by="ana", reason="complaints", how="rollback")  # fmt: skip
        assert approved_epoch(connection) == (1, "v0")
