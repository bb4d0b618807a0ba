"""Judge: what follows from the verdicts, and of which domains gain is asked."""

from __future__ import annotations

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.plan import GATE_RULES, Plan
from agent.tasks import TASKS
from agent.updates.anchors import AnchorSet
from agent.updates.judge import Anchored, Named, age_band, as_dict, judge, outcome
from monitors import Judgement, Verdict

PASS, FAIL, INSUFFICIENT = Verdict.PASS, Verdict.FAIL, Verdict.INSUFFICIENT


def named(verdict: Verdict, role: str = "require") -> Named:
    judgement = Judgement(gate="gain", verdict=verdict, n=9, before=0.5, after=0.6, interval=(0.0, 0.2), margin=0.0,
                          says="as it is")  # fmt: skip
    return Named("gain:home", role, judgement)


@pytest.mark.parametrize(
    ("required", "state"),
    [
        ([PASS, PASS], "candidate"),
        ([PASS, INSUFFICIENT], "held"),
        ([INSUFFICIENT, FAIL], "rejected"),
        ([FAIL, PASS], "rejected"),
    ],
)
@pytest.mark.parametrize("informs", list(Verdict))
def test_what_follows_from_the_verdicts(required, state, informs):
    """One required failure rejects, one that can't be decided holds, and what informs changes neither."""
    verdicts = [*(named(verdict) for verdict in required), named(informs, "inform")]
    assert outcome(verdicts) == state
    assert outcome(verdicts[::-1]) == state


@given(st.lists(st.tuples(st.sampled_from(list(Verdict)), st.sampled_from(["require", "inform"]))))
def test_nothing_passes_but_by_every_required_gate(drawn):
    """Whatever the plan holds."""
    required = [verdict for verdict, role in drawn if role == "require"]
    state = outcome([named(verdict, role) for verdict, role in drawn])
    assert (state == "candidate") == all(verdict == PASS for verdict in required)
    assert (state == "rejected") == (FAIL in required)


def anchored(domain: str, n: int, *, live: float, candidate: float, original: float | None = None, seed=0) -> Anchored:
    """n patients of two classes; each version is right on its share of them, chosen independently."""
    rng = np.random.default_rng([seed, n])
    target = np.arange(n) % 2

    def says(right: float) -> np.ndarray:
        hit = np.zeros(n, bool)
        hit[rng.permutation(n)[: round(right * n)]] = True
        answer = np.where(hit, target, 1 - target)
        return np.where(answer[:, None] == np.arange(2), 0.8, 0.2)

    cases = [{"case_id": f"{domain}{i}", "patient": f"{domain} patient {i}"} for i in range(n)]
    before = says(live)
    return Anchored(
        anchors=AnchorSet(domain, 1, cases, 0, 0.0, {}),
        task=TASKS["classification"],
        target=target,
        original=before if original is None else says(original),
        live=before,
        candidate=before if candidate == live else says(candidate),
        groups={"sex": np.where(np.arange(n) % 3 == 0, "F", "M"), "scanner": np.full(n, domain)},
        alpha=0.025,
    )


def verdicts(plan: Plan, records, learnt) -> dict[str, Verdict]:
    return {one.gate: one.judgement.verdict for one in judge(plan, records, learnt)}


def test_gain_is_asked_of_the_domains_that_were_learnt():
    """Home only has to be kept: a model made for it can't gain there by much."""
    records = [
        anchored("home", 400, live=0.95, candidate=0.95),
        anchored("hillside", 200, live=0.4, candidate=0.9),
        anchored("elsewhere", 200, live=0.8, candidate=0.8),
    ]
    found = verdicts(Plan(), records, ["home", "hillside"])
    assert {gate for gate in found if gate.startswith("gain")} == {"gain:hillside"}
    assert found["gain:hillside"] == PASS
    for domain in ("home", "hillside", "elsewhere"):
        assert {f"forgetting:{domain}:original", f"forgetting:{domain}:live", f"calibration:{domain}",
                f"negative_flips:{domain}"} <= set(found)  # fmt: skip
    assert {gate for gate in found if gate.startswith("worst")} == {"worst_subgroup:sex", "worst_subgroup:scanner"}


def test_where_only_home_was_learnt_home_has_to_gain():
    """An update after a shift at home is for something."""
    records = [anchored("home", 300, live=0.6, candidate=0.9)]
    assert verdicts(Plan(), records, ["home"])["gain:home"] == PASS


def test_a_new_domain_without_anchors_holds_and_says_how_many_patients_open_them():
    """A candidate can't pass for want of a test."""
    found = judge(Plan(), [anchored("home", 400, live=0.95, candidate=0.95)], ["hillside"])
    assert outcome(found) == "held"
    gain = next(one for one in found if one.gate == "gain:hillside")
    assert gain.judgement.verdict == INSUFFICIENT
    least = Plan().labels.anchor_patients
    assert gain.judgement.needed == least and f"{least} labelled patients" in gain.judgement.says


def test_of_several_domains_one_has_to_gain():
    """Home's own scanner was learnt along while the other one changed: nothing was to be gained there."""
    home = anchored("home", 600, live=0.95, candidate=0.95)
    same, other = (anchored("since-alarm-1", 200, live=0.9, candidate=a, seed=1) for a in (0.9, 0.5))
    better = anchored("hillside", 200, live=0.4, candidate=0.9)
    learnt = ["hillside", "since-alarm-1"]
    found = {one.gate: (one.role, one.judgement.verdict) for one in judge(Plan(), [home, same, better], learnt)}
    assert found["gain:hillside"] == ("require", PASS) and found["gain:since-alarm-1"] == ("inform", FAIL)
    assert outcome(judge(Plan(), [home, same, better], learnt)) == "candidate"
    assert outcome(judge(Plan(), [home, other, better], learnt)) == "rejected", "harm is harm"
    assert outcome(judge(Plan(), [home, same], ["since-alarm-1"])) == "rejected", "an update is for something"


def test_too_few_anchors_hold_and_say_how_many_would_decide():
    """The number that a person needs in order to ask for labels."""
    found = judge(Plan(), [anchored("home", 30, live=0.9, candidate=0.9, original=0.86)], ["home"])
    open_ = [one for one in found if one.judgement.verdict == INSUFFICIENT and one.gate.startswith("forgetting")]
    assert open_ and all((one.judgement.needed or 0) > 30 for one in open_)
    assert all(str(one.judgement.needed) in one.judgement.says for one in open_)
    assert outcome(found) == "held"


def test_a_domain_learnt_since_needs_no_proof_but_no_harm_either():
    """Its few anchors could not show a small margin for years; a harm that they show still refuses."""
    home, vale = anchored("home", 600, live=0.95, candidate=0.95), anchored("vale", 60, live=0.2, candidate=0.9)
    for candidate, state in ((0.9, "candidate"), (0.3, "rejected")):
        records = [home, vale, anchored("hillside", 25, live=0.9, candidate=candidate)]
        assert outcome(judge(Plan(), records, ["vale"])) == state
    strict = GATE_RULES | {"forgetting": GATE_RULES["forgetting"].model_copy(update={"elsewhere": "non_inferiority"})}
    records = [home, vale, anchored("hillside", 25, live=0.9, candidate=0.9)]
    assert outcome(judge(Plan(gates=strict), records, ["vale"])) == "held"


def test_a_candidate_that_forgets_home_is_rejected_however_much_it_gains():
    """The story that the project is about."""
    records = [
        anchored("home", 400, live=0.95, candidate=0.5),
        anchored("hillside", 200, live=0.4, candidate=0.95),
    ]
    found = judge(Plan(), records, ["hillside"])
    assert outcome(found) == "rejected"
    failed = {one.gate for one in found if one.judgement.verdict == FAIL}
    assert {"forgetting:home:original", "forgetting:home:live"} <= failed and "gain:hillside" not in failed


def test_forgetting_counts_against_the_original_too():
    """Many updates that each forget within the margin don't add up unseen."""
    record = anchored("home", 600, live=0.72, candidate=0.72, original=0.95)
    found = verdicts(Plan(), [record], ["home"])
    assert found["forgetting:home:original"] == FAIL
    assert found["forgetting:home:live"] == PASS


def test_a_verdict_is_plain_json():
    """As the contract shows it, with an interval or none."""
    found = judge(Plan(), [anchored("home", 60, live=0.9, candidate=0.9)], ["hillside"])
    for one in found:
        shown = json.loads(json.dumps(as_dict(one), allow_nan=False))
        assert set(shown) == {"gate", "role", "verdict", "n", "before", "after", "interval", "margin", "needed", "says"}


@pytest.mark.parametrize(
    ("age", "band"), [("061Y", "60-79"), ("61", "60-79"), (19.5, "0-19"), ("", ""), ("unknown", ""), ("006M", "")]
)
def test_ages_fall_into_bands_of_twenty_years(age, band):
    """As DICOM writes them; what is no number of years is unknown."""
    assert age_band(age) == band


def test_where_no_answer_is_used_there_is_nothing_to_keep():
    """A new scanner that the live version answers wrongly, and is suspended for, refuses nobody; home always asks."""
    home = anchored("home", 400, live=0.95, candidate=0.95)
    worse = anchored("vale", 60, live=0.60, candidate=0.10)
    gained = anchored("hillside", 60, live=0.20, candidate=0.90)
    records = [home, worse, gained]
    assert outcome(judge(Plan(), records, ["hillside"])) == "rejected"
    assert outcome(judge(Plan(), records, ["hillside"], ["vale"])) == "candidate"
    assert outcome(judge(Plan(), records, ["vale"], ["vale"])) == "rejected", "gain is asked all the same"
    forgets = anchored("home", 400, live=0.95, candidate=0.50)
    assert outcome(judge(Plan(), [forgets, gained], ["hillside"], ["home"])) == "rejected"


def test_of_findings_the_one_that_is_given_up_is_named():
    """One of two is found no more; the gate of parts is asked, and says which by the model's name for it."""
    n = 200
    rng = np.random.default_rng(0)
    has = rng.random((n, 2)) < 0.4
    live = np.where(has, 0.9, 0.1)
    cases = [{"case_id": f"c{i}", "patient": f"patient {i}"} for i in range(n)]
    one = Anchored(
        anchors=AnchorSet("home", 1, cases, 0, 0.0, {}),
        task=TASKS["multilabel"],
        target=has @ np.array([1, 2]),
        original=live,
        live=live,
        candidate=np.where([True, False], live, 0.1),
        groups={"sex": np.full(n, "F")},
        alpha=0.025,
        classes=("mass", "nodule"),
    )
    [worst] = [found.judgement for found in judge(Plan(), [one], ["home"]) if found.gate == "worst_structure:home"]
    assert worst.verdict is FAIL and "agreement of nodule" in worst.says
    assert one.right()[0] == pytest.approx(sum(1 if not row[1] else 2 / 3 if row[0] else 0 for row in has))
