"""How features or scores are aligned without moving a weight; `__all__` is the registry of this mechanism.

`EXPERIMENTAL` are those that stand outside every default plan until real data has shown what they move.
"""

from strategies.representation.affine import Coral, FeatureStatistics, Prototypes
from strategies.representation.episodic import Episodic
from strategies.representation.priors import PriorCorrection
from strategies.representation.recalibrate import Recalibrate
from strategies.representation.statistics import BatchStatistics

EXPERIMENTAL = (BatchStatistics, FeatureStatistics, Coral, Prototypes, PriorCorrection, Episodic)

__all__ = ["Recalibrate"]
