"""Which weights move; `__all__` is the registry of this mechanism.

`EXPERIMENTAL` keep the same contract; a row on real data has not shown yet what they move, so no plan may name them.
"""

from strategies.parameter.adalora import AdaLoRA
from strategies.parameter.bitfit import BitFit
from strategies.parameter.bottleneck import Bottlenecks
from strategies.parameter.decoder import Decoder, MedSA, SAMed
from strategies.parameter.dora import DoRA
from strategies.parameter.early import EarlyBlocks
from strategies.parameter.full import Full
from strategies.parameter.ia3 import IA3
from strategies.parameter.linear_probe import LinearProbe
from strategies.parameter.lora import LoRA
from strategies.parameter.norms import Norms
from strategies.parameter.orthogonal import OrthogonalLoRA
from strategies.parameter.prefix import PrefixTokens
from strategies.parameter.prompt import LearnedPrompt

__all__ = ["LinearProbe", "LoRA", "Full"]

EXPERIMENTAL = (
    BitFit,
    Norms,
    IA3,
    DoRA,
    OrthogonalLoRA,
    Bottlenecks,
    PrefixTokens,
    EarlyBlocks,
    AdaLoRA,
    Decoder,
    SAMed,
    MedSA,
    LearnedPrompt,
)
