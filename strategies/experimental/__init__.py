"""Recipes on trial: benchmarks run them, no plan can name them. Real data has yet to say what each is good for."""

from strategies.experimental.alignments import BANKED, MIXED, REPRESENTATIONS
from strategies.experimental.objectives import DATA, OBJECTIVES
from strategies.experimental.parameters import DECODERS, PARAMETERS

EXPERIMENTAL = REPRESENTATIONS | OBJECTIVES | DATA | PARAMETERS

__all__ = ["EXPERIMENTAL", "REPRESENTATIONS", "OBJECTIVES", "DATA", "PARAMETERS", "DECODERS", "BANKED", "MIXED"]
