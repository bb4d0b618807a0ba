"""Every case of a lesson alike: for objectives that need no label."""

from __future__ import annotations

import torch

from strategies.protocols import Batches, Lesson
from strategies.training import Shuffled


class AllCases:
    """New, remembered and unlabelled cases, shuffled anew each epoch, in batches of nearly equal size."""

    name = "all_cases"
    remembers = True

    def batches(self, lesson: Lesson, batch: int, seed: int) -> Batches:
        return Shuffled(len(lesson), batch, torch.Generator().manual_seed(seed))
