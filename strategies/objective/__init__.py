"""What is minimised; `__all__` is the registry of this mechanism."""

from strategies.objective.cross_entropy import CrossEntropy
from strategies.objective.self_supervised import Contrastive

EXPERIMENTAL = (Contrastive,)

__all__ = ["CrossEntropy"]
