"""Alignments, the adapter bank and continued pretraining."""

from __future__ import annotations

from dataclasses import replace

from strategies.architecture import AdapterBank, AdapterMixture
from strategies.data import AllCases, NewCases, Rehearsal
from strategies.objective import Contrastive, CrossEntropy, MaskedFeatures
from strategies.parameter import Full, LoRA
from strategies.protocols import Recipe, Stage
from strategies.recipes import EPOCHS, SOFTEN
from strategies.representation import BatchStatistics, Coral, Episodic, FeatureStatistics, PriorCorrection, Prototypes

# Representation and architecture. Cheapest first: no label and no gradient; then one set of parts for each domain.
BANKED = Stage(architecture=AdapterBank())
MIXED = Stage(architecture=AdapterMixture())
ALIGNMENTS = {
    "batch_statistics": (Stage(representation=BatchStatistics()),),
    "feature_statistics": (Stage(representation=FeatureStatistics()),),
    "coral": (Stage(representation=Coral()),),
    "prototypes": (Stage(representation=Prototypes()),),
    "prior_correction": (Stage(representation=PriorCorrection()),),
    "test_time": (Stage(representation=Episodic()),),
}
REHEARSED = Stage(parameter=Full(5e-4), objective=CrossEntropy(), data=Rehearsal(), epochs=EPOCHS)
NAIVE_LORA = Stage(parameter=LoRA(), objective=CrossEntropy(), data=NewCases(), epochs=EPOCHS)
PRETRAINED = Stage(parameter=Full(2e-4), objective=Contrastive(), data=AllCases(), epochs=EPOCHS)
MASKED = replace(PRETRAINED, objective=MaskedFeatures())

_REPRESENTATION = (
    *(Recipe(name=name, stages=stages, risk=1) for name, stages in ALIGNMENTS.items()),
    *(Recipe(name=f"{name}_banked", stages=(*stages, BANKED), risk=1) for name, stages in ALIGNMENTS.items()),
    Recipe(name="lora_banked", stages=(NAIVE_LORA, BANKED), risk=3),
    Recipe(name="lora_mixture", stages=(NAIVE_LORA, MIXED), risk=3),
    Recipe(name="full_from_base", stages=(REHEARSED, SOFTEN), risk=4),
    Recipe(name="contrastive_full_rehearsal", stages=(PRETRAINED, REHEARSED, SOFTEN), risk=5),
    Recipe(name="masked_full_rehearsal", stages=(MASKED, REHEARSED, SOFTEN), risk=5),
)

REPRESENTATIONS = {recipe.name: recipe for recipe in _REPRESENTATION}
