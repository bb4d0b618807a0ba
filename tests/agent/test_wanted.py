"""Labels are asked for where they help most, and by lot, so that what they say can be said of all cases."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import deployed
import numpy as np
import pytest
from stocked import CLASSES, answered

from agent.cases.labels import join
from agent.cases.wanted import WHY_AUDIT, wanted
from agent.cli import main
from agent.clock import rfc3339
from agent.drift import episodes
from agent.drift.performance import performance, sentence
from agent.errors import HomeostatError
from agent.store import insert
from agent.workspace import Workspace, put_setting


@pytest.fixture
def workspace(tmp_path: Path) -> Workspace:
    workspace = deployed.deploy(tmp_path / "site")
    with workspace.store.transaction() as connection:
        put_setting(connection, "classes", CLASSES)
    return workspace


def see(workspace: Workspace, rng: np.random.Generator, n: int, domain: str = "home") -> dict[str, str]:
    """n patients answered live by a model that is right as often as it is sure; {case: its class}."""
    truth, now = {}, rfc3339(workspace.now())
    with workspace.store.transaction() as connection:
        first = connection.execute("SELECT coalesce(max(number), 0) + 1 FROM observations").fetchone()[0]
        for i in range(first, first + n):
            case, p = f"case-{i:05}", float(rng.beta(0.5, 0.5))
            connection.execute("INSERT INTO patients VALUES (?, 'judge', ?)", (case, now))
            insert(connection, "cases", case_id=case, origin="feed", state="observed", patient_key=case,
                   domain=domain, received_at=now, facts="{}")  # fmt: skip
            answered(connection, workspace, case, "v0", "live", (1 - p, p), number=i)
            truth[case] = CLASSES[int(rng.random() < p)]
    return truth


def bring(workspace: Workspace, cases, truth) -> None:
    with workspace.store.transaction() as connection:
        for case in cases:
            join(connection, case, truth[case], arm="import", at=workspace.now())


def test_a_quarter_is_drawn_by_lot_and_the_rest_is_where_doubt_is(workspace):
    """Fifteen of twenty are the least sure answers; five could have been anybody, and are marked as such."""
    see(workspace, np.random.default_rng(0), 200)
    rows = wanted(workspace, 20)
    lot = [row["case_id"] for row in rows if row["why"] == WHY_AUDIT]
    assert len({row["case_id"] for row in rows}) == 20 and len(lot) == 5
    with workspace.store.read() as connection:
        said = connection.execute("SELECT case_id, scores FROM observations").fetchall()
        chances = {row[0] for row in connection.execute("SELECT DISTINCT probability FROM asked WHERE arm = 'audit'")}
    sure = {row["case_id"]: float(np.frombuffer(row["scores"], "<f4").max()) for row in said}
    unsure = sorted({*sure} - {*lot}, key=sure.__getitem__)[:15]
    assert {row["case_id"] for row in rows} - {*lot} == {*unsure}
    assert chances == {5 / 200}, "drawn among all of them, doubtful ones too"


def test_what_was_asked_stays_asked_until_its_label_comes(workspace):
    """The same list until then, whoever calls; a label takes its case off and the next one's place is free."""
    truth = see(workspace, np.random.default_rng(0), 100)
    first = wanted(workspace, 8)
    assert wanted(workspace, 8) == first
    bring(workspace, [first[0]["case_id"]], truth)
    truth |= see(workspace, np.random.default_rng(1), 50)
    again = wanted(workspace, 8)
    assert again[:7] == first[1:] and again[7] not in first
    with workspace.store.read() as connection:
        (arm,) = connection.execute("SELECT arm FROM labels").fetchone()
    assert arm in ("active", "audit")


def test_cases_of_an_open_alarm_come_first(workspace):
    """Their labels end it or show harm: a fair sample of them, sure answers or not."""
    see(workspace, np.random.default_rng(0), 60)
    see(workspace, np.random.default_rng(1), 30, "elsewhere")
    with workspace.store.transaction() as connection:
        episodes.open_alarm(connection, monitor="embedding", shift="acquisition", stream="new", at_case=70,
                            since_case=61, statistic=1.0, threshold=1.0, score=1.0, evidence={},
                            at=workspace.now())  # fmt: skip
    rows = wanted(workspace, 16)
    of_alarm = [row for row in rows if row["why"] != WHY_AUDIT]
    assert len(rows) == 16 and len(of_alarm) == 12
    assert all(int(row["case_id"][-5:]) > 60 and "alarm 1" in row["why"] for row in of_alarm)
    with workspace.store.read() as connection:
        asked = connection.execute("SELECT arm, probability FROM asked ORDER BY arm, probability").fetchall()
    assert [tuple(row) for row in asked] == [("alarm", None)] * 12 + [("audit", 4 / 90)] * 4


def test_an_alarms_cases_can_be_asked_for_until_they_have_a_label(workspace):
    """One at a time, too: none is passed over for good because a call asked for few."""
    see(workspace, np.random.default_rng(1), 30, "elsewhere")
    with workspace.store.transaction() as connection:
        episodes.open_alarm(connection, monitor="embedding", shift="acquisition", stream="new", at_case=10,
                            since_case=1, statistic=1.0, threshold=1.0, score=1.0, evidence={},
                            at=workspace.now())  # fmt: skip
    asked = [row["case_id"] for n in range(1, 31) for row in wanted(workspace, n)[n - 1 :]]
    assert len(asked) == len({*asked}) == 30
    assert wanted(workspace, 40) == wanted(workspace, 30)


def test_labels_of_doubtful_cases_make_a_model_look_bad_and_the_weighted_ones_do_not(workspace):
    """Where doubt decides who is labelled, the plain accuracy is far too low; what the lot drew holds the truth."""
    rng, truth = np.random.default_rng(4), {}
    for _ in range(20):
        truth |= see(workspace, rng, 50)
        bring(workspace, [row["case_id"] for row in wanted(workspace, 16)], truth)
    with workspace.store.read() as connection:
        rows = connection.execute("SELECT case_id, scores FROM observations").fetchall()
    right = np.mean([CLASSES[np.frombuffer(r["scores"], "<f4").argmax()] == truth[r["case_id"]] for r in rows])
    found = performance(workspace)
    plain, weighted = (found[name]["accuracy"] for name in ("measured", "weighted"))
    assert plain["interval"][1] < right - 0.05, "the plain one does not even hold it in its interval"
    assert weighted["interval"][0] <= right <= weighted["interval"][1]
    assert abs(weighted["value"] - right) < abs(plain["value"] - right) / 2
    assert found["coverage"] == pytest.approx(0.32) and found["arms"] == {"active": 240, "audit": 80}
    assert "weighted to all cases" in sentence(found)


def test_sensitivity_is_not_inflated_by_who_was_flagged(workspace):
    """Only positive answers are labelled at a site: its sensitivity looks perfect and is not. The lot tells."""
    rng, truth = np.random.default_rng(100), {}
    for _ in range(10):
        seen = see(workspace, rng, 80)
        truth |= seen
        with workspace.store.read() as connection:
            rows = connection.execute("SELECT case_id, scores FROM observations").fetchall()
        answer = {row["case_id"]: CLASSES[np.frombuffer(row["scores"], "<f4").argmax()] for row in rows}
        bring(workspace, [row["case_id"] for row in wanted(workspace, 40)], truth)
        bring(workspace, [case for case in seen if answer[case] == "b"], truth)
    found = performance(workspace)
    positives = [case for case in truth if truth[case] == "b"]
    true_value = np.mean([answer[case] == "b" for case in positives])
    plain, weighted = (found[name]["by_class"]["b"]["sensitivity"] for name in ("measured", "weighted"))
    assert plain["value"] > true_value + 0.03
    assert weighted["interval"][0] <= true_value <= weighted["interval"][1]


def test_too_few_labels_say_nothing(workspace, capsys):
    """Not a number from seven patients, but how many are needed; and where nobody was asked by lot, no weighing."""
    with pytest.raises(HomeostatError, match="feed"):
        performance(workspace)
    truth = see(workspace, np.random.default_rng(0), 60)
    bring(workspace, list(truth)[:7], truth)
    workspace.path("homeostat.yaml").write_text("")
    assert main(["performance", "--json", "--workspace", str(workspace.root)]) == 3
    found = json.loads(capsys.readouterr().out)
    assert found["measured"] is None and found["labelled"] == 7
    bring(workspace, list(truth)[7:40], truth)
    assert main(["performance", "--workspace", str(workspace.root)]) == 0
    said = capsys.readouterr().out
    assert "whoever chose them" in said and "specificity" in said
    assert performance(workspace)["weighted"] is None


def test_the_command_lists_them(workspace, capsys):
    """`labels wanted` answers the contract's list; a number below 1 is refused in a sentence."""
    see(workspace, np.random.default_rng(0), 30)
    root = ["--workspace", str(workspace.root)]
    assert main(["labels", "wanted", "--n", "4", "--json", *root]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert len(rows) == 4 and {*rows[0]} == {"case_id", "why"}
    assert main(["labels", "wanted", "--n", "0", *root]) == 2
    assert "--n" in capsys.readouterr().err


def test_what_nobody_answers_gives_way(workspace):
    """After two months the list asks for others; until then it waits."""
    see(workspace, np.random.default_rng(0), 40)
    first = wanted(workspace, 6)
    start = workspace.now()
    workspace.now = lambda: start + timedelta(days=59)
    assert wanted(workspace, 6) == first
    workspace.now = lambda: start + timedelta(days=61)
    see(workspace, np.random.default_rng(1), 40)
    again = wanted(workspace, 6)
    assert len(again) == 6 and not {row["case_id"] for row in again} & {row["case_id"] for row in first}


def test_a_perfect_month_is_no_proof_of_perfection(workspace, capsys):
    """Thirty of thirty right: the interval has a width; and a window of none is refused by name."""
    truth = see(workspace, np.random.default_rng(0), 30)
    with workspace.store.read() as connection:
        rows = connection.execute("SELECT case_id, scores FROM observations").fetchall()
    bring(workspace, truth, {r["case_id"]: CLASSES[np.frombuffer(r["scores"], "<f4").argmax()] for r in rows})
    accuracy = performance(workspace)["measured"]["accuracy"]
    assert accuracy["value"] == 1.0 and 0.85 < accuracy["interval"][0] < 0.95
    assert main(["performance", "--last", "0", "--workspace", str(workspace.root)]) == 2
    assert "--last" in capsys.readouterr().err
