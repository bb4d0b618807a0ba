"""Avalanche's storage policy for rehearsal, made aware of patients and domains. Importing it takes 6 s."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from avalanche.benchmarks.utils import AvalancheDataset
from avalanche.benchmarks.utils.data_attribute import DataAttribute
from avalanche.training.storage_policy import ExemplarsBuffer

from strategies.memory import balanced_by_domain

FACTS = ("case", "domains", "labels", "patients")


class PatientBuffer(ExemplarsBuffer):
    """Keeps at most `max_size` cases: whole patients, even over domains and classes (`balanced_by_domain`).

    avalanche's own policies draw single samples at random, so a patient may be half in and half out, and a retry
    differs. The buffer lives for one training: what is remembered for good is the agent's, and changes on promotion.
    """

    def __init__(self, max_size: int, seed: int) -> None:
        super().__init__(max_size)
        self.seed = seed

    def post_adapt(self, agent_state: Any, exp: Any) -> None:
        self.add(exp.dataset)

    def add(self, data: AvalancheDataset) -> None:
        before: AvalancheDataset = self.buffer  # type: ignore[has-type]
        self.buffer = data.concat(before) if len(before) else data
        self.resize(None, self.max_size)

    def resize(self, strategy: Any, new_size: int) -> None:
        self.max_size = new_size
        case, domains, labels, patients = (list(getattr(self.buffer, name)) for name in FACTS)
        kept = set(balanced_by_domain(case, domains, labels, patients, new_size, self.seed))
        self.buffer = self.buffer.subset([i for i, name in enumerate(case) if name in kept])


def as_dataset(
    indices: Sequence[int], domains: Sequence[str], labels: Sequence[int], patients: Sequence[str]
) -> AvalancheDataset:
    """An avalanche dataset whose items are indices of cases: no image passes through avalanche, or is kept by it."""
    columns = ([str(i) for i in indices], list(domains), list(labels), list(patients))
    attributes = [DataAttribute(column, name) for name, column in zip(FACTS, columns, strict=True)]
    return AvalancheDataset([list(indices)], data_attributes=attributes)
