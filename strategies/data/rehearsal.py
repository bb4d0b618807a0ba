"""Rehearsal: every batch is half new cases and half remembered ones (experience replay, Rolnick and others 2019)."""

from __future__ import annotations

import math

import torch

from strategies.protocols import Batches, Lesson
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

    def batches(self, lesson: Lesson, batch: int, seed: int) -> Batches:
        if lesson.remembered == 0:
            return NewCases().batches(lesson, batch, seed)
        from avalanche.benchmarks.utils.data_loader import ReplayDataLoader

        from strategies.data.patient_buffer import PatientBuffer, as_dataset

        new, remembered = range(lesson.new), range(lesson.new, lesson.new + lesson.remembered)
        buffer = PatientBuffer(self.size, seed)
        buffer.add(as_dataset(remembered, *_facts(lesson, remembered)))
        half = max(1, batch // 2)
        passes = math.ceil(self.least * half / len(new))
        return ReplayDataLoader(
            as_dataset(list(new) * passes, *(fact * passes for fact in _facts(lesson, new))),
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

    def batches(self, lesson: Lesson, batch: int, seed: int) -> Batches:
        return Shuffled(lesson.new, batch, torch.Generator().manual_seed(seed))


def _facts(lesson: Lesson, rows: range) -> tuple[list, list, list]:
    some = slice(rows.start, rows.stop)
    return lesson.domain[some].tolist(), lesson.label[some].tolist(), lesson.patient[some].tolist()
