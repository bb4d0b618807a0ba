"""Anchor sets: generations never change, hold fresh patients only, and every look is paid for."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stocked import add_case, stock

from agent.updates import anchors
from agent.updates.material import patients
from monitors import spend


@pytest.fixture
def workspace(tmp_path):
    return stock(tmp_path / "site")


def add(workspace, names, **facts) -> None:
    with workspace.store.transaction() as connection:
        for name in names:
            add_case(connection, workspace, name, **facts)


def open_all(workspace, least=10) -> list[anchors.AnchorSet]:
    with workspace.store.transaction() as connection:
        anchors.open_generations(connection, least=least, alpha=0.05, by="homeostat", at=workspace.now())
        return anchors.current(connection)


def members(workspace) -> dict[tuple[str, int], set[str]]:
    with workspace.store.read() as connection:
        found: dict[tuple[str, int], set[str]] = {}
        for row in connection.execute("SELECT domain, generation, case_id FROM anchor_members"):
            found.setdefault((row["domain"], row["generation"]), set()).add(row["case_id"])
        return found


def test_a_set_opens_at_so_many_patients_of_the_judge_split(workspace):
    """Nine patients open none, ten do; cases of other splits, without labels, or doubled don't count."""
    add(workspace, [f"c{i}" for i in range(9)])
    add(workspace, ["again"], patient="patient of c0")
    add(workspace, ["t", "u"], split="train")
    add(workspace, ["d"], split="develop")
    add(workspace, ["unlabelled"], label=None)
    add(workspace, ["alias"], alias_of="c0")
    assert open_all(workspace) == []
    add(workspace, ["c9"])
    (only,) = open_all(workspace)
    assert (only.domain, only.generation, only.looks) == ("home", 1, 0)
    assert patients(only.cases) == 10 and len(only.cases) == 11
    assert {case["case_id"] for case in only.cases} == {*(f"c{i}" for i in range(10)), "again"}


def look_at(workspace, one: anchors.AnchorSet, version: str, passed: bool = False) -> float:
    alpha = spend(0.05, one.looks + 1, one.carried)
    with workspace.store.transaction() as connection:
        anchors.look(connection, one, version=version, alpha=alpha, passed=passed, at=workspace.now())
    return alpha


def test_a_small_set_grows_by_half_and_goes_on_with_the_alpha_it_has_left(workspace):
    """Twenty patients decide little: the next candidate is judged on them and on the fresh ones."""
    add(workspace, [f"c{i}" for i in range(12)])
    (one,) = open_all(workspace)
    look_at(workspace, one, "v1")
    first = members(workspace)["home", 1]
    add(workspace, [f"late{i}" for i in range(5)], patient="patient of c3")  # a patient who is used already
    add(workspace, [f"d{i}" for i in range(5)])
    assert open_all(workspace)[0].generation == 1, "half as many fresh patients as there are, are needed"
    add(workspace, ["d5"])
    (second,) = open_all(workspace)
    assert (second.generation, second.looks, second.seen_by) == (2, 1, {})
    assert {case["case_id"] for case in second.cases} == first | {f"d{i}" for i in range(6)}
    assert members(workspace)["home", 1] == first


def test_a_large_set_is_followed_by_fresh_patients_with_fresh_alpha(workspace):
    """A candidate is never judged twice on what an earlier one was chosen by."""
    add(workspace, [f"c{i}" for i in range(100)])
    look_at(workspace, open_all(workspace)[0], "v1")
    add(workspace, [f"d{i}" for i in range(99)])
    assert open_all(workspace)[0].generation == 1
    add(workspace, ["d99"])
    (second,) = open_all(workspace)
    assert (second.generation, second.looks) == (2, 0)
    assert {case["case_id"] for case in second.cases} == {f"d{i}" for i in range(100)}


def test_domains_have_sets_of_their_own(workspace):
    """A new hospital's anchors open without touching the old one's."""
    add(workspace, [f"c{i}" for i in range(10)])
    open_all(workspace)
    add(workspace, [f"n{i}" for i in range(10)], domain="hillside")
    assert [(one.domain, one.generation) for one in open_all(workspace)] == [("hillside", 1), ("home", 1)]


def test_every_look_is_recorded_and_alpha_is_never_overspent(workspace):
    """However many candidates are judged on one set, their error rates sum to no more than the plan's alpha."""
    add(workspace, [f"c{i}" for i in range(10)])
    (one,) = open_all(workspace)
    spent = []
    for look in range(1, 12):
        assert one.looks == len(one.seen_by) == look - 1
        look_at(workspace, one, f"v{look}")
        with workspace.store.read() as connection:
            (one,) = anchors.current(connection)
            spent.append(connection.execute("SELECT spent FROM anchor_sets").fetchone()[0])
    assert spent == sorted(spent) and spent[-1] <= 0.05
    with workspace.store.read() as connection:
        looks = connection.execute("SELECT sum(alpha) AS alpha, count(*) AS n FROM looks").fetchone()
    assert looks["n"] == 11 and looks["alpha"] == pytest.approx(spent[-1])


def test_a_look_that_shows_no_harm_hands_its_alpha_on(workspace):
    """A site whose updates are good can go on updating for years; one bad try costs what it was tried at."""
    add(workspace, [f"c{i}" for i in range(10)])
    levels = []
    for look, passed in enumerate((True, True, False, False), 1):
        (one,) = open_all(workspace)
        levels.append(look_at(workspace, one, f"v{look}", passed))
    assert levels == pytest.approx([0.025, 0.0375, 0.04375, 0.003125])
    with workspace.store.read() as connection:
        assert connection.execute("SELECT spent FROM anchor_sets").fetchone()[0] == pytest.approx(0.046875)


@settings(max_examples=15, deadline=None)
@given(st.lists(st.lists(st.tuples(st.integers(0, 60), st.sampled_from("xy")), max_size=25), max_size=8))
def test_no_patient_is_looked_at_beyond_the_plans_alpha(tmp_path_factory, arrivals):
    """Whatever comes in whatever order, over all generations that a patient is in."""
    workspace, number = stock(tmp_path_factory.mktemp("anchors") / "site"), 0
    for step, arrival in enumerate(arrivals):
        for patient, domain in arrival:
            number += 1
            add(workspace, [f"c{number}"], patient=f"p{patient}", domain=domain)
        for one in open_all(workspace, least=3):
            look_at(workspace, one, f"v{step}")
    with workspace.store.read() as connection:
        spent = connection.execute(
            """SELECT sum(alpha) AS alpha FROM
                 (SELECT DISTINCT m.domain, c.patient_key, l.id, l.alpha FROM anchor_members m
                  JOIN cases c ON c.case_id = m.case_id
                  JOIN looks l ON l.domain = m.domain AND l.generation = m.generation)
               GROUP BY domain, patient_key"""
        ).fetchall()
        sets = connection.execute("SELECT spent FROM anchor_sets").fetchall()
    assert all(row["alpha"] <= 0.05 for row in spent)
    assert all(row["spent"] <= 0.05 for row in sets)
