"""An alarm about the feed ends by itself once cases come as they did before, and not while they don't."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import deployed
import numpy as np
import pytest

from agent import cli
from agent.alerting.messages import news
from agent.clock import rfc3339
from agent.drift.detect import Detector
from agent.drift.reference import open_epoch
from agent.observe import record
from agent.store import Connection, insert
from agent.workspace import Workspace, put_setting
from benchmarks.drift.worlds import World

WORLD = World(seed=3, dim=12)
FIRST = datetime(2026, 3, 2, 9, tzinfo=UTC)  # a Monday
STREAM, KNOWN = WORLD.stream(1200, (0, 0), None), 200


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = deployed.deploy(tmp_path / "site")
    workspace.path("homeostat.yaml").write_text("{}")
    parts: dict[str, str] = {}
    with workspace.store.transaction() as connection:
        put_setting(connection, "classes", ["a", "b"])
        put_setting(connection, "sensor", "base:x")
        for i in range(KNOWN):
            parts[see(connection, i, FIRST, age=True, live=False)] = "transform" if i < 60 else "calibrate"
        open_epoch(connection, version="v0", sensor="base:x", members=parts, at=FIRST, by="test")
    return workspace


def see(connection: Connection, i: int, at: datetime, *, age: bool, live: bool = True) -> str:
    x, score = (values[KNOWN + i if live else i] for values in STREAM[:2])
    case, now = f"{'live' if live else 'known'}-{i:04}", rfc3339(at)
    connection.execute("INSERT OR IGNORE INTO patients VALUES (?, 'judge', ?)", (case, now))
    insert(connection, "cases", case_id=case, origin="feed" if live else "reference", state="observed",
           patient_key=case, domain="home", acquired_at=now, received_at=now,
           facts=json.dumps({"age": 50} if age else {}))  # fmt: skip
    record(connection, case_id=case, version="v0", role="live" if live else "replay",
           scores=np.array([1 - score, score], np.float32), embedding=x, sensor="base:x", trust="normal",
           at=at, number=i + 1 if live else None)  # fmt: skip
    return case


def play(workspace: Workspace, days: int, *, cases: int = 4, age: bool = True) -> None:
    """So many further days, of a quarter fewer or more cases than usual, are observed and decided on."""
    with workspace.store.transaction() as connection:
        row = connection.execute("SELECT value FROM settings WHERE key = 'played'").fetchone()
        start = int(row["value"]) if row else 0
        seen = connection.execute("SELECT coalesce(max(number), 0) FROM observations").fetchone()[0]
        for day in range(start, start + days):
            for hour in range(cases + (day % 3 - 1) if cases else 0):
                see(connection, seen, FIRST + timedelta(days=day, hours=hour), age=age)
                seen += 1
        put_setting(connection, "played", start + days)
    workspace.now = lambda: FIRST + timedelta(days=start + days)
    Detector(workspace).step(workspace.now())


def alarms(workspace: Workspace) -> list[tuple[str, str]]:
    with workspace.store.read() as connection:
        return [(row["monitor"], row["state"]) for row in connection.execute("SELECT * FROM alarms ORDER BY id")]


def told(workspace: Workspace) -> list[str]:
    with workspace.store.read() as connection:
        return [alert.title for _, _, alert in news(connection, 0)]


def test_a_feed_that_was_silent_and_is_back_ends_its_alarm(workspace):
    """Two months, a fortnight of nothing: an alarm. It stands for four weeks of usual days, then it ends, the journal
    says for how long, people are told, and the charts of patients go on."""
    play(workspace, 60)
    play(workspace, 14, cases=0)
    play(workspace, 20)
    assert alarms(workspace) == [("volume", "open")]
    with workspace.store.read() as connection:
        kept = connection.execute("SELECT 1 FROM monitor_state WHERE monitor = 'embedding'").fetchone()
    play(workspace, 16)
    assert alarms(workspace) == [("volume", "closed")]
    assert told(workspace) == ["alarm 1 has ended"]
    with workspace.store.read() as connection:
        (row,) = connection.execute("SELECT * FROM journal WHERE event = 'feed_restored'").fetchall()
        states = [row["monitor"] for row in connection.execute("SELECT DISTINCT monitor FROM monitor_state")]
    assert json.loads(row["body"]) == {"alarm": 1, "ticks": 28} and row["by"] == "homeostat"
    assert kept and "embedding" in states


def test_a_feed_that_stays_smaller_keeps_its_alarm(workspace):
    """A third of the cases for months: nothing is as before, however usual it has become."""
    play(workspace, 60, cases=9)
    play(workspace, 100, cases=3)
    assert alarms(workspace) == [("volume", "open")]


def test_a_column_that_comes_again_ends_its_alarm(workspace):
    """Ages are missing for a fortnight: an alarm, which ends four weeks after they are back."""
    play(workspace, 30)
    play(workspace, 14, age=False)
    play(workspace, 21)
    assert alarms(workspace) == [("schema", "open")]
    play(workspace, 21)
    assert alarms(workspace) == [("schema", "closed")]


def test_a_column_that_comes_no_more_keeps_its_alarm(workspace):
    """For ten weeks, most of the cases so far: the chart itself has got used to it, what is asked has not."""
    play(workspace, 30)
    play(workspace, 70, age=False)
    assert alarms(workspace) == [("schema", "open")]


def test_what_a_person_accepted_is_what_came_before(workspace):
    """Ages went and somebody ended that alarm; that they come again is another change, however usual they once were."""
    play(workspace, 70)
    play(workspace, 8, age=False)
    why = ("--by", "Ada", "--reason", "the archive leaves them out now")
    assert cli.main(["resume", "--alarm", "1", *why, "--workspace", str(workspace.root)]) == 0
    play(workspace, 20, age=False)
    play(workspace, 60)
    assert alarms(workspace) == [("schema", "closed"), ("schema", "open")]


def test_what_the_intake_refuses_does_not_end_by_the_form_of_what_it_takes(workspace):
    """An alarm about refused files: the cases that are taken look as ever, and say nothing of those that are not."""
    play(workspace, 30)
    play(workspace, 14, age=False)
    with workspace.store.transaction() as connection:
        connection.execute("UPDATE alarms SET evidence = json_set(evidence, '$.intake', 'unreadable')")
    play(workspace, 60)
    assert alarms(workspace) == [("schema", "open")]
