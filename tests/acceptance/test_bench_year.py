"""The year on trial: the year as it is drawn, the sums over it, and two months played to the letter."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from hashlib import sha256
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from agent.cases.datafolder import Row
from agent.clock import rfc3339
from agent.errors import HomeostatError
from agent.store import database
from benchmarks.year import _sites, as_if_removed, bench, figure, intervals, play_all, ratios, scored, summary
from benchmarks.year.pictures import Sites, cast, generated_sites
from benchmarks.year.play import START, Trace
from benchmarks.year.policies import AGENT, MORE, NEVER, ORACLE, POLICIES
from benchmarks.year.schedule import CONDITIONS, DAYS, FAR_OUT, HOME, KINDS, SCANNER, THIRD, Change, Shown, Year, draw
from benchmarks.year.score import score
from benchmarks.year.trial import Trial, stage

POOLS = {
    HOME: {"a": [f"h{i}" for i in range(20)], "b": [f"k{i}" for i in range(20)]},
    SCANNER: {"a": ["s0", "s1"], "b": ["s2"]},
    THIRD: {"a": ["t0"], "b": ["t1", "t2"]},
    FAR_OUT: {"": ["f0", "f1"]},
}


@given(st.integers(0, 1000))
@settings(max_examples=5, deadline=None)
def test_a_year_is_drawn_by_its_seed_alone(seed: int) -> None:
    """Some ten thousand cases, each change once, fewer cases at weekends, several images of a patient."""
    year = draw(seed, POOLS)
    assert year == draw(seed, POOLS)
    assert year != draw(seed + 1, POOLS)
    assert 9_000 < len(year.cases) < 11_000
    assert sorted(change.kind for change in year.changes) == sorted(KINDS)
    daily = Counter(case.day for case in year.cases)
    assert np.mean([daily[d] for d in range(DAYS) if d % 7 > 4]) < 0.5 * np.mean(
        [daily[d] for d in range(DAYS) if d % 7 < 5]
    )
    visits = Counter((case.day, case.patient) for case in year.cases if case.condition != FAR_OUT)
    assert 1 < np.mean(list(visits.values())) < 3
    assert [case.day for case in year.cases] == sorted(case.day for case in year.cases)


def test_changes_show_in_the_cases_while_they_last() -> None:
    """The second scanner comes to stay, the creep ends with its service, the season brings more of one class."""
    changes = [Change(SCANNER, 20, 10, 100), Change("creep", 40, 20, 60), Change("prevalence", 70, 1, 90)]
    year = draw(0, POOLS, changes, days=100)

    def share(condition: str, first: int, last: int) -> float:
        some = [case.condition for case in year.cases if first <= case.day < last]
        return some.count(condition) / len(some)

    assert share(SCANNER, 0, 20) == 0 and 0 < share(SCANNER, 20, 25) < share(SCANNER, 40, 100)
    assert share("creep6", 57, 60) > 0.3 and share("creep6", 60, 100) == 0 and share("creep1", 0, 40) == 0
    classes = [
        Counter(c.label for c in year.cases if c.condition == HOME and a <= c.day < b) for a, b in ((0, 40), (70, 90))
    ]
    often = [max(one.values()) / one.total() for one in classes]
    assert often[0] < 0.6 < 0.7 < often[1]


def test_nobody_plays_two_parts() -> None:
    """Who is held back for the truth is neither fitted on nor seen in the year."""
    rows = {
        place: {f"{place}{i}": Row(file=None, case_id="", patient_id=f"{place}{i}", label="ab"[i % 2], site=place)  # type: ignore[arg-type]
                for i in range(n)}
        for place, n in ((HOME, 300), (SCANNER, 50), (THIRD, 200))
    }  # fmt: skip
    parts = cast(Sites(("a", "b"), rows, {}), seed=0, fitted=120)
    for place in (HOME, SCANNER, THIRD):
        groups = [set(parts.held[place]), set(parts.year[place]), set(parts.fitted) if place == HOME else set()]
        assert sum(map(len, groups)) == len(set().union(*groups)) == len(rows[place])
    assert len(parts.held[SCANNER]) == 20, "two fifths of a small site at most"


def test_a_year_takes_the_three_largest_sites_of_a_folder(tmp_path: Path) -> None:
    """The largest is home; with two sites there is no third one to come, which is said in a sentence."""
    lines, number = ["file,patient_id,site,label"], 0
    for site, n in (("small", 4), ("large", 12), ("middle", 8), ("tiny", 2)):
        for _ in range(n):
            number += 1
            Image.new("RGB", (20, 20), (number, 0, 0)).save(tmp_path / f"{number}.png")
            lines.append(f"{number}.png,p{number},{site},{'ab'[number % 2]}")
    (tmp_path / "cases.csv").write_text("\n".join(lines) + "\n")
    sites, backbone = _sites(None, tmp_path, tmp_path, 0)
    assert {place: len(rows) for place, rows in sites.rows.items()} == {HOME: 12, SCANNER: 4, THIRD: 8}
    assert sites.classes == ("a", "b") and not sites.far_out and backbone == "mobilenet_v3_small"
    (tmp_path / "cases.csv").write_text("\n".join(line for line in lines if "small" not in line and "tiny" not in line))
    with pytest.raises(HomeostatError, match="labelled cases of 2 sites; a year is played over three"):
        _sites(None, tmp_path, tmp_path, 0)


def traced(policy: str, answers: list[tuple[int, str, str, str, str, bool]], **what: object) -> Trace:
    rows = [(*answer, "v0") for answer in answers]
    told = {"activations": [], "alarms": [], "trust": [], "labels": [], "training_seconds": 0.0} | what
    probability = np.full((len(rows), 2), 0.5, np.float32)
    return Trace(policy=policy, rows=rows, probability=probability, folder=None, **told)  # type: ignore[arg-type]


YEAR = Year(DAYS, (Change(SCANNER, 10, 5, DAYS),), tuple(
    Shown(f"c{i}", i, 600, HOME if i < 10 else SCANNER, "p", 0, "a") for i in range(DAYS)))  # fmt: skip


def test_silent_errors_are_wrong_answers_in_good_faith_after_a_change() -> None:
    """Before it they are the model's own; under caution nobody was misled, and what was withheld is no answer."""
    answers = [(day, HOME if day < 10 else SCANNER, "a", "b", "normal", False) for day in range(110)]
    answers[60:85] = [(*answer[:4], "caution", False) for answer in answers[60:85]]
    answers[85:95] = [(*answer[:5], True) for answer in answers[85:95]]
    answers[95:100] = [(*answer[:4], "suspended", False) for answer in answers[95:100]]
    bound = [(*answer[:3], "a", "normal", False) for answer in answers]
    truth = lambda policy, version: dict.fromkeys(CONDITIONS, 0.9)  # noqa: E731
    row = score(traced("x", answers), traced(ORACLE, bound), YEAR, truth, ("a", "b"))
    assert row["silent_errors"] == pytest.approx(600)
    assert row["errors"] == row["excess_errors"] == pytest.approx(850)
    assert row["deferred"] == pytest.approx(0.4) and row["withheld"] == pytest.approx(0.15)
    naive = score(as_if_removed(traced("x", answers), "trust"), traced(ORACLE, bound), YEAR, truth, ("a", "b"))
    assert naive["silent_errors"] == pytest.approx(1000) and naive["deferred"] == 0


def test_years_of_several_runs_are_summed_up(tmp_path: Path) -> None:
    """Twenty years are most of a day: they are played one by one, and a seed is one year, with all its policies."""
    answers = [(day, HOME, "a", "b", "normal", False) for day in range(DAYS)]
    truth = lambda policy, version: dict.fromkeys(CONDITIONS, 0.9)  # noqa: E731
    bound = traced(ORACLE, [(*answer[:3], "a", "normal", False) for answer in answers])

    def played(seed: int, *policies: str) -> list[dict[str, object]]:
        return [
            {**score(traced(name, answers), bound, YEAR, truth, ("a", "b")), "seed": seed}
            for name in ("never", "naive", AGENT, *policies)
        ]

    for name, years in (("a", [played(1)]), ("b", [played(0), played(1, "rehearsal")[3:]])):
        (tmp_path / f"{name}.json").write_text(json.dumps({"years": years}))
    found = bench(None, input=tmp_path)
    assert [(row["policy"], row["seeds"]) for row in found["rows"]] == [
        ("never", 2), ("naive", 2), (AGENT, 2), ("rehearsal", 1)
    ]  # fmt: skip
    assert found["ratios"]["agent.excess_errors_to_never"] == pytest.approx(1.0)
    (tmp_path / "c.json").write_text("{}")
    with pytest.raises(HomeostatError, match="is no answer of 'bench year --json'"):
        bench(None, input=tmp_path)


def test_a_worse_version_counts_while_it_is_live() -> None:
    """By accuracy on patients held back, in the mix of its day; and an alarm before any change is false."""
    truth = lambda policy, version: dict.fromkeys(CONDITIONS, accuracy[version if policy == "x" else "v2"])  # noqa: E731
    accuracy = {"v0": 0.7, "v1": 0.6, "v2": 0.95}
    live = [
        {"how": "promote", "day": day, "previous": before, "version": version}
        for day, before, version in ((50, "v0", "v1"), (80, "v1", "v2"))
    ]
    alarms = [{"day": day, "shift": "undetermined"} for day in (3, 20, 200)]
    trace = traced(
        "x", [(day, HOME, "a", "a", "normal", False) for day in range(DAYS)], activations=live, alarms=alarms
    )
    row = score(trace, trace, YEAR, truth, ("a", "b"))
    assert (row["worse_versions"], row["worse_days"], row["versions"]) == (1, 30, 2)
    assert row["false_alarms"] == 2
    assert row["recovery"][SCANNER] == (70, 0), "near the oracle's on day 80, by the second version"


def test_ratios_are_medians_over_the_years() -> None:
    """Of the agent's figures to the others'; worse versions as the share of years that had one."""

    def row(policy: str, silent: float, excess: float, worse: int) -> dict:
        figures = {"silent_errors": silent, "excess_errors": excess, "deferred": 0.2,
                   "withheld": 0.1, "worse_versions": worse}  # fmt: skip
        return figures | {"policy": policy, "false_alarms": 1, "recovery": {SCANNER: (5, 2) if worse else None}}

    bounds = [row(NEVER, 100, 50, 0), row("naive", 80, 40, 1)]
    years = [[*bounds, row(AGENT, 10 * k, 10, int(k > 2))] for k in (1, 2, 3)]
    assert ratios(years) == pytest.approx(
        {
            "agent.silent_errors_to_never": 0.2,
            "agent.excess_errors_to_never": 0.2,
            "agent.excess_errors_to_naive": 0.25,
            "agent.deferred": 0.2,
            "agent.withheld": 0.1,
            "agent.worse_versions_live": 1 / 3,
            "agent.false_alarms_per_year": 1,
        }
    )
    assert ratios([[row(NEVER, 100, 50, 0)]]) == {}, "an organ's year may be played without the agent's"
    without = [[bounds[0], years[0][2]], *years[1:]]
    assert ratios(without)["agent.excess_errors_to_naive"] == pytest.approx(0.25), "naive was not played in the first"
    assert ratios([[bounds[0], year[2]] for year in years]) == {}
    low, high = intervals(years)["agent.silent_errors_to_never"]
    assert 0.1 <= low < 0.2 < high <= 0.3 and intervals(years[:1]) == {}
    told = {one["policy"]: one for one in summary(years)}
    assert told[AGENT]["silent_errors_range"] == [10, 30] and told[AGENT]["recovered_scanner"] == "1/3"


def test_the_picture_is_drawn_of_what_was_played(tmp_path: Path) -> None:
    """An SVG with a row per policy, its alarms and versions; the same traces give the same bytes."""
    answers = [(day, HOME if day < 10 else SCANNER, "a", "b", "normal", False) for day in range(110)]
    live = [{"how": "promote", "day": 50, "previous": "v0", "version": "v1"}]
    alarms = [{"day": 20, "shift": "undetermined"}]
    traces = {"x": traced("x", answers, activations=live, alarms=alarms, trust=[(20, "caution"), (50, "normal")]),
              "y": traced("y", answers)}  # fmt: skip
    for name in ("one.svg", "other.svg"):
        figure.draw(YEAR, traces, {"x": "With", "y": "Without"}, tmp_path / name)
    drawn = (tmp_path / "one.svg").read_bytes()
    assert drawn == (tmp_path / "other.svg").read_bytes() and drawn.startswith(b"<?xml") and len(drawn) > 5000


def test_every_policy_has_its_own_name() -> None:
    """Five policies and the bounds, and each organ that can be removed."""
    names = [policy.name for policy in POLICIES + MORE]
    assert len(set(names)) == len(names) == 10


TWO_MONTHS = 60
EXPECTED = [
    *("alarm_opened", "trust_changed", "alarm_named", "domains_suspended"),
    *("update_decided", "version_started", "anchors_opened", "version_trained", "reference_opened", "version_judged"),
    *("version_approved", "domains_restored", "alarm_closed", "trust_changed", "version_promoted", "version_confirmed"),
]
QUIET = {"cases_observed", "labels_imported", "cases_taken_in", "job_started", "job_done"}


@pytest.fixture(scope="module")
def trial(tmp_path_factory: pytest.TempPathFactory) -> Trial:
    """Two months on generated heads: the second scanner comes on the eleventh day."""
    scratch = tmp_path_factory.mktemp("year")
    sites = generated_sites(scratch, seed=0, patients=620)
    staged = stage(sites, scratch / "trial", seed=0)
    pools = {place: sites.by_class(place, staged.cast.year[place]) for place in (HOME, SCANNER, THIRD)}
    year = draw(0, pools | {FAR_OUT: {"": ["far"]}}, [Change(SCANNER, 10, 5, TWO_MONTHS)], days=TWO_MONTHS)
    return replace(staged, year=year)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_two_months_pass_in_this_order(trial: Trial) -> None:
    """Nothing before the change; then alarm, caution and a name; first labels show harm at the new scanner, and suspend
    its answers; more of them make a candidate that every gate passes, whose promotion ends suspension, alarm and
    caution, and which stands its probation."""
    agent = next(policy for policy in POLICIES if policy.name == AGENT)
    plan = agent.config.plan
    wide = {name: rule.model_copy(update={"margin": 0.3}) for name, rule in plan.gates.items() if name != "gain"}
    labels = plan.labels.model_copy(update={"train_patients": 15, "anchor_patients": 10})
    easy = plan.model_copy(update={"gates": plan.gates | wide, "labels": labels})
    short = replace(agent, config=agent.config.model_copy(update={"plan": easy}))
    twice = [replace(short, name=name) for name in ("first", "second")]
    played = play_all(trial, "mobilenet_v3_small", twice, lambda what, done, of: None)
    traces = [played[0][name] for name in ("first", "second")]
    told = []
    for trace in traces:
        with database.Store.open(trace.folder / "homeostat.db").read() as connection:
            made = connection.execute("SELECT created_at FROM versions WHERE id = 'v0'").fetchone()["created_at"]
            events = connection.execute("SELECT at, event FROM journal WHERE at > ? ORDER BY seq", (made,)).fetchall()
            asked = connection.execute(
                "SELECT role FROM verdicts WHERE gate = 'forgetting:main/B:live' ORDER BY version"
            ).fetchall()
        told.append([(row["at"], row["event"]) for row in events if row["event"] not in QUIET])
        assert len(trace.rows) == len(trial.year.cases)
        assert made == rfc3339(START), "no label of the year came before the model, which would have learnt from it"
    assert [row["role"] for row in asked] == ["inform"], "its own cases are judged; of answers not used nothing is kept"
    assert told[0] == told[1] and traces[0].rows == traces[1].rows, "the same months again"
    assert [event for _, event in told[0]] == EXPECTED
    assert told[0][0][0] >= "2026-01-15", "the change was on that day"
    key = sha256(b"year 0").digest()
    assert (trial.folder / "site" / "key").read_bytes() == key, "pseudonyms, and so the rehearsal, follow the seed too"
    rows = {row["policy"]: row for row in scored(trial, played)}
    assert {NEVER, ORACLE, "first", "second"} <= set(rows)
    figures = [{key: value for key, value in rows[name].items() if key != "policy"} for name in ("first", "second")]
    assert figures[0] | {"training_seconds": 0} == figures[1] | {"training_seconds": 0}, "the same table again"
    assert rows[ORACLE]["excess_errors"] == 0 < rows[NEVER]["excess_errors"]
    assert rows["first"]["silent_errors"] < rows[NEVER]["silent_errors"] == rows["agent - detection"]["silent_errors"]
