"""What is minimised; `__all__` is the registry of this mechanism."""

from strategies.objective.cross_entropy import CrossEntropy

__all__ = ["CrossEntropy"]
