"""Judge: the gates of the plan over what the candidate, the live and the original version say of the anchors."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from agent.drift.domains import HOME
from agent.plan import GateRule, Plan
from agent.updates.anchors import AnchorSet

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from agent.tasks import Task
    from monitors.protocols import Burden, Gate, Judgement, Record

NLL_MARGIN = 2.0  # the log-loss has no upper end and a heavy tail: its margin is so many times that of the Brier score
GAIN_ALPHA = 0.05  # at each look the full level: a false gain does no harm that the other gates would not see


@dataclass(frozen=True, kw_only=True)
class Anchored:
    """One anchor set with the rows of three versions' answers to its cases [n, m], as the task has them, and the alpha
    that this look may spend. classes: the model's, by which a verdict names a part of an answer."""

    anchors: AnchorSet
    task: Task
    target: NDArray[np.integer]
    original: NDArray[np.floating]
    live: NDArray[np.floating]
    candidate: NDArray[np.floating]
    groups: Mapping[str, NDArray[np.str_]]
    alpha: float
    classes: Sequence[str] = ()

    def record(self, rows: NDArray[np.floating]) -> Record:
        import numpy as np

        return self.task.record(rows, self.target, np.array([case["patient"] for case in self.anchors.cases], np.str_))

    def right(self) -> tuple[float, int]:
        """What the candidate's answers of each patient were worth on average, added up; and the patients."""
        from monitors import form_of

        record = self.record(self.candidate)
        shares: dict[str, list[float]] = {}
        for case, worth in zip(self.anchors.cases, form_of(record, record).worth(record), strict=True):
            shares.setdefault(case["patient"], []).append(float(worth))
        return sum(sum(some) / len(some) for some in shares.values()), len(shares)


@dataclass(frozen=True)
class Named:
    """A judgement under a name that tells gate, domain and what it was compared with; and its role in the plan."""

    gate: str
    role: str
    judgement: Judgement


def judge(
    plan: Plan, anchored: Sequence[Anchored], learnt: Sequence[str], suspended: Collection[str] = ()
) -> list[Named]:
    """Every gate of the plan. `learnt`: the domains that the candidate learnt from; gain is asked of those.

    suspended: where the live version's answers are not used, so that there is nothing to keep; the gates against harm
    only inform there.
    """
    nothing = {*suspended} - {HOME}
    used = [one for one in anchored if one.anchors.domain not in nothing]
    return [*_gain(plan, anchored, learnt), *_per_domain(plan, anchored, nothing), *_subgroups(plan, used)]


def outcome(verdicts: Sequence[Named]) -> str:
    """The state that follows: every required gate must pass (an intersection-union test needs no correction)."""
    from monitors import Verdict

    required = [named.judgement.verdict for named in verdicts if named.role == "require"]
    if Verdict.FAIL in required:
        return "rejected"
    return "held" if Verdict.INSUFFICIENT in required else "candidate"


def unharmed_at(domain: str, verdicts: Sequence[Named]) -> bool:
    """Whether the candidate passed every gate that is asked of this domain, gain aside."""
    from monitors import Verdict

    asked = [
        named for named in verdicts if named.gate.split(":")[1:2] == [domain] and not named.gate.startswith("gain")
    ]
    return bool(asked) and all(named.judgement.verdict is Verdict.PASS for named in asked)


def _gain(plan: Plan, anchored: Sequence[Anchored], learnt: Sequence[str]) -> Iterator[Named]:
    """Home counts only where nothing else was learnt: a model that was made for home can't gain there by much.

    Of several domains that were learnt one has to gain, at its share of the level; the others then inform, because not
    all of them need have changed. That none is harmed is for the other gates to say.
    """
    from monitors import Gain, Verdict

    rule = plan.gates["gain"]
    away = [domain for domain in learnt if domain != HOME] or list(learnt)
    gate = Gain(margin=rule.margin, alpha=GAIN_ALPHA / max(1, len(away)))
    judged = {}
    for domain in away:
        found = [a for a in anchored if a.anchors.domain == domain]
        if found:
            judged[domain] = gate.judge(found[0].record(found[0].live), found[0].record(found[0].candidate))
        else:
            judged[domain] = _no_anchors(gate, domain, rule, plan.labels.anchor_patients)
    shown = any(one.verdict is Verdict.PASS for one in judged.values())
    for domain, one in judged.items():
        yield Named(f"gain:{domain}", "inform" if shown and one.verdict is not Verdict.PASS else rule.role, one)


def _per_domain(plan: Plan, anchored: Sequence[Anchored], nothing: Collection[str]) -> Iterator[Named]:
    from monitors import Calibration, Forgetting, NegativeFlips, WorstStructure, form_of

    forgetting, calibration, flips = (plan.gates[name] for name in ("forgetting", "calibration", "negative_flips"))
    structure = plan.gates["worst_structure"]
    for one in anchored:
        domain, after = one.anchors.domain, one.record(one.candidate)
        keep: Gate = Forgetting(margin=forgetting.margin, burden=_burden(forgetting, domain), alpha=one.alpha)
        shape: Gate = Calibration(
            margin=calibration.margin,
            margin_nll=NLL_MARGIN * calibration.margin,
            burden=_burden(calibration, domain),
            alpha=one.alpha,
        )
        turned: Gate = NegativeFlips(margin=flips.margin, burden=_burden(flips, domain), alpha=one.alpha)
        for name, role, gate, before in (
            (f"forgetting:{domain}:original", forgetting.role, keep, one.original),
            (f"forgetting:{domain}:live", forgetting.role, keep, one.live),
            (f"calibration:{domain}", calibration.role, shape, one.live),
            (f"negative_flips:{domain}", flips.role, turned, one.live),
        ):
            yield Named(name, "inform" if domain in nothing else role, gate.judge(one.record(before), after))
        if one.task.structures:
            names = one.classes[form_of(after, after).first :]
            each = WorstStructure(names, margin=structure.margin, burden=_burden(structure, domain), alpha=one.alpha)
            role = "inform" if domain in nothing else structure.role
            yield Named(f"worst_structure:{domain}", role, each.judge(one.record(one.live), after))


def _subgroups(plan: Plan, anchored: Sequence[Anchored]) -> Iterator[Named]:
    """Each column over all domains together: a group is a group wherever it was imaged."""
    import numpy as np

    from monitors import WorstSubgroup

    rule = plan.gates["worst_subgroup"]
    if not anchored:
        return

    def together(part: str) -> Record:
        rows = np.concatenate([getattr(one, part) for one in anchored])
        cases = [case for one in anchored for case in one.anchors.cases]
        unit = np.array([case["patient"] for case in cases], np.str_)
        return anchored[0].task.record(rows, np.concatenate([one.target for one in anchored]), unit)

    before, after = together("live"), together("candidate")
    for column in anchored[0].groups:
        groups = np.concatenate([one.groups[column] for one in anchored])
        if len(np.unique(groups)) < 2:
            continue
        gate = WorstSubgroup(
            groups,
            margin=rule.margin,
            burden=_burden(rule),
            alpha=min(one.alpha for one in anchored),
            min_n=plan.min_group,
        )
        yield Named(f"worst_subgroup:{column}", rule.role, gate.judge(before, after))


def _no_anchors(gate: Gate, domain: str, rule: GateRule, least: int) -> Judgement:
    from monitors import Judgement, Verdict

    return Judgement(
        gate=gate.name,
        verdict=Verdict.INSUFFICIENT,
        n=0,
        before=None,
        after=None,
        interval=None,
        margin=rule.margin,
        needed=least,
        says=f"{domain} has no anchor set yet: {least} labelled patients of the judge split open one.",
    )


def _burden(rule: GateRule, domain: str = HOME) -> Burden:
    from monitors import Burden

    return Burden(rule.burden if domain == HOME else rule.elsewhere or rule.burden)


def age_band(age: Any) -> str:
    """Decades of twenty years, as radiology reports use them; unknown stays unknown."""
    try:
        years = int(float(str(age).rstrip("Yy")))
    except ValueError:
        return ""
    return f"{years // 20 * 20}-{years // 20 * 20 + 19}"


def as_dict(named: Named) -> dict[str, Any]:
    """A verdict as the contract shows it."""
    j = named.judgement
    return {
        "gate": named.gate,
        "role": named.role,
        "verdict": str(j.verdict),
        "n": j.n,
        "before": j.before,
        "after": j.after,
        "interval": list(j.interval) if j.interval else None,
        "margin": j.margin,
        "needed": j.needed,
        "says": j.says,
    }
