"""A bank whose sets of parts answer together, where an image lies between their domains."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from strategies.architecture.adapter_bank import AdapterBank
from strategies.protocols import Lesson
from strategies.routing import posterior


class AdapterMixture:
    """p(y | x) = sum over domains of p(domain | x) p(y | x, domain): a mixture of experts (Jacobs and others 1991).

    The gate is not learnt: it is `posterior` of the bank's own distances. Each set's probabilities are mixed, after its
    own recalibration: those are what the sum is of, and logits of heads that were tempered apart have no common scale.
    A share that falls to a domain beyond whose reach the image lies is the fallback's, and a set below 1 % is not run;
    so where one domain is certain, the answer is the bank's, byte for byte.
    """

    name = "adapter_mixture"

    def __init__(self, covered: float = 0.99) -> None:
        self.bank = AdapterBank(covered, posterior.__name__)

    def assemble(self, lesson: Lesson, parts: Mapping[str, str], live: Sequence[Path], folder: Path) -> dict[str, str]:
        """As a bank's, whose files these are: bank.json says that they are mixed. Raises ValueError as a bank does."""
        return self.bank.assemble(lesson, parts, live, folder)
