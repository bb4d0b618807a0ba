"""What a hospital may do with its model: policies of today, the agent, and the agent with one organ removed."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from agent.config import Config
from agent.plan import GATE_RULES, LADDER, RESPONSES, GateRule, Response

QUARTER = 91  # days between two retrainings by calendar
LABELLED = 20  # patients to learn from: where twelve can judge, so many can teach
MARGIN = 0.08  # of forgetting and calibration: what some 140 anchor patients can decide at a third or fourth look


@dataclass(frozen=True, kw_only=True)
class Policy:
    """How a year is met. `config` is the agent's own; the rest says which of its organs are there.

    detects, watches: whether the monitors run, and the probation with its rollback. trusts: whether trust and
    abstention count, or every answer is taken in good faith. clears: whether late labels end an alarm, or suspend.
    asks: whether a promotion ends an alarm only where it dealt with it, or always. every: days after which an update is
    asked for anyway. person_after: days until a person approves a candidate.
    """

    name: str
    shows: str
    config: Config
    detects: bool = True
    watches: bool = True
    clears: bool = True
    asks: bool = True
    trusts: bool = True
    every: int | None = None
    person_after: int | None = None


# Of the default ladder what a network of a million parameters needs: all its weights move as cheaply as an adapter.
SHORTER = ("recalibrate", "linear_probe", "full_rehearsal")


def _config(
    mode: str = "bounded_auto", recipes: tuple[str, ...] = SHORTER, gates: bool = True, suspends: bool = True
) -> Config:
    responses = {
        name: Response(trust=response.trust, recipes=recipes if response.recipes == LADDER else response.recipes)
        for name, response in RESPONSES.items()
    }
    rules: dict[str, GateRule] = {}
    for name, rule in GATE_RULES.items():
        margin = MARGIN if name in ("forgetting", "calibration") else rule.margin
        rules[name] = rule.model_copy(update={"margin": margin, "role": rule.role if gates else "inform"})
    if not gates:  # nothing may be approved without a required gate: one that nobody fails
        rules["negative_flips"] = GateRule(margin=0.99, burden="no_harm_found")
    plan = Config().plan
    labels = plan.labels.model_copy(update={"train_patients": LABELLED})
    changes = {"mode": mode, "responses": responses, "gates": rules, "labels": labels}
    changes["harm_shown"] = "suspended" if suspends else "caution"
    return Config().model_copy(update={"plan": plan.model_copy(update=changes)})


def _without_memory() -> Config:
    config = _config()
    return config.model_copy(update={"memory": config.memory.model_copy(update={"size": 0})})


NEVER, ORACLE, AGENT = "never", "oracle", "agent"

POLICIES = (
    Policy(
        name="calendar",
        shows="full fine-tuning every quarter on all labels so far, promoted unjudged",
        config=_config(recipes=("full_finetune",), gates=False),
        detects=False,
        watches=False,
        clears=False,
        asks=False,
        trusts=False,
        every=QUARTER,
    ),
    Policy(
        name="naive",
        shows="full fine-tuning on the new labels at each alarm, promoted unjudged",
        config=_config(recipes=("full_finetune",), gates=False),
        watches=False,
        clears=False,
        asks=False,
        trusts=False,
    ),
    Policy(
        name="rehearsal",
        shows="fine-tuning with rehearsal at each alarm, promoted unjudged",
        config=_config(recipes=("full_rehearsal",), gates=False),
        watches=False,
        clears=False,
        asks=False,
        trusts=False,
    ),
    Policy(name=AGENT, shows="the agent, plan bounded_auto", config=_config()),
)

MORE = (
    Policy(
        name="agent, person approves",
        shows="the agent, plan recommend; a person approves after two days",
        config=_config("recommend"),
        person_after=2,
    ),
    Policy(name="agent - rehearsal", shows="nothing is remembered", config=_without_memory()),
    Policy(name="agent - gates", shows="every candidate goes live", config=_config(gates=False)),
    Policy(name="agent - suspension", shows="labels that show harm withhold no answer", config=_config(suspends=False)),
    Policy(
        name="agent - clearing", shows="late labels neither end an alarm nor suspend", config=_config(), clears=False
    ),
    Policy(name="agent - rollback", shows="no probation: a version stays", config=_config(), watches=False),
)

# What follows from another run without playing it again: (the run, what is read otherwise).
DERIVED: Mapping[str, tuple[str, str]] = {
    "agent - detection": (NEVER, "no alarm ever comes, so nothing is decided: never update"),
    "agent - attribution": (AGENT, "there is none to remove yet: every shift is undetermined"),
    "agent - trust": (AGENT, "the same updates; every answer is taken in good faith"),
}
