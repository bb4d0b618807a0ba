"""Decide: the same situation gets the same answer, and the plan's bounds hold."""

from __future__ import annotations

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.plan import LADDER, RESPONSES, Plan, Response
from agent.updates.decide import Situation, choose, decide, suffices, with_floor, worth_judging

READY = Situation(shift="acquisition", labelled=30, tried_with=None, waiting=False)


def with_(**changes) -> Situation:
    return dataclasses.replace(READY, **changes)


@pytest.mark.parametrize(
    ("situation", "recipes", "says"),
    [
        (READY, LADDER, "30 labelled patients"),
        (with_(shift="prevalence"), ("recalibrate",), "30 labelled patients"),
        (with_(shift=None), (), "no shift is open"),
        (with_(waiting=True), (), "a candidate is under way"),
        (with_(shift="annotation"), (), "a person has to decide"),
        (with_(shift="far-out"), (), "a person has to decide"),
        (with_(labelled=29), (), "1 more labelled patients are needed"),
        (with_(tried_with=30), (), "16 more labelled patients are needed"),
        (with_(tried_with=30, labelled=46), LADDER, "46 labelled patients"),
        (with_(tried_with=30, labelled=31, more_domains=True), LADDER, "31 labelled patients"),
        (
            with_(sealed=True),
            ("recalibrate",),
            "linear_probe, lora_rehearsal and full_rehearsal are left out (the model is a black box",
        ),
    ],
)
def test_what_the_default_plan_does(situation, recipes, says):
    """Each row of the plan's protocol, and the sentence that tells why nothing is done."""
    decision = decide(Plan(), situation)
    assert decision.recipes == recipes
    assert says in decision.says


def test_a_plan_that_only_moves_weights_leaves_a_black_box_as_it_is():
    """Nothing is tried, and the decision says of each recipe why."""
    plan = Plan(responses={"acquisition": Response(recipes=("lora_rehearsal",))})
    decision = decide(plan, with_(sealed=True))
    assert (decision.recipes, decision.left_out) == ((), ("linear_probe", "lora_rehearsal"))
    assert "linear_probe and lora_rehearsal are left out (the model is a black box" in decision.says


SITUATIONS = st.builds(
    Situation,
    shift=st.sampled_from([None, *RESPONSES]),
    labelled=st.integers(0, 200),
    tried_with=st.one_of(st.none(), st.integers(0, 200)),
    waiting=st.booleans(),
    distance=st.one_of(st.none(), st.floats(0, 20)),
)
FAR_ONLY = Plan(portfolio={"from_distance": {"lora_rehearsal": 0.5, "full_rehearsal": 1.0}})


@given(SITUATIONS)
def test_a_plan_that_observes_never_trains(situation):
    """Mode observe is a promise."""
    assert decide(Plan(mode="observe"), situation).recipes == ()


@given(SITUATIONS, st.integers(0, 100))
def test_more_labels_never_take_an_update_away(situation, more):
    """What may be tried with so many labels may be tried with more; a refused try asks for strictly more."""
    before = decide(Plan(), situation).recipes
    after = decide(Plan(), dataclasses.replace(situation, labelled=situation.labelled + more)).recipes
    assert not before or after == before
    if before and situation.tried_with is not None:
        assert situation.labelled > situation.tried_with


@given(SITUATIONS, st.floats(0, 20))
def test_a_farther_change_never_takes_a_recipe_away(situation, more):
    """What is tried near by is tried farther away as well, and where no distance was measured nothing is left out."""
    near = decide(FAR_ONLY, situation).recipes
    unknown = decide(FAR_ONLY, dataclasses.replace(situation, distance=None)).recipes
    farther = dataclasses.replace(situation, distance=(situation.distance or 0.0) + more)
    assert {*near} <= {*unknown} and (situation.distance is not None or near == unknown)
    assert situation.distance is None or {*near} <= {*decide(FAR_ONLY, farther).recipes}
    assert unknown == decide(Plan(), situation).recipes


def measured(n: int = 100, brier: float | None = None, **domains: float) -> dict[str, dict[str, float]]:
    """Without another Brier score, that of a model which is sure of every answer but a few."""
    return {
        domain: {"quality": value, "brier": 1 - value if brier is None else brier, "n": n}
        for domain, value in domains.items()
    }


BEFORE = measured(home=0.90, new=0.40)


def test_a_recipe_that_forgets_goes_behind_those_that_do_not():
    """The best mean doesn't win by giving up the old hospital."""
    table = {"linear_probe": measured(home=0.88, new=0.70), "full_finetune": measured(home=0.60, new=0.99)}
    assert choose(table, BEFORE, 0.05, True) == "linear_probe"


def test_among_equals_the_cheapest_is_taken():
    """Develop is small: a point is noise, and the cheap recipe is the safer one."""
    table = {"recalibrate": measured(home=0.90, new=0.700), "lora_rehearsal": measured(home=0.90, new=0.715)}
    assert choose(table, BEFORE, 0.05, True) == "recalibrate"
    table["lora_rehearsal"] = measured(home=0.90, new=0.80)
    assert choose(table, BEFORE, 0.05, True) == "lora_rehearsal"


def test_the_better_probabilities_are_chosen_where_accuracy_turns_on_a_few_answers():
    """Of two that are right as often, or nearly, the one that knows it better; a cheap one that is right no more often
    than the live version is not chosen for its probabilities alone."""
    table = {
        "recalibrate": measured(home=0.90, new=0.41, brier=0.05),
        "lora_rehearsal": {**measured(home=0.90, brier=0.10), **measured(new=0.81, brier=0.25)},
        "full_rehearsal": {**measured(home=0.90, brier=0.10), **measured(new=0.80, brier=0.20)},
    }
    assert choose(table, BEFORE, 0.05, True) == "full_rehearsal"
    table["full_rehearsal"]["new"]["brier"] = 0.24
    assert choose(table, BEFORE, 0.05, True) == "lora_rehearsal"
    del table["lora_rehearsal"], table["full_rehearsal"]
    assert choose(table, BEFORE, 0.05, True) == "recalibrate", "the only one is a finalist, though not worth a look"
    assert not worth_judging(table["recalibrate"], BEFORE, 0.05, True)


def test_of_small_losses_a_tenth_tells_recipes_apart():
    """Most pixels of a mask are easy: a Brier score of 0.013 is far from one of 0.008, though within a point."""
    table = {
        "lora_rehearsal": measured(home=0.94, new=0.89, brier=0.013),
        "full_rehearsal": measured(home=0.97, new=0.93, brier=0.008),
    }
    before = measured(home=0.97, new=0.0, brier=0.3)
    assert choose(table, before, 0.1, True) == "full_rehearsal"
    table["lora_rehearsal"] = measured(home=0.94, new=0.89, brier=0.0085)
    assert choose(table, before, 0.1, True) == "lora_rehearsal"


def test_two_cases_of_a_new_site_do_not_choose():
    """They would outvote a hospital; they neither decide the mean nor make a recipe one that forgets."""
    one_lucky = {**measured(home=0.80), **measured(n=2, new=1.0)}
    sound = {**measured(home=0.90), **measured(n=2, new=0.5)}
    before = {**measured(home=0.90), **measured(n=2, new=1.0)}
    assert choose({"linear_probe": one_lucky, "lora_rehearsal": sound}, before, 0.3, True) == "lora_rehearsal"


def test_a_fall_by_more_than_half_the_margin_goes_behind():
    """It could hardly be shown to stay within the margin, and would be held for labels that never come."""
    table = {"linear_probe": measured(home=0.86, new=0.9), "lora_rehearsal": measured(home=0.89, new=0.7)}
    assert choose(table, BEFORE, 0.05, True) == "lora_rehearsal"
    assert choose(table, BEFORE, 0.10, True) == "linear_probe"


def test_what_is_no_better_on_develop_is_not_worth_a_look():
    """Each look at the anchors costs alpha: a model that nothing has harmed spends none on candidates."""
    assert not worth_judging(BEFORE, BEFORE, 0.05, True)
    assert not worth_judging(measured(home=0.905, new=0.405), BEFORE, 0.05, True)
    assert worth_judging(measured(home=0.90, new=0.45), BEFORE, 0.05, True)
    lucky = {**measured(home=0.90), **measured(n=2, new=1.0)}
    assert worth_judging(lucky, {**measured(home=0.90), **measured(n=2, new=0.0)}, 0.05, True)
    assert not worth_judging(lucky, {**measured(home=0.98), **measured(n=2, new=0.5)}, 0.05, True)


def test_what_harms_on_develop_is_not_worth_a_look():
    """A finalist that forgets home, or loses its calibration there, would be refused at the cost of alpha."""
    assert not worth_judging(measured(home=0.87, new=0.80), BEFORE, 0.05, True)
    assert worth_judging(measured(home=0.88, new=0.80), BEFORE, 0.05, True)
    assert not worth_judging(measured(home=0.90, new=0.80, brier=0.13), BEFORE, 0.05, True)


def test_a_recipe_that_loses_its_calibration_goes_behind():
    """An over-confident model that is right a little more often is not the better one."""
    table = {"linear_probe": measured(home=0.90, new=0.9, brier=0.2), "lora_rehearsal": measured(home=0.90, new=0.7)}
    assert choose(table, BEFORE, 0.05, True) == "lora_rehearsal"


def test_where_all_forget_the_best_is_still_shown_to_the_gates():
    """The gates refuse it with figures that a person can read, rather than nothing happening."""
    table = {"linear_probe": measured(home=0.5, new=0.6), "full_finetune": measured(home=0.6, new=0.9)}
    assert choose(table, BEFORE, 0.05, True) == "full_finetune"


def test_a_handful_of_old_cases_does_not_refuse_by_chance():
    """Where harm has to be shown, two of forty wrong are none; at home they are."""
    before = {**measured(home=0.90, new=0.40), **measured(n=40, old=1.0)}
    after = {**measured(home=0.90, new=0.80), **measured(n=40, old=0.90)}
    assert worth_judging(after, before, 0.05, True)
    assert not worth_judging(after, before, 0.05, False)
    assert not worth_judging({**after, **measured(n=40, old=0.80)}, before, 0.05, True)
    assert not worth_judging({**after, **measured(home=0.87)}, before, 0.05, True)


def test_the_linear_probe_is_the_floor_of_every_deeper_recipe():
    """A plan that names fine-tuning alone is shown what the head alone would have given; one without weights is not."""
    deep = Plan(responses={"acquisition": Response(recipes=("recalibrate", "full_rehearsal"))})
    assert decide(deep, READY).recipes == ("recalibrate", "linear_probe", "full_rehearsal")
    assert with_floor(("recalibrate",)) == ("recalibrate",)
    assert with_floor(LADDER) == LADDER


def test_a_deep_recipe_waits_for_its_labels():
    """The plan says from how many labelled patients on a recipe is worth its time."""
    plan = Plan(portfolio={"least": {"full_rehearsal": 60, "lora_rehearsal": 40}})
    assert decide(plan, with_(labelled=39)).recipes == ("recalibrate", "linear_probe")
    assert decide(plan, with_(labelled=40)).recipes == ("recalibrate", "linear_probe", "lora_rehearsal")
    assert decide(plan, with_(labelled=60)).recipes == LADDER
    assert "full_rehearsal is left out (it takes 60 labelled patients)" in decide(plan, with_(labelled=40)).says
    with pytest.raises(ValueError, match="'lara' is no recipe"):
        Plan(portfolio={"least": {"lara": 1}})


def test_a_deep_recipe_is_for_a_change_that_lies_far_away():
    """The plan says from which distance on a recipe is worth its time; the decision says what was left out, and why."""
    near = decide(FAR_ONLY, with_(distance=0.75))
    assert near.recipes == ("recalibrate", "linear_probe", "lora_rehearsal")
    assert near.says == (
        "30 labelled patients since the change; full_rehearsal is left out "
        "(the new cases lie 0.75 standard deviations away, and it is tried from 1 on)"
    )
    assert decide(FAR_ONLY, with_(distance=1.0)).recipes == decide(FAR_ONLY, READY).recipes == LADDER
    assert decide(Plan(), with_(distance=0.0)).recipes == LADDER
    for wrong, says in (({"lara": 1.0}, "'lara' is no recipe"), ({"lora_rehearsal": -1}, "greater than or equal to 0")):
        with pytest.raises(ValueError, match=says):
            Plan(portfolio={"from_distance": wrong})


def test_a_recipe_suffices_where_every_domain_is_served_as_home_was():
    """Better than live is not enough to look no deeper: the new site has to be up to the old one."""
    assert suffices(measured(home=0.90, new=0.87), BEFORE, 0.05, True)
    assert not suffices(measured(home=0.90, new=0.80), BEFORE, 0.05, True)
    assert not suffices(measured(home=0.85, new=0.87), BEFORE, 0.05, True)
    assert not suffices(measured(n=10, home=0.90, new=0.87), measured(n=10, home=0.9, new=0.4), 0.05, True)
