"""Alerts over real HTTP: one per episode, every channel for itself, nothing of a patient, no secret shown."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from agent import cli
from agent.alerting import alerts
from agent.alerting.channels import Channel
from agent.alerting.messages import NEWS, Alert, of_alarm
from agent.store import insert, journal
from agent.workspace import Workspace

START = datetime(2026, 3, 1, tzinfo=UTC)
DAY = timedelta(days=1)


class Receiver:
    """A server that keeps what it is sent and answers with `status`."""

    def __init__(self) -> None:
        self.status, self.heard, self.paths = 200, [], []  # type: ignore[var-annotated]
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                receiver.paths.append(self.path)
                receiver.heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                self.send_response(receiver.status)
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                """Quiet."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"json://127.0.0.1:{self.server.server_port}/"
        threading.Thread(target=self.server.serve_forever, args=(0.02,), daemon=True).start()

    def close(self) -> None:
        self.server.shutdown()
        self.server.server_close()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    """One channel that works."""
    made = Receiver()
    yield made
    made.close()


@pytest.fixture
def failing() -> Iterator[Receiver]:
    """One channel that answers 500."""
    made = Receiver()
    made.status = 500
    yield made
    made.close()


@pytest.fixture
def refused() -> str:
    """A channel behind which nobody listens."""
    made = Receiver()
    made.close()
    return made.url


class Site:
    """A workspace whose clock stands where the test puts it."""

    def __init__(self, root: Path, channels: list[str]) -> None:
        self.now = START
        self.workspace = Workspace.create(root, clock=lambda: self.now)
        (root / "homeostat.yaml").write_text(json.dumps({"alerts": {"channels": channels, "remind_every": "7d"}}))

    def alarm(self, **values: Any) -> int:
        row = {
            "monitor": "embedding",
            "shift": "undetermined",
            "state": "open",
            "opened_at": "2026-03-01T00:00:00.000000Z",
            "opened_at_case": 40,
            "since_case": 31,
            "statistic": 2.5,
            "threshold": 5.9,
            "score": 6.1,
            "evidence": '{"window": 50}',
        }
        with self.workspace.store.transaction() as connection:
            return insert(connection, "alarms", **(row | values))

    def step(self, later: timedelta = timedelta(0)) -> list[bool]:
        """Moves the clock, delivers, and returns which sendings succeeded."""
        self.now += later
        return [told["ok"] for told in alerts.deliver(self.workspace)]

    def events(self, name: str) -> list[dict[str, Any]]:
        with self.workspace.store.read() as connection:
            rows = connection.execute("SELECT body FROM journal WHERE event = :name ORDER BY seq", {"name": name})
            return [json.loads(row["body"]) for row in rows]


def test_an_episode_is_told_once_with_evidence_and_the_next_step(receiver: Receiver, tmp_path: Path) -> None:
    """However often the daemon steps, an open alarm is one message, and it says what to do."""
    site = Site(tmp_path / "north", [receiver.url])
    number = site.alarm()
    assert [site.step(), site.step(), site.step(DAY)] == [[True], [], []]
    (message,) = receiver.heard
    assert message["title"] == f"[north] alarm {number} (embedding)"
    for said in ("undetermined", "Since: case 31", "score 6.1", "window 50", f"homeostat alarms ack {number}"):
        assert said in message["message"]
    site.alarm(shift=None, monitor="volume", since_case=None)
    assert site.step() == [True]
    assert "the flow of cases changed" in receiver.heard[1]["message"]


def test_an_alarm_tells_what_it_may_cost(receiver: Receiver, tmp_path: Path) -> None:
    """The worst estimate of the accuracy with its band, where there is one, and that it approves nothing."""
    site = Site(tmp_path / "w", [receiver.url])
    one = {"before": 0.921, "now": 0.812, "low": 0.743, "high": 0.881, "patients": 60}
    site.alarm(evidence=json.dumps({"estimated": {"ATC": one | {"now": 0.9}, "CBPE": one}}))
    site.alarm(evidence=json.dumps({"estimated": {}}))
    assert site.step() == [True, True]
    with_it, without = (heard["message"] for heard in receiver.heard)
    assert (
        "Estimated accuracy 0.81 (0.74 to 0.88) against 0.92 at approval, without labels (CBPE, 60 patients)" in with_it
    )
    assert "approves nothing" in with_it
    assert "stimated" not in without


def test_one_failing_channel_never_silences_the_next(
    receiver: Receiver, failing: Receiver, refused: str, tmp_path: Path
) -> None:
    """Refused, unknown, unset and failing channels come first; the one that works is told all the same."""
    channels = [refused, "nonsense://x", "json://${NOT_SET_ANYWHERE}/", "file:none", failing.url, receiver.url]
    site = Site(tmp_path / "w", channels)
    site.alarm()
    assert site.step() == [False, False, False, False, False, True]
    assert len(receiver.heard) == len(failing.heard) == 1
    says = [event["says"] for event in site.events("alert_failed")]
    assert len(says) == 5 and all(says)
    assert "NOT_SET_ANYWHERE is not set" in says[2]
    assert len(site.events("alert_sent")) == 1


def test_a_failed_channel_is_tried_again_alone_and_later_each_time(
    receiver: Receiver, failing: Receiver, tmp_path: Path
) -> None:
    """After 1, 2, 4 minutes, and never sooner; the channel that was told is left in peace."""
    site = Site(tmp_path / "w", [failing.url, receiver.url])
    site.alarm()
    minute = timedelta(minutes=1)
    assert [site.step(later) for later in (0 * minute, minute / 2, minute / 2, minute, minute, 3 * minute)] == [
        [False, True],
        [],
        [False],
        [],
        [False],
        [],
    ]
    failing.status = 200
    assert site.step(minute) == [True]
    assert site.step(DAY) == []
    assert len(receiver.heard) == 1 and len(failing.heard) == 4


def test_a_dead_channel_is_given_up_after_a_bounded_number_of_tries(failing: Receiver, tmp_path: Path) -> None:
    """An alert doesn't try for ever: the last failure says that there is no retry."""
    site = Site(tmp_path / "w", [failing.url])
    site.alarm()
    for _ in range(alerts.ATTEMPTS + 3):
        site.step(DAY)
    failures = site.events("alert_failed")
    assert len(failures) == alerts.ATTEMPTS
    assert [event["retry_at"] is None for event in failures] == [False] * (alerts.ATTEMPTS - 1) + [True]


def test_what_was_due_survives_a_restart(failing: Receiver, tmp_path: Path) -> None:
    """The retries are in the store: another process goes on where the first one died."""
    site = Site(tmp_path / "w", [failing.url])
    site.alarm()
    site.step()
    failing.status = 200
    again = Workspace(site.workspace.root, clock=lambda: START + DAY)
    assert [told["ok"] for told in alerts.deliver(again)] == [True]


def test_an_open_alarm_is_reminded_of_and_an_acknowledged_one_is_not(receiver: Receiver, tmp_path: Path) -> None:
    """Thirty days of the same shift are few messages, and none after somebody has seen it."""
    site = Site(tmp_path / "w", [receiver.url])
    number = site.alarm()
    for _ in range(30):
        site.step(DAY)
    assert len(receiver.heard) == 5
    assert receiver.heard[-1]["title"].startswith("[w] Reminder: alarm")
    with site.workspace.store.transaction() as connection:
        connection.execute("UPDATE alarms SET state = 'acknowledged' WHERE id = :id", {"id": number})
    for _ in range(30):
        site.step(DAY)
    assert len(receiver.heard) == 5


@pytest.mark.parametrize("event", NEWS)
def test_what_asks_for_a_person_is_told_from_the_journal(event: str, receiver: Receiver, tmp_path: Path) -> None:
    """A rollback, a candidate that waits, a failed update: told once, without the reason that the event carries."""
    site = Site(tmp_path / "w", [receiver.url])
    body = {"version": "v1", "previous": "v0", "job": "j1", "alarm": 3, "monitor": "embedding", "reason": "MUELLER"}
    body |= {"says": "X^Y", "names": 2}
    if event != "monitor_failed":
        del body["monitor"]
    with site.workspace.store.transaction() as connection:
        version = {"number": 1, "id": "v1", "state": "candidate", "recipe": "r", "created_at": "", "plan_digest": ""}
        insert(connection, "versions", base_digest="", **version)
        journal.append(connection, "cases_observed", at=START, by="homeostat")
        journal.append(connection, event, at=START, by="homeostat", body=body)
    assert [site.step(), site.step()] == [[True], []]
    (message,) = receiver.heard
    assert "{" not in str(message["title"]) + message["message"] and "Next: " in message["message"]
    assert "MUELLER" not in str(message) and "X^Y" not in str(message)
    with site.workspace.store.transaction() as connection:
        journal.append(connection, event, at=START, by="homeostat", body=body)
    assert site.step() == ([] if event == "monitor_failed" else [True])


def test_a_candidate_that_was_refused_asks_nobody(receiver: Receiver, tmp_path: Path) -> None:
    """Judged and rejected, nothing waits for a person."""
    site = Site(tmp_path / "w", [receiver.url])
    with site.workspace.store.transaction() as connection:
        version = {"number": 1, "id": "v1", "state": "rejected", "recipe": "r", "created_at": "", "plan_digest": ""}
        insert(connection, "versions", base_digest="", **version)
        journal.append(connection, "version_judged", at=START, by="homeostat", body={"version": "v1"})
    assert site.step() == []


def test_without_channels_nothing_waits(receiver: Receiver, tmp_path: Path) -> None:
    """A channel that is added a year later isn't flooded with what is long over, but hears of what is open."""
    site = Site(tmp_path / "w", [])
    with site.workspace.store.transaction() as connection:
        body = {"version": "v1", "previous": "v0"}
        journal.append(connection, "version_promoted", at=START, by="homeostat", body=body)
    site.alarm()
    assert site.step() == []
    (site.workspace.root / "homeostat.yaml").write_text(json.dumps({"alerts": {"channels": [receiver.url]}}))
    site.workspace = Workspace(site.workspace.root, clock=lambda: START)
    assert site.step() == [True]
    assert "alarm 1" in receiver.heard[0]["title"]


def test_no_text_of_the_evidence_leaves_the_house(receiver: Receiver, tmp_path: Path) -> None:
    """Names in a monitor's evidence, planted here, reach neither a channel nor the journal."""
    site = Site(tmp_path / "w", [receiver.url])
    site.alarm(evidence=json.dumps({"case": "MUELLER^HANS", "log_e": {"MUELLER": 1}, "n": 9, "far": True}))
    site.step()
    assert "n 9" in receiver.heard[0]["message"]
    assert "MUELLER" not in json.dumps(receiver.heard) + json.dumps(site.events("alert_sent"))
    with pytest.raises(TypeError, match="must be a number"):
        Alert(title="t", what="w", evidence={"who": "MUELLER"}, next_step="n")  # type: ignore[dict-item]


def test_secrets_come_from_environment_and_file_and_are_shown_to_nobody(
    receiver: Receiver, failing: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    """`alerts test` reaches the server with the secret, and answers without it; exit 1 since one channel failed."""
    monkeypatch.setenv("HOOK_TOKEN", "hush-hush")
    site = Site(tmp_path / "w", [f"{receiver.url}${{HOOK_TOKEN}}", "file:hook.url"])
    (site.workspace.root / "hook.url").write_text(f"{failing.url}in-a-file?to=x\n")
    assert cli.main(["alerts", "test", "--json", "--workspace", str(site.workspace.root)]) == 1
    out, err = capsys.readouterr()
    first, second = json.loads(out)
    assert receiver.paths == ["/hush-hush"] and failing.paths == ["/in-a-file"]
    assert "TEST" in receiver.heard[0]["title"]
    assert (first["ok"], second["ok"]) == (True, False)
    assert first["channel"].startswith("json://127.0.0.1") and "500" in second["says"]
    assert "hush" not in out + err and "in-a-file" not in out + err


def test_a_password_in_the_config_is_masked(receiver: Receiver, tmp_path: Path) -> None:
    """A URL with a password in clear is shown without it, whether it works or not."""
    channel = Channel(receiver.url.replace("json://", "json://user:pass-word@"), tmp_path)
    assert "pass-word" not in channel.label
    told = channel.send("t", "x")
    assert told["ok"]
    assert "pass-word" not in str(told) and "127.0.0.1" in told["channel"]


def test_alerts_test_without_channels_says_how_to_add_one(tmp_path: Path, capsys: Any) -> None:
    """Nothing to test is not a failure."""
    site = Site(tmp_path / "w", [])
    assert cli.main(["alerts", "test", "--workspace", str(site.workspace.root)]) == 0
    assert "alerts.channels" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("monitor", "shift", "evidence", "said"),
    [
        ("quality", "undetermined", {"measure": "sharpness"}, "of their images, sharpness moved most"),
        ("schema", None, {"column": "age"}, "cases come in another form (age)"),
        ("schema", None, {"intake": "unreadable"}, "more of what comes is 'unreadable' at the intake"),
        ("volume", None, {}, "the flow of cases changed"),
    ],
)
def test_an_alert_says_what_moved(monitor: str, shift: str | None, evidence: dict, said: str) -> None:
    """The measure of the images, the column, or the flow itself: a physicist knows where to look first."""
    row = {"id": 1, "monitor": monitor, "shift": shift, "stream": "known", "since_case": 3, "opened_at_case": 9,
           "score": 6.0, "statistic": 2.0, "threshold": 5.9, "evidence": json.dumps(evidence)}  # fmt: skip
    assert said in of_alarm(row).text()
