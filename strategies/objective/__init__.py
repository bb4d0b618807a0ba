"""What is minimised; `__all__` is the registry of this mechanism, and `EXPERIMENTAL` holds what is on trial.

`Sum` composes them.
"""

from strategies.objective.calibration import MMCE
from strategies.objective.cross_entropy import CrossEntropy
from strategies.objective.dark_experience import DarkExperience
from strategies.objective.distillation import Distillation, LwF
from strategies.objective.ewc import EWC
from strategies.objective.focal import Focal
from strategies.objective.self_supervised import Contrastive, MaskedFeatures
from strategies.objective.supervised import Supervised
from strategies.objective.worst_group import WorstGroup

__all__ = ["CrossEntropy", "Supervised"]

# No row on real data says yet what these move, so no public recipe has them.
EXPERIMENTAL = (Focal, Distillation, LwF, EWC, DarkExperience, MMCE, WorstGroup, Contrastive, MaskedFeatures)
