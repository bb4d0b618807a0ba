"""The change-control plan: what the agent may do, to which margins, and what it takes to be allowed.

It follows the order of the FDA's predetermined change control plan (PCCP, 2024): which modifications (recipes, for
which shift), by which protocol (labels, gates, alpha), with which safeguards (trust, probation, limits).
"""

from __future__ import annotations

from typing import Literal

from pydantic import BaseModel, ConfigDict, Field, NonNegativeFloat, field_validator

Trust = Literal["normal", "caution", "suspended"]
ShiftName = Literal[
    "acquisition", "population", "prevalence", "manifestation", "annotation", "mixed", "far-out", "undetermined"
]
Question = Literal["label_curve", "unseen_domain"]
RECIPES = ("recalibrate", "linear_probe", "lora_rehearsal", "full_rehearsal", "full_finetune")
PER_DOMAIN = ("forgetting", "calibration", "negative_flips", "worst_structure")
GATES = ("gain", "forgetting", "calibration", "negative_flips", "worst_subgroup", "worst_structure")


class Section(BaseModel):
    """A part of the configuration: frozen, and a field that nobody knows is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)


class Response(Section):
    """What the site does about one kind of shift."""

    trust: Trust = "caution"
    recipes: tuple[str, ...] = ()

    @field_validator("recipes")
    @classmethod
    def _known(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            if name not in RECIPES:
                raise ValueError(f"'{name}' is no recipe; there are {', '.join(RECIPES)}")
        return names


LADDER = ("recalibrate", "linear_probe", "lora_rehearsal", "full_rehearsal")

RESPONSES: dict[ShiftName, Response] = {
    "prevalence": Response(trust="caution", recipes=("recalibrate",)),
    "acquisition": Response(trust="caution", recipes=LADDER),
    "population": Response(trust="caution", recipes=LADDER),
    "mixed": Response(trust="caution", recipes=LADDER),
    "undetermined": Response(trust="caution", recipes=LADDER),
    "manifestation": Response(trust="suspended"),
    "annotation": Response(trust="suspended"),
    "far-out": Response(trust="normal"),
}


class GateRule(Section):
    """One gate: whether it blocks, how much change it tolerates, and who has to show it.

    `burden` holds everywhere, unless `elsewhere` names another one for the domains learnt since home was approved:
    their few anchors could not show a small margin for a long time. Only gates that are asked per domain take it.
    """

    role: Literal["require", "inform"] = "require"
    margin: float = Field(ge=0, le=1)
    burden: Literal["non_inferiority", "no_harm_found"] = "non_inferiority"
    elsewhere: Literal["non_inferiority", "no_harm_found"] | None = None


GATE_RULES: dict[str, GateRule] = {
    "gain": GateRule(margin=0.0),
    "forgetting": GateRule(margin=0.05, elsewhere="no_harm_found"),
    "calibration": GateRule(margin=0.05, elsewhere="no_harm_found"),
    "negative_flips": GateRule(margin=0.10, burden="no_harm_found"),
    "worst_subgroup": GateRule(margin=0.10, burden="no_harm_found"),
    "worst_structure": GateRule(margin=0.10, burden="no_harm_found"),
}


class Labels(Section):
    """How many labelled patients an update takes."""

    train_patients: int = Field(30, ge=1, description="labelled patients to learn from before an update is tried")
    anchor_patients: int = Field(
        12, ge=1, description="labelled judge patients that open an anchor set of a new domain; gates need 12"
    )
    more: float = Field(
        1.5, ge=1, description="after a refused or held candidate: so many times the labels before the next try"
    )


class Portfolio(Section):
    """Which of the recipes that fit a shift are tried, cheapest first, and when enough have been."""

    stop: Literal["all", "first"] = Field(
        "all", description="all: the best on develop is judged; first: no deeper recipe once one suffices there"
    )
    least: dict[str, int] = Field(
        default_factory=dict, description="per recipe: labelled patients below which it is not tried"
    )
    from_distance: dict[str, NonNegativeFloat] = Field(
        default_factory=dict,
        description="per recipe: standard deviations that the new cases lie away, below which it is not tried",
    )
    asked: tuple[Question, ...] = Field(
        (), description="also asked of a finalist, by training it again: label_curve, unseen_domain"
    )

    @field_validator("least", "from_distance")
    @classmethod
    def _known(cls, given: dict[str, float]) -> dict[str, float]:
        for name in given:
            if name not in RECIPES:
                raise ValueError(f"'{name}' is no recipe; there are {', '.join(RECIPES)}")
        return given


class Probation(Section):
    """The watch over a promoted version."""

    cases: int = Field(100, ge=1, description="observed cases until a promoted version counts as active")
    alpha: float = Field(0.01, gt=0, lt=1, description="error rate of rolling back a version that does no harm")


class Limits(Section):
    """What one training job may use."""

    minutes: float = Field(30, gt=0, description="time limit of one training job")
    memory_gib: float = Field(8, gt=0, description="limit of a job's resident memory")
    threads: int = Field(1, ge=1, description="threads of a job")
    change: float = Field(
        1.0, gt=0, le=1, description="largest change of what the encoder's last block gives, 1 - CKA on develop"
    )


class Plan(Section):
    """What is allowed, declared in advance; every version cites its digest."""

    mode: Literal["observe", "recommend", "bounded_auto"] = Field(
        "recommend",
        description="observe: watch and alert; recommend: a person approves; bounded_auto: promotes by itself",
    )
    responses: dict[ShiftName, Response] = Field(
        default_factory=lambda: dict(RESPONSES), description="per kind of shift"
    )
    gates: dict[str, GateRule] = Field(
        default_factory=lambda: dict(GATE_RULES), description="what a candidate must pass"
    )
    alpha: float = Field(
        0.05, gt=0, lt=0.5, description="error rate of each anchor set over all candidates it ever judges"
    )
    power: float = Field(0.8, gt=0, lt=1, description="power at which 'init' says what this n can decide")
    min_group: int = Field(20, ge=1, description="patients below which a subgroup is pooled and only informs")
    portfolio: Portfolio = Field(default_factory=Portfolio, description="which recipes are tried, and for how long")
    labels: Labels = Field(default_factory=Labels, description="how many labels an update takes")
    harm_shown: Literal["caution", "suspended"] = Field(
        "suspended",
        description="trust of a domain during an alarm once labels have shown that it is served worse than approved",
    )
    probation: Probation = Field(default_factory=Probation, description="the watch over a promoted version")
    limits: Limits = Field(default_factory=Limits, description="of one training job")
    seed: int = Field(0, ge=0, description="seed of training and resampling")

    @field_validator("responses")
    @classmethod
    def _complete(cls, given: dict[ShiftName, Response]) -> dict[ShiftName, Response]:
        return {**RESPONSES, **given}

    @field_validator("gates")
    @classmethod
    def _known_gates(cls, given: dict[str, GateRule]) -> dict[str, GateRule]:
        for name, rule in given.items():
            if name not in GATES:
                raise ValueError(f"'{name}' is no gate; there are {', '.join(GATES)}")
            if rule.elsewhere and name not in PER_DOMAIN:
                raise ValueError(f"'{name}' takes no 'elsewhere'; it is for {', '.join(PER_DOMAIN)}")
        return {**GATE_RULES, **given}
