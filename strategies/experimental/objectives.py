"""`full_rehearsal` with another objective, or another choice of what is replayed: its row shows that one slot."""

from __future__ import annotations

from dataclasses import replace

from strategies.data import (
    Curated,
    Rehearsal,
    by_class,
    by_domain,
    by_patient,
    by_roots,
    by_style,
    hard_first,
    herding,
    reservoir,
)
from strategies.objective import (
    EWC,
    MMCE,
    CrossEntropy,
    DarkExperience,
    Distillation,
    Focal,
    LwF,
    WorstGroup,
)
from strategies.objective.sum import Sum
from strategies.protocols import DataMechanism, ObjectiveMechanism, Recipe, Stage
from strategies.recipes import RECIPES

# Fewer than the public recipes replay, or there would be nothing to choose.
REPLAYED = 100


def _beside(objective: ObjectiveMechanism, weight: float) -> Sum:
    return Sum((CrossEntropy(), 1.0), (objective, weight))


# It continues the live version, so what a model says as the training begins is what the live one says.
_PUBLIC = RECIPES["full_rehearsal"]


def _learning(name: str, first: Stage) -> Recipe:
    return replace(_PUBLIC, name=name, stages=(first, *_PUBLIC.stages[1:]))


_OBJECTIVES: dict[str, ObjectiveMechanism] = {
    "focal": Focal(),
    "distillation": _beside(Distillation(), 1.0),
    "lwf": _beside(LwF(), 1.0),
    "ewc": _beside(EWC(), 100.0),
    "dark_experience": DarkExperience(),
    "mmce": _beside(MMCE(), 1.0),
    "worst_domain": WorstGroup(),
    "worst_class": WorstGroup(by_class=True),
}

# Compared with `replay_by_domain`, which replays as few by the public recipes' choice; the last two with
# `full_rehearsal` itself.
_DATA: dict[str, DataMechanism] = {
    "replay_by_domain": Rehearsal(REPLAYED, choose=by_domain),
    "replay_by_class": Rehearsal(REPLAYED, choose=by_class),
    "replay_by_patient": Rehearsal(REPLAYED, choose=by_patient),
    "replay_reservoir": Rehearsal(REPLAYED, choose=reservoir),
    "replay_herding": Rehearsal(REPLAYED, choose=herding),
    "replay_by_style": Rehearsal(REPLAYED, choose=by_style),
    "replay_hard_first": Rehearsal(REPLAYED, choose=hard_first),
    "rehearsal_by_roots": Rehearsal(share=by_roots),
    "curated": Curated(),
}

OBJECTIVES = {name: _learning(name, replace(_PUBLIC.stages[0], objective=one)) for name, one in _OBJECTIVES.items()}
DATA = {name: _learning(name, replace(_PUBLIC.stages[0], data=one)) for name, one in _DATA.items()}
