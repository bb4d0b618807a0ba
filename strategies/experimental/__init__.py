"""Recipes on trial: benchmarks run them, no plan can name them. Real data has yet to say what each is good for."""

from strategies.experimental.alignments import BANKED, MIXED, REPRESENTATIONS
from strategies.experimental.objectives import DATA, OBJECTIVES
from strategies.experimental.parameters import PARAMETERS

EXPERIMENTAL = REPRESENTATIONS | OBJECTIVES | DATA | PARAMETERS

__all__ = ["EXPERIMENTAL", "REPRESENTATIONS", "OBJECTIVES", "DATA", "PARAMETERS", "BANKED", "MIXED"]
