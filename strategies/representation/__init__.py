"""How features or scores are aligned without moving a weight; `__all__` is the registry of this mechanism."""

from strategies.representation.recalibrate import Recalibrate

__all__ = ["Recalibrate"]
