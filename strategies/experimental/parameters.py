"""`lora_rehearsal` with other weights that move; those that serve masks alone stand by themselves."""

from __future__ import annotations

from dataclasses import replace

from strategies.data import NewCases
from strategies.parameter import EXPERIMENTAL as ON_TRIAL
from strategies.parameter import Decoder, LearnedPrompt, LoRA, MedSA, OrthogonalLoRA, SAMed
from strategies.protocols import Recipe
from strategies.recipes import COMPARISONS, RECIPES

# lora_rehearsal with other weights that move: the same data and objective. The orthogonal adapter also without
# rehearsal, to stand beside naive_lora: keeping off old cases is what it claims to do by itself.
_LORA = RECIPES["lora_rehearsal"]
_ALONE = COMPARISONS["naive_lora"]
PARAMETERS = {
    recipe.name: recipe
    for recipe in (
        *(
            replace(
                _LORA,
                name=f"{kind().name}_rehearsal",
                stages=(replace(_LORA.stages[0], parameter=kind()), *_LORA.stages[1:]),
            )
            for kind in ON_TRIAL
            if "classification" in getattr(kind, "tasks", ("classification",))
        ),
        replace(
            _LORA,
            name="lean_lora_rehearsal",
            stages=(replace(_LORA.stages[0], parameter=LoRA(lean=True)), *_LORA.stages[1:]),
        ),
        Recipe(
            name="orthogonal_lora",
            stages=(replace(_ALONE.stages[0], parameter=OrthogonalLoRA(), data=NewCases()),),
            risk=_ALONE.risk,
        ),
    )
}

# For networks with a decoder behind their encoder.
DECODERS = {
    recipe.name: recipe
    for recipe in (
        replace(
            _LORA, name=f"{one.name}_rehearsal", stages=(replace(_LORA.stages[0], parameter=one), *_LORA.stages[1:])
        )
        for one in (Decoder(), SAMed(), MedSA(), LearnedPrompt())
    )
}
