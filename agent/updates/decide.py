"""Decide: what the plan says to do about an alarm, from what is at hand. Pure functions."""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from agent.drift.domains import HOME
from agent.plan import Plan

FEW = 30  # cases of develop below which a fall by half a margin is noise
NOISE = 0.5  # over the root of n: the error at 95 % of a paired difference of which a tenth of the cases changes
FLOOR, RECALIBRATE = "linear_probe", "recalibrate"
SEALED = "the model is a black box, which is watched and recalibrated only"
TIE = 0.01  # develop is small: within a point two versions are equal, and of equal ones the cheaper is taken
TIE_OF_LOSS = 0.1  # and within a tenth of the loss: of the pixels of a mask few are hard, and a point is more than all


@dataclass(frozen=True)
class Situation:
    """What the decision rests on.

    shift: of the open alarm, None without one. domains: those on which a candidate can be judged, and which are learnt.
    labelled: their patients with labels to learn from since the change. tried_with: how many of them the last refused,
    held or abandoned candidate had; None before the first try. more_domains: whether some of them are of a domain
    beside home that it did not have. waiting: a candidate is in the making, or waits for a person. distance: of the new
    cases' mean from the reference's, in its standard deviations, as the alarm has it; None where it has none. sealed:
    the model is a black box, of which no weight can move.
    """

    shift: str | None
    labelled: int
    tried_with: int | None
    waiting: bool
    domains: Collection[str] = ()
    more_domains: bool = False
    distance: float | None = None
    sealed: bool = False


@dataclass(frozen=True)
class Decision:
    """The recipes to try, cheapest first; none means that nothing is done, and `says` tells why. left_out: those of the
    plan that are not worth trying, or can't be tried."""

    recipes: tuple[str, ...]
    says: str
    left_out: tuple[str, ...] = ()


def decide(plan: Plan, situation: Situation) -> Decision:
    """The plan's answer; the same situation always gets the same one."""
    if plan.mode == "observe":
        return Decision((), "the plan only observes")
    if situation.shift is None:
        return Decision((), "no shift is open")
    if situation.waiting:
        return Decision((), "a candidate is under way")
    response = plan.responses[situation.shift]  # type: ignore[index]
    if not response.recipes:
        return Decision((), f"a {situation.shift} shift is outside the plan: a person has to decide")
    need = plan.labels.train_patients
    if situation.tried_with is not None and not situation.more_domains:
        need = max(need, int(situation.tried_with * plan.labels.more) + 1)
    if situation.labelled < need:
        return Decision((), f"{need - situation.labelled} more labelled patients are needed for the next update")
    ladder = with_floor(response.recipes)
    left_out = {name: why for name in ladder if (why := _not_worth_trying(name, plan, situation))}
    says = [f"{situation.labelled} labelled patients since the change"]
    for why in dict.fromkeys(left_out.values()):
        *first, last = [name for name in left_out if left_out[name] == why]
        says.append(f"{', '.join(first)} and {last} are left out ({why})" if first else f"{last} is left out ({why})")
    return Decision(tuple(name for name in ladder if name not in left_out), "; ".join(says), tuple(left_out))


def _not_worth_trying(recipe: str, plan: Plan, situation: Situation) -> str:
    """Why a recipe is left out, by the plan's portfolio or because the model can't have it; empty where it is not. What
    was not measured leaves none out."""
    if situation.sealed and recipe != RECALIBRATE:
        return SEALED
    least, nearest = plan.portfolio.least.get(recipe, 0), plan.portfolio.from_distance.get(recipe, 0.0)
    if situation.labelled < least:
        return f"it takes {least} labelled patients"
    if situation.distance is not None and situation.distance < nearest:
        return f"the new cases lie {situation.distance:g} standard deviations away, and it is tried from {nearest:g} on"
    return ""


def with_floor(recipes: tuple[str, ...]) -> tuple[str, ...]:
    """The recipes, the linear probe among them where a deeper one is: what can't beat it is not worth its risk."""
    deeper = [place for place, name in enumerate(recipes) if name not in (RECALIBRATE, FLOOR)]
    if not deeper or FLOOR in recipes:
        return recipes
    return (*recipes[: deeper[0]], FLOOR, *recipes[deeper[0] :])


Measures = Mapping[str, Mapping[str, float]]  # of one version on *develop*: {domain: {measure: value}}


def choose(table: Mapping[str, Measures], before: Measures, margin: float, shown: bool) -> str:
    """The finalist among recipes in order of cost, by their measures on *develop*.

    A recipe that harms goes behind all that don't, and one that is right no more often than the live version behind all
    that are. Of the rest the Brier score decides, and within a point and a tenth of the best the cheapest: accuracy
    turns on a few answers, of which an epoch was chosen already, where a proper score (Gneiting and Raftery 2007)
    weighs every one. Means are over domains, each by the root of its number of cases as in training. Only the finalist
    is shown to the anchors.
    """
    harmless = [name for name in table if not _harms(table[name], before, margin, shown)] or list(table)
    eligible = [name for name in harmless if mean(table[name]) > mean(before) + TIE] or harmless
    loss = {name: mean(table[name], "brier") for name in eligible}
    best = min(loss.values())
    return next(name for name in eligible if loss[name] <= best + min(TIE, TIE_OF_LOSS * best))


def worth_judging(after: Measures, before: Measures, margin: float, shown: bool) -> bool:
    """Whether a finalist is better than the live version on *develop* at all, and harms no domain there: each look at
    the anchors costs alpha."""
    return mean(after) > mean(before) + TIE and not _harms(after, before, margin, shown)


def suffices(after: Measures, before: Measures, margin: float, shown: bool) -> bool:
    """Whether nothing deeper need be tried: it is worth judging, and on *develop* no domain with FEW cases is served
    worse than home was, by more than the plan's margin of forgetting."""
    home = before.get(HOME, {}).get("quality", math.inf)
    enough = [m["quality"] >= home - margin for m in after.values() if m["n"] >= FEW]
    return worth_judging(after, before, margin, shown) and bool(enough) and all(enough)


def _harms(after: Measures, before: Measures, margin: float, shown: bool) -> bool:
    """Whether some domain falls too far in balanced accuracy or in the Brier score; those with fewer than FEW cases are
    not asked.

    Where the candidate has to show that it stays within the plan's margin, more than half of it is too far: it could
    hardly be shown. Where harm has to be shown (`shown`: everywhere but at home) the margin and the error of so few
    cases are: what a handful of old cases says by chance is no reason to go without an update.
    """
    return any(
        max(was["quality"] - after[domain]["quality"], after[domain]["brier"] - was["brier"])
        > (margin + NOISE / math.sqrt(was["n"]) if shown and domain != HOME else margin / 2)
        for domain, was in before.items()
        if was["n"] >= FEW
    )


def mean(measures: Measures, of: str = "quality") -> float:
    """One measure over domains, each by the root of its number of cases."""
    found = [(math.sqrt(m["n"]), m[of]) for m in measures.values()]
    return sum(weight * value for weight, value in found) / sum(weight for weight, _ in found)
