"""Rehearsal: every batch has new cases and remembered ones in it (experience replay, Rolnick and others 2019).

The batches are made by avalanche's replay loader. Importing it takes 6 s, so it is imported where it is used.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import torch

from strategies.data.choices import Choice, by_domain
from strategies.protocols import EVERY_TASK, Batches, Lesson
from strategies.training import Shuffled

Share = Callable[[int, int], float]  # (new cases, remembered ones) -> the new ones' share of a batch, 0..1


def halves(new: int, remembered: int) -> float:
    """However few the new cases are, they have half of every batch."""
    return 0.5


def by_roots(new: int, remembered: int) -> float:
    """By the roots of their numbers, as domains share a vote (`domain_shares`), and half at most (on trial)."""
    return min(0.5, math.sqrt(new) / (math.sqrt(new) + math.sqrt(remembered)))


class Rehearsal:
    """Replays at most `size` remembered cases, those that `choose` names, beside the new ones, which have a `share` of
    each batch.

    An epoch is one pass over the new cases, or as many as make `least` batches: a few dozen new cases would be learnt
    in a few dozen steps, and what is remembered unlearnt. The memory is cycled beside them. Without a memory it is
    `NewCases`. What is frozen of the network is computed once for remembered cases as for new ones (`inputs.Latents`),
    so this is latent rehearsal (Pellegrini and others 2020) wherever the parameter mechanism freezes anything.
    """

    name = "rehearsal"
    tasks = EVERY_TASK
    remembers = True

    def __init__(self, size: int = 400, least: int = 16, choose: Choice = by_domain, share: Share = halves) -> None:
        self.size, self.least, self.choose, self.share = size, least, choose, share

    def batches(self, lesson: Lesson, batch: int, seed: int) -> Batches:
        replayed = self.choose(lesson, self.size, seed)
        if not replayed:
            return NewCases().batches(lesson, batch, seed)
        fresh = max(1, round(batch * self.share(lesson.new, len(replayed))))
        passes = math.ceil(self.least * fresh / lesson.new)
        from avalanche.benchmarks.utils import AvalancheDataset
        from avalanche.benchmarks.utils.data_loader import ReplayDataLoader

        return ReplayDataLoader(
            AvalancheDataset([list(range(lesson.new)) * passes]),
            AvalancheDataset([list(replayed)]),
            oversample_small_tasks=True,
            batch_size=fresh,
            batch_size_mem=min(max(1, batch - fresh), len(replayed)),
            shuffle=True,
            generator=torch.Generator().manual_seed(seed),
            collate_fn=list,
        )


class NewCases:
    """The new cases alone, shuffled anew each epoch, in batches of nearly equal size."""

    name = "new_cases"
    tasks = EVERY_TASK
    remembers = False

    def batches(self, lesson: Lesson, batch: int, seed: int) -> Batches:
        return Shuffled(lesson.new, batch, torch.Generator().manual_seed(seed))
