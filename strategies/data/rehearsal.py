"""Rehearsal: every batch is half new cases and half remembered ones (experience replay, Rolnick and others 2019)."""

from __future__ import annotations

import math

import torch

from strategies.protocols import Batches, Examples
from strategies.training import Shuffled


class Rehearsal:
    """Replays at most `size` remembered cases beside the new ones, through avalanche's replay loader.

    An epoch is one pass over the new cases, or as many as make `least` batches: a few dozen new cases would be learnt
    in a few dozen steps, and what is remembered unlearnt. The memory is cycled beside them. Without a memory it is
    `NewCases`.
    """

    name = "rehearsal"
    remembers = True

    def __init__(self, size: int = 400, least: int = 16) -> None:
        self.size, self.least = size, least

    def batches(self, new: Examples, memory: Examples, batch: int, seed: int) -> Batches:
        if len(memory) == 0:
            return NewCases().batches(new, memory, batch, seed)
        from avalanche.benchmarks.utils.data_loader import ReplayDataLoader

        from strategies.data.patient_buffer import PatientBuffer, as_dataset

        remembered = range(len(new), len(new) + len(memory))
        buffer = PatientBuffer(self.size, seed)
        buffer.add(as_dataset(remembered, memory.domain.tolist(), memory.label.tolist(), memory.patient.tolist()))
        half = max(1, batch // 2)
        passes = math.ceil(self.least * half / len(new))
        facts = (new.domain.tolist(), new.label.tolist(), new.patient.tolist())
        return ReplayDataLoader(
            as_dataset(list(range(len(new))) * passes, *(fact * passes for fact in facts)),
            buffer.buffer,
            oversample_small_tasks=True,
            batch_size=half,
            batch_size_mem=min(half, len(buffer.buffer)),
            shuffle=True,
            generator=torch.Generator().manual_seed(seed),
            collate_fn=list,
        )


class NewCases:
    """The new cases alone, shuffled anew each epoch, in batches of nearly equal size."""

    name = "new_cases"
    remembers = False

    def batches(self, new: Examples, memory: Examples, batch: int, seed: int) -> Batches:
        return Shuffled(len(new), batch, torch.Generator().manual_seed(seed))
