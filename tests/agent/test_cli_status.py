"""status, alarms, journal, suspend and resume, over a real store."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from agent import cli
from agent.commands import status
from agent.store import insert
from agent.store import journal as events
from agent.trust import set_trust, suspend_domains, trust_now
from agent.versions import registry
from agent.versions.pointer import read as read_pointer
from agent.workspace import Workspace, get_setting, put_setting

AT = datetime(2026, 3, 1, tzinfo=UTC)
NOW = "2026-03-01T00:00:00.000000Z"


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    """A deployment with v0 live and nothing seen."""
    made = Workspace.create(tmp_path / "w", clock=lambda: AT)
    with made.store.transaction() as connection:
        registry.register_base(connection, digest="d0", base_digest="b", plan_digest="p", by="init", at=AT)
    return made


def call(workspace: Workspace, capsys: pytest.CaptureFixture[str], *argv: str, code: int = 0) -> Any:
    """The JSON answer of a command that ends with `code`."""
    capsys.readouterr()
    assert cli.main([*argv, "--json", "--workspace", str(workspace.root)]) == code
    out = capsys.readouterr().out
    return json.loads(out) if out else None


def alarm(workspace: Workspace, state: str = "open", shift: str | None = "undetermined", **values: Any) -> int:
    row = {
        "monitor": "embedding",
        "shift": shift,
        "state": state,
        "opened_at": NOW,
        "opened_at_case": 40,
        "since_case": 31,
        "statistic": 2.5,
        "threshold": 5.9,
        "score": 6.1,
        "evidence": "{}",
    }
    with workspace.store.transaction() as connection:
        return insert(connection, "alarms", **(row | values))


def case(connection: Any, name: str, *, origin: str = "feed", number: int | None = None, label: bool = False) -> None:
    connection.execute("INSERT OR IGNORE INTO patients VALUES ('p', 'judge', :at)", {"at": NOW})
    insert(
        connection, "cases", case_id=name, origin=origin, state="observed", patient_key="p", received_at=NOW, facts="{}"
    )
    if number is not None:
        insert(
            connection,
            "observations",
            number=number,
            case_id=name,
            version="v0",
            role="live",
            form="scores",
            output_digest="o",
            scores=b"",
            sensor="s",
            embedding=b"",
            trust="normal",
            abstained=0,
            at=NOW,
        )
    if label:
        insert(connection, "labels", case_id=name, kind="class", value="a", received_at=NOW, arm="import")


def test_status_of_a_new_deployment_has_exactly_the_fields_of_the_contract(workspace, capsys) -> None:  # type: ignore[no-untyped-def]
    """People script against these names."""
    assert call(workspace, capsys, "status") == {
        "live": "v0",
        "previous": None,
        "sealed": False,
        "state": "active",
        "trust": "normal",
        "doubted": None,
        "suspended": [],
        "cases": {"seen": 0, "quarantined": 0, "labelled": 0},
        "drift": {"state": "stable", "shift": None, "since_case": None},
        "unknown_classes": [],
        "alarms_open": 0,
        "jobs": [],
    }


def test_status_counts_what_was_fed_and_not_the_reference(workspace, capsys) -> None:  # type: ignore[no-untyped-def]
    """Labels of the reference came with it and say nothing of the stream; quarantined names are counted."""
    with workspace.store.transaction() as connection:
        case(connection, "reference", origin="reference", label=True)
        for i in range(1, 6):
            case(connection, f"case-{i}", number=i, label=i <= 2)
        case(connection, "pending")
        insert(connection, "quarantine", name="x", reason="unreadable", at=NOW)
    assert call(workspace, capsys, "status")["cases"] == {"seen": 5, "quarantined": 1, "labelled": 2}


def test_status_reads_no_column_of_observations_but_an_index(workspace) -> None:  # type: ignore[no-untyped-def]
    """With a million cases `status` must stay cheap: no query scans the tables of cases or observations."""
    with workspace.store.read() as connection:
        for query in (status.SEEN, status.LABELLED, status.QUARANTINED):
            plan = [row["detail"] for row in connection.execute(f"EXPLAIN QUERY PLAN {query}")]
            for step in plan:
                scans = step.startswith("SCAN ") and step.split()[1] in ("cases", "c", "observations", "labels", "l")
                assert not scans or "INDEX" in step, plan


def test_drift_names_the_shift_that_goes_on(workspace, capsys) -> None:  # type: ignore[no-untyped-def]
    """Closed episodes are over; a change of volume is no drift; far-out cases come second to a shift of all."""
    alarm(workspace, state="closed")
    alarm(workspace, shift=None, monitor="volume")
    assert call(workspace, capsys, "status")["drift"]["state"] == "stable"
    alarm(workspace, shift="far-out", monitor="far-out", since_case=None, opened_at_case=50)
    assert call(workspace, capsys, "status")["drift"] == {"state": "drift", "shift": "far-out", "since_case": 50}
    alarm(workspace, state="acknowledged")
    found = call(workspace, capsys, "status")
    assert found["drift"] == {"state": "drift", "shift": "undetermined", "since_case": 31}
    assert found["alarms_open"] == 2


def test_alarms_come_oldest_first_and_closed_ones_on_request(workspace, capsys) -> None:  # type: ignore[no-untyped-def]
    """The fields of the contract, and nothing that ended unless asked for."""
    first, second = alarm(workspace, state="closed"), alarm(workspace, shift=None)
    (only,) = call(workspace, capsys, "alarms")
    assert only == {
        "id": second,
        "monitor": "embedding",
        "stream": "known",
        "shift": None,
        "state": "open",
        "opened_at": NOW,
        "opened_at_case": 40,
        "statistic": 2.5,
        "threshold": 5.9,
        "score": 6.1,
    }
    assert [row["id"] for row in call(workspace, capsys, "alarms", "--all")] == [first, second]


def test_acknowledging_an_alarm_is_recorded_once(workspace, capsys) -> None:  # type: ignore[no-untyped-def]
    """Who saw it is kept; a second acknowledgement changes nothing and answers no."""
    number = str(alarm(workspace))
    (row,) = call(workspace, capsys, "alarms", "ack", number, "--by", "Ada")
    assert row["state"] == "acknowledged"
    assert call(workspace, capsys, "alarms", "ack", number, "--by", "Bob", code=1) is None
    last = call(workspace, capsys, "journal")[-1]
    assert (last["event"], last["by"], last["body"]) == ("alarm_acknowledged", "Ada", {"alarm": int(number)})


@pytest.mark.parametrize("argv", [["ack"], ["ack", "7", "--by", "Ada"], ["ack", "1"]])
def test_acknowledging_needs_an_alarm_and_a_name(argv: list[str], workspace, capsys) -> None:  # type: ignore[no-untyped-def]
    """Half a call is refused with exit 2 and changes nothing."""
    assert call(workspace, capsys, "alarms", *argv, code=2) is None
    assert [event["event"] for event in call(workspace, capsys, "journal")] == ["version_deployed"]


def test_journal_continues_after_the_last_number_seen(workspace, capsys) -> None:  # type: ignore[no-untyped-def]
    """A poller that asks with the last number it has seen gets each event once."""
    with workspace.store.transaction() as connection:
        for i in range(3):
            events.append(connection, "tick_read", at=AT, by="test", body={"i": i})
    seen = call(workspace, capsys, "journal", "--since", "2")
    assert [(row["seq"], row["body"]) for row in seen] == [(3, {"i": 1}), (4, {"i": 2})]
    assert set(seen[0]) >= {"seq", "at", "event", "by"}
    assert call(workspace, capsys, "journal", "--since", "4") == []


def test_suspend_reaches_the_pointer_and_resume_takes_it_back(workspace, capsys) -> None:  # type: ignore[no-untyped-def]
    """Whoever serves reads trust from live.json; both decisions stand in the journal with name and reason."""
    who = ("--by", "Ada", "--reason", "new scanner")
    assert call(workspace, capsys, "suspend", *who) == {"state": "active", "trust": "suspended"}
    assert read_pointer(workspace.root / "live.json").trust == "suspended"
    assert call(workspace, capsys, "status")["trust"] == "suspended"
    with workspace.store.transaction() as connection:
        put_setting(connection, "automatic_promotion", False)
    assert call(workspace, capsys, "status")["state"] == "paused"
    assert call(workspace, capsys, "resume", *who) == {"state": "active", "trust": "normal"}
    assert read_pointer(workspace.root / "live.json").trust == "normal"
    told = [(row["event"], row["by"], row["body"]["reason"]) for row in call(workspace, capsys, "journal")[1:]]
    assert told == [
        (event, "Ada", "new scanner") for event in ("suspended", "trust_changed", "resumed", "trust_changed")
    ]


def test_a_suspended_site_is_named_and_resume_lifts_it(workspace, capsys) -> None:  # type: ignore[no-untyped-def]
    """A person who knows better has the last word; both stand in the journal."""
    with workspace.store.transaction() as connection:
        suspend_domains(connection, "v0", ["main/C"], by="homeostat", reason="labels", at=workspace.now())
    assert call(workspace, capsys, "status")["suspended"] == ["main/C"]
    cli.main(["--workspace", str(workspace.root), "status"])
    assert "suspended for main/C: labels show harm" in capsys.readouterr().out
    call(workspace, capsys, "resume", "--by", "Ada", "--reason", "the labels were of another machine")
    assert call(workspace, capsys, "status")["suspended"] == []
    assert list(read_pointer(workspace.root / "live.json").suspended) == []
    assert "domains_restored" in [row["event"] for row in call(workspace, capsys, "journal")]


def chart(workspace: Workspace, *names: str) -> None:
    with workspace.store.transaction() as connection:
        for name in names:
            insert(connection, "monitor_state", epoch=1, monitor=name, key="mean", value=b"")


def charts(workspace: Workspace) -> list[str]:
    with workspace.store.read() as connection:
        return [row["monitor"] for row in connection.execute("SELECT monitor FROM monitor_state ORDER BY monitor")]


@pytest.mark.parametrize(
    ("ended", "left"),
    [
        ("schema", ["embedding", "embedding:new", "far-out", "volume"]),
        ("home", ["embedding:new", "far-out", "schema", "volume"]),
        ("new", ["embedding", "far-out", "schema", "volume"]),
        ("far", ["embedding", "embedding:new", "schema", "volume"]),
    ],
)
def test_resume_may_end_one_alarm(ended, left, workspace, capsys) -> None:  # type: ignore[no-untyped-def]
    """Its charts begin anew; the others' alarms and charts go on, and nothing else is resumed. Who and why is kept."""
    workspace.path("homeostat.yaml").write_text("{}")
    ids = {
        "schema": alarm(workspace, shift=None, monitor="schema", stream="all"),
        "home": alarm(workspace),
        "new": alarm(workspace, stream="new", shift="acquisition"),
        "far": alarm(workspace, shift="far-out", monitor="far-out"),
    }
    chart(workspace, "embedding", "embedding:new", "far-out", "schema", "volume")
    with workspace.store.transaction() as connection:
        put_setting(connection, "automatic_promotion", False)
        set_trust(connection, "caution", by="homeostat", reason="an alarm", at=AT)
    who = ("--by", "Ada", "--reason", "the archive is mended")
    answer = call(workspace, capsys, "resume", "--alarm", str(ids[ended]), *who)
    assert answer == {"state": "paused", "trust": "caution"}
    assert [row["id"] for row in call(workspace, capsys, "alarms")] == [i for i in ids.values() if i != ids[ended]]
    assert charts(workspace) == left
    last = call(workspace, capsys, "journal")[-1]
    assert (last["event"], last["by"]) == ("alarm_closed", "Ada")
    assert last["body"] == {"alarm": ids[ended], "because": "resumed: the archive is mended"}
    assert call(workspace, capsys, "resume", "--alarm", str(ids[ended]), *who, code=1) is None
    assert call(workspace, capsys, "resume", "--alarm", "99", *who, code=2) is None


def test_trust_after_one_alarm_is_what_the_others_ask_for(workspace, capsys) -> None:  # type: ignore[no-untyped-def]
    """Suspended for a manifestation, which ends: caution, for a shift that goes on, even if it was named a harmless one
    since; and normal once that has ended too."""
    workspace.path("homeostat.yaml").write_text("plan: {responses: {prevalence: {trust: normal}}}")
    worst, other = alarm(workspace, shift="manifestation"), alarm(workspace, stream="new", shift="prevalence")
    with workspace.store.transaction() as connection:
        set_trust(connection, "suspended", by="homeostat", reason="an alarm", at=AT)
        body = {"alarm": other, "shift": "prevalence", "was": "undetermined", "says": ""}
        events.append(connection, "alarm_named", at=AT, by="homeostat", body=body)
    who = ("--by", "Ada", "--reason", "seen")
    assert call(workspace, capsys, "resume", "--alarm", str(worst), *who)["trust"] == "caution"
    assert read_pointer(workspace.root / "live.json").trust == "caution"
    assert call(workspace, capsys, "resume", "--alarm", str(other), *who)["trust"] == "normal"


@pytest.mark.parametrize(("resumed", "trust"), [(False, "suspended"), (True, "normal")])
def test_one_alarm_less_gives_nothing_back_that_a_person_took(resumed, trust, workspace, capsys) -> None:  # type: ignore[no-untyped-def]
    """`suspend` stands until `resume`, whatever alarms end meanwhile; what was given back is not held against it."""
    workspace.path("homeostat.yaml").write_text("{}")
    who = ("--by", "Ada", "--reason", "seen")
    call(workspace, capsys, "suspend", *who)
    if resumed:
        call(workspace, capsys, "resume", *who)
    number = alarm(workspace)
    with workspace.store.transaction() as connection:
        if resumed:
            set_trust(connection, "caution", by="homeostat", reason="an alarm", at=AT)
    assert call(workspace, capsys, "resume", "--alarm", str(number), *who)["trust"] == trust


def test_people_get_the_same_facts_in_lines(workspace, capsys) -> None:  # type: ignore[no-untyped-def]
    """Without --json: what is live, the drift since which case, and what waits for a person."""
    alarm(workspace)
    with workspace.store.transaction() as connection:
        put_setting(connection, "automatic_promotion", False)
        insert(
            connection,
            "jobs",
            id="j1",
            kind="update",
            spec_digest="s",
            state="running",
            attempt=1,
            created_at=NOW,
        )
    assert cli.main(["status", "--workspace", str(workspace.root)]) == 0
    out = capsys.readouterr().out
    for said in ("v0 (paused)", "undetermined since case 31", "1 open", "j1 (update)", "homeostat resume"):
        assert said in out
    assert cli.main(["alarms", "--workspace", str(workspace.root)]) == 0
    assert "embedding" in capsys.readouterr().out
    assert cli.main(["journal", "--workspace", str(workspace.root)]) == 0
    assert "version_deployed" in capsys.readouterr().out


def test_trust_is_journaled_when_it_changes_and_only_then(workspace) -> None:  # type: ignore[no-untyped-def]
    """The daemon sets it at every decision; the record holds the changes. An unknown word is refused."""
    with workspace.store.transaction() as connection:
        changed = [set_trust(connection, t, by="x", reason="r", at=AT) for t in ("normal", "caution", "caution")]
        assert changed == [False, True, False]
        assert trust_now(connection) == get_setting(connection, "trust") == "caution"
        with pytest.raises(ValueError, match="normal, caution, suspended"):
            set_trust(connection, "fine", by="x", reason="r", at=AT)
        assert connection.execute("SELECT count(*) FROM journal WHERE event = 'trust_changed'").fetchone()[0] == 1
