"""The continual benchmark: its sums, its split, how recipes go from site to site, and avalanche on an equal budget."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from agent.demo.scanners import A, B, generate
from agent.plan import LADDER
from benchmarks.continual import JOINT, PORTFOLIO, Task, divide, fit, portfolio, ratios, table
from benchmarks.continual.figure import draw
from benchmarks.continual.ours import MEMORY, Updated
from benchmarks.continual.scores import Run, Said, scores
from benchmarks.continual.streams import HELD, Site, Stream
from strategies.recipes import RECIPES


def a_run(accuracies: list[list[float]], *, develop: float = 0.5, seconds: float = 10.0) -> Run:
    """A run of these accuracies over ten held cases a site, of which the first are right."""
    said = [
        [Said(right=np.arange(10) < round(10 * a), accuracy=a, ece=round(1 - a, 6)) for a in row] for row in accuracies
    ]
    measured = {"site": {"quality": develop, "brier": 1 - develop, "n": 100.0}}
    return Run(said=said, develop=measured, cpu_seconds=seconds, last_seconds=seconds / 2, peak_mib=100.0)


LEARNT = [[0.9, 0.4, 0.3], [0.8, 0.7, 0.5], [0.6, 0.8, 0.9]]


def test_the_numbers_of_a_run_are_the_fields() -> None:
    """Backward and forward transfer, forgetting, and the FDA's three, by hand from one matrix."""
    found = scores(a_run(LEARNT), classes=5)
    assert found["average"] == pytest.approx((0.6 + 0.8 + 0.9) / 3)
    assert found["bwt"] == pytest.approx(((0.6 - 0.9) + (0.8 - 0.7)) / 2)
    assert found["fwt"] == pytest.approx(((0.4 - 0.2) + (0.5 - 0.2)) / 2)
    assert found["forgetting"] == pytest.approx(((0.9 - 0.6) + (0.7 - 0.8)) / 2)
    assert found["learning"] == pytest.approx(((0.7 - 0.4) + (0.9 - 0.5)) / 2)
    assert found["potential"] == pytest.approx(((0.9 - 0.4) + (0.7 - 0.5)) / 2)
    weights = np.exp([-1.0, -0.5, 0.0])
    assert found["retention"] == pytest.approx(float(weights @ [0.6, 0.8, 0.9] / weights.sum()))
    assert found["negative_flips"] == pytest.approx((0.1 + 0.2 + 0.0) / 3)
    assert found["ece"] == pytest.approx((0.4 + 0.2 + 0.1) / 3)


def test_the_portfolio_is_chosen_on_develop_cases_and_pays_for_all_that_it_tried() -> None:
    """A recipe that is best on held patients only is not chosen; the seconds are those of every recipe of the plan."""
    runs = {name: [a_run(LEARNT, develop=0.4)] for name in ("frozen", *LADDER)}
    runs[LADDER[1]] = [a_run([[0.9, 0.4, 0.3]] * 3, develop=0.8)]
    runs["full_finetune"] = [a_run([[1.0, 1.0, 1.0]] * 3, develop=1.0)]
    (chosen,) = portfolio(runs)[PORTFOLIO]
    assert scores(chosen, 5)["average"] == pytest.approx((0.9 + 0.4 + 0.3) / 3)
    assert chosen.cpu_seconds == 10.0 * len(LADDER)


def test_ratios_are_against_the_best_of_avalanche_and_one_joint_training(tmp_path: Path) -> None:
    """avalanche's upper bound is not among those that the portfolio is compared with; the row of each method says by
    how much it is ahead, seed by seed; and the picture is drawn."""
    stream = Stream("wbc", tuple(Site(name, Path()) for name in "abc"), "", tuple("abcde"), 64)
    flat = [[0.5] * 3] * 3
    runs = {
        PORTFOLIO: [a_run(LEARNT, seconds=4.0), a_run(LEARNT, seconds=4.0)],
        "avalanche naive": [a_run(flat), a_run(flat)],
        "avalanche replay": [a_run([[0.6] * 3] * 3), a_run([[0.7] * 3] * 3)],
        "avalanche cumulative": [a_run([[0.9] * 3] * 3)] * 2,
        JOINT: [a_run([[0.8] * 3] * 3), a_run([[0.9] * 3] * 3)],
    }
    ours = 2.3 / 3
    found = ratios(runs, 5)
    assert found["average_to_best_avalanche"] == pytest.approx((ours / 0.6 + ours / 0.7) / 2)
    assert found["gap_to_joint"] == pytest.approx(0.85 - ours)
    assert found["forgetting"] == pytest.approx(0.1)
    assert found["seconds_to_joint"] == pytest.approx(4.0 / 5.0)
    rows = table(stream, runs)
    row = rows[0]
    assert row["to_best_avalanche_range"] == [round(ours - 0.7, 4), round(ours - 0.6, 4)]
    assert (row["sites"], row["n_held"], row["matrix"]) == (["a", "b", "c"], [10, 10, 10], LEARNT)
    draw(rows, tmp_path / "continual.svg")
    assert (tmp_path / "continual.svg").read_text(encoding="utf-8").startswith("<?xml")


@pytest.fixture(scope="module")
def sites(tmp_path_factory: pytest.TempPathFactory) -> Stream:
    """Three small generated sites, 32 pixels a side."""
    folder, start = tmp_path_factory.mktemp("sites"), datetime(2026, 1, 5, tzinfo=UTC)
    scanners = (A, B, replace(B, name="C", t2=False))
    places = [
        Site(s.name, generate(folder / s.name, scanner=s, patients=40, seed=0, start=start, size=32)) for s in scanners
    ]
    return Stream("generated", tuple(places), "mobilenet_v3_small", ("cyst", "ring", "solid"), 32, epochs=1)


def test_no_patient_is_taught_and_judged_and_rare_classes_are_not_judged(sites: Stream) -> None:
    """The parts of a site share no patient; a class with a case or two held at a site says nothing there."""
    for part in divide(sites, seed=1):
        taught, developed, judged = (
            {row.patient_id for row in some.rows} for some in (part.train, part.develop, part.judge)
        )
        assert taught and developed and judged
        assert len(taught | developed | judged) == len(taught) + len(developed) + len(judged)
        counts = np.bincount(part.judge.label)
        assert counts[counts > 0].min() >= HELD
        assert {*part.judge.domain} == {*part.train.domain} and len({*part.judge.domain}) == 1


def test_a_recipe_goes_on_from_its_parts_and_remembers_every_site_before(
    sites: Stream, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the third site it starts from the second version, with a memory of both sites that came before."""
    calls: list[dict] = []

    def run(recipe: object, **given: object) -> SimpleNamespace:
        calls.append(given)
        return SimpleNamespace(folder=given["out"])

    monkeypatch.setattr("strategies.recipes.run", run)
    monkeypatch.setattr("strategies.predictor.Predictor.load", lambda base, parts: None)
    parts = divide(sites, seed=0)
    learner = Updated(RECIPES["linear_probe"], tmp_path / "base", parts, tmp_path / "out", seed=0)
    learner.arrive(1)
    learner.arrive(2)
    first, second = calls
    assert first["live_parts"] is None and second["live_parts"] == first["out"]
    assert {*first["memory"].domain} == {"A"} and {*second["memory"].domain} == {"A", "B"}
    assert {*second["new"].domain} == {"C"} and {*second["develop"].domain} == {"A", "B", "C"}
    assert len(second["memory"]) <= MEMORY


@pytest.mark.slow
@pytest.mark.parametrize("strategy", ["naive", "replay", "ewc", "lwf", "agem", "der", "cumulative"])
def test_avalanche_learns_within_the_budget_of_our_recipe(
    sites: Stream, tmp_path: Path, strategy: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each strategy is shown the first site without a step, and takes the steps of fine-tuning with rehearsal at the
    next; where it remembers, it remembers the first site then."""
    import torch

    from benchmarks.continual import peers

    monkeypatch.setattr(peers, "EPOCHS", 1)
    parts = divide(sites, seed=0)
    fit(Task(sites, 0, "frozen", tmp_path), parts[0])
    peer = peers.Peer(strategy, tmp_path / "base", parts, seed=0)
    shown: list[dict[str, torch.Tensor]] = []
    begin = peer.budget.begin

    def begun(*given: object) -> None:
        shown.append({name: value.clone() for name, value in peer.network.state_dict().items()})
        begin(*given)  # type: ignore[arg-type]

    monkeypatch.setattr(peer.budget, "begin", begun)
    before = {name: value.clone() for name, value in peer.network.state_dict().items()}
    answer = peer.arrive(1)
    assert all(torch.equal(before[name], shown[0][name]) for name in before)
    assert peer.budget.done == peer.budget.steps == peer.steps(1) > 0
    assert answer(parts[1].judge).shape == (len(parts[1].judge), 3)
