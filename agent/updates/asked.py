"""What a plan may ask of a finalist beside its measures, by training its recipe again: what it learns from fewer
labels, and how it serves a domain that it has never seen."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from agent.drift.domains import HOME
from agent.updates.decide import Measures, mean

if TYPE_CHECKING:
    from strategies.protocols import Examples

SIZES = (8, 16, 32, 64, 128)  # labelled patients of the curve
SCRATCH = "again"  # below the job's folder: what is trained here; it goes when it is measured, or with the job


@dataclass(frozen=True, kw_only=True)
class Finalist:
    """What the job that made it knows: its material, the domains beside home that the live version has learnt from, and
    the measures on *develop* of the live version and of the finalist itself."""

    new: Examples
    memory: Examples
    develop: Examples
    live_learnt: Collection[str]
    before: Measures
    after: Measures
    seed: int


class Again(Protocol):
    """Trains the finalist's recipe on other material and measures it on all of *develop*; ({}, why) where that fails.
    From the base alone where `afresh`, else from where the finalist started; `at` tells people what this is."""

    def __call__(
        self, at: str, *, afresh: bool = False, new: Examples, memory: Examples, develop: Examples
    ) -> tuple[Measures, str]: ...


def label_curve(finalist: Finalist, again: Again) -> Iterator[dict[str, Any]]:
    """The axis `label_efficiency`, whole after every point: `curve`, a list of {"patients", "cases",
    "gained_on_develop", "quality", "learnt": {new domain: its own}}, with "failed" where a training did; and
    `curve_of`, the numbers of patients that it is to have.

    Subsets are nested and of whole patients, in an order that only seed and names decide; a patient who is not drawn is
    not remembered either. All patients together are the finalist itself, and are not trained again.
    """
    from strategies.memory import drawn

    patients = sorted({*finalist.new.patient.tolist()}, key=lambda patient: drawn(finalist.seed, patient))
    sizes = [size for size in SIZES if size <= len(patients)]
    curve: list[dict[str, Any]] = []
    yield {"label_efficiency": {"curve": curve, "curve_of": sizes}}
    for place, size in enumerate(sizes, 1):
        new, memory = (_without(part, part.patient, patients[size:]) for part in (finalist.new, finalist.memory))
        after, failed = finalist.after, ""
        if size < len(patients):
            at = f"{size} labelled patients ({place}/{len(sizes)})"
            after, failed = again(at, new=new, memory=memory, develop=finalist.develop)
        curve.append({"patients": size, "cases": len(new), **_gained(finalist, after), **_why(failed)})
        yield {"label_efficiency": {"curve": curve, "curve_of": sizes}}


def unseen_domain(finalist: Finalist, again: Again) -> Iterator[dict[str, Any]]:
    """The axis `robustness`, whole after every domain: `unseen`, a list of {"domain", "n", "quality",
    "before", "live_learnt"}, with "failed" where a training did; `unseen_of`, the domains that it is to have; and
    `unseen_skipped`, {domain: why it can't be asked}.

    Each domain but home is left out once, of what is learnt, what is remembered and what selects, and is measured by
    its *develop* cases (n). `before` is the live version there; where that has learnt the domain (`live_learnt`), the
    recipe starts from the base alone, which has not.
    """
    domains = {*finalist.new.domain.tolist(), *finalist.memory.domain.tolist()} - {HOME}
    skipped = {domain: why for domain in sorted(domains) if (why := _cant_be_left_out(finalist, domain))}
    asked = [domain for domain in sorted(domains) if domain not in skipped]
    unseen: list[dict[str, Any]] = []
    found = {"robustness": {"unseen": unseen, "unseen_of": asked, "unseen_skipped": skipped}}
    yield found
    for place, domain in enumerate(asked, 1):
        new, memory, develop = (
            _without(part, part.domain, [domain]) for part in (finalist.new, finalist.memory, finalist.develop)
        )
        learnt = domain in finalist.live_learnt
        at = f"without {domain} ({place}/{len(asked)})"
        after, failed = again(at, new=new, memory=memory, develop=develop, afresh=learnt)
        unseen.append(
            {
                "domain": domain,
                "n": finalist.before[domain]["n"],
                "quality": None if failed else round(after[domain]["quality"], 4),
                "before": round(finalist.before[domain]["quality"], 4),
                "live_learnt": learnt,
                **_why(failed),
            }
        )
        yield found


QUESTIONS: Mapping[str, Callable[[Finalist, Again], Iterator[dict[str, Any]]]] = {
    "label_curve": label_curve,
    "unseen_domain": unseen_domain,
}
"""By the name that a plan's `portfolio.asked` has."""


def _cant_be_left_out(finalist: Finalist, domain: str) -> str:
    if {*finalist.new.domain.tolist()} <= {domain}:
        return "without it there is nothing new to learn"
    if domain not in finalist.develop.domain:
        return "it has no develop case"
    return "" if {*finalist.develop.domain.tolist()} - {domain} else "all develop cases are its own"


def _without(examples: Examples, values: Any, these: Collection[str]) -> Examples:
    import numpy as np

    from strategies.base import Chosen

    return Chosen(examples, np.flatnonzero(~np.isin(values, sorted(these))))


def _gained(finalist: Finalist, after: Measures) -> dict[str, Any]:
    if not after:
        return {"gained_on_develop": None, "quality": None, "learnt": {}}
    domains = sorted({*finalist.new.domain.tolist()} & {*after})
    return {
        "gained_on_develop": round(mean(after) - mean(finalist.before), 4),
        "quality": round(mean(after), 4),
        "learnt": {domain: round(after[domain]["quality"], 4) for domain in domains},
    }


def _why(failed: str) -> dict[str, str]:
    return {"failed": failed} if failed else {}
