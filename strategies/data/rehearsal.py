"""Rehearsal: every batch is half new cases and half remembered ones (experience replay, Rolnick and others 2019)."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import chain, repeat

import torch
from torch.utils.data import BatchSampler, RandomSampler

from strategies.data.choices import Choice, by_domain
from strategies.protocols import Batches, Lesson
from strategies.training import Shuffled


class Rehearsal:
    """Replays at most `size` remembered cases, those that `choose` names, beside the new ones.

    An epoch is one pass over the new cases, or as many as make `least` batches: a few dozen new cases would be learnt
    in a few dozen steps, and what is remembered unlearnt. The memory is cycled beside them. Without a memory it is
    `NewCases`. What is frozen of the network is computed once for remembered cases as for new ones (`inputs.Latents`),
    so this is latent rehearsal (Pellegrini and others 2020) wherever the parameter mechanism freezes anything.
    """

    name = "rehearsal"
    remembers = True

    def __init__(self, size: int = 400, least: int = 16, choose: Choice = by_domain) -> None:
        self.size, self.least, self.choose = size, least, choose

    def batches(self, lesson: Lesson, batch: int, seed: int) -> Batches:
        replayed = self.choose(lesson, self.size, seed)
        if not replayed:
            return NewCases().batches(lesson, batch, seed)
        half = max(1, batch // 2)
        passes = math.ceil(self.least * half / lesson.new)
        return Beside(list(range(lesson.new)) * passes, replayed, half, torch.Generator().manual_seed(seed))


class Beside:
    """Batches of `half` new rows and as many replayed ones; the replayed are shuffled anew when they are all used.

    The same batches as avalanche's ReplayDataLoader with oversampling makes, without the 6 s that importing it takes
    and the time that it takes beside each step.
    """

    def __init__(self, new: Sequence[int], replayed: Sequence[int], half: int, generator: torch.Generator) -> None:
        self.new, self.replayed, self.generator = new, replayed, generator
        self._of_new, self._of_replayed = (
            BatchSampler(RandomSampler(rows, generator=generator), min(half, len(rows)), drop_last=False)
            for rows in (new, replayed)
        )

    def __len__(self) -> int:
        return len(self._of_new)

    def __iter__(self) -> Iterator[Sequence[int]]:
        # A DataLoader first draws a seed for its workers: without that these would be other batches than avalanche's.
        torch.empty((), dtype=torch.int64).random_(generator=self.generator)
        again = chain.from_iterable(repeat(self._of_replayed))
        for fresh, old in zip(self._of_new, again, strict=False):
            yield [*(self.new[i] for i in fresh), *(self.replayed[i] for i in old)]


class NewCases:
    """The new cases alone, shuffled anew each epoch, in batches of nearly equal size."""

    name = "new_cases"
    remembers = False

    def batches(self, lesson: Lesson, batch: int, seed: int) -> Batches:
        return Shuffled(lesson.new, batch, torch.Generator().manual_seed(seed))
