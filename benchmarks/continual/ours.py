"""How a recipe learns a stream: as the agent does, version by version, with a memory of whole patients; and joint
training, which is given everything at once."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from benchmarks.loop import recall

if TYPE_CHECKING:
    from benchmarks.continual.streams import Parts
    from strategies.predictor import Predictor
    from strategies.protocols import Examples, Recipe

    Answers = Callable[[Examples], NDArray[np.float32]]

MEMORY = 200  # cases


def answers(predictor: Predictor) -> Answers:
    """Cases -> probabilities [n, k]."""
    import torch

    def answer(cases: Examples) -> NDArray[np.float32]:
        batches = np.array_split(np.arange(len(cases)), -(-len(cases) // 64))
        return np.concatenate(
            [predictor.answer(torch.stack([predictor.prepare(cases.image(i)) for i in rows])) for rows in batches]
        )

    return answer


def recipes(full: bool) -> Mapping[str, Recipe]:
    """Those that a plan may name; `full` adds the experimental ones."""
    from strategies.experimental import EXPERIMENTAL
    from strategies.recipes import RECIPES

    return RECIPES | EXPERIMENTAL if full else RECIPES


class Updated:
    """A recipe goes from site to site by its parts, and remembers MEMORY cases of the sites before."""

    def __init__(self, recipe: Recipe, base: Path, parts: Sequence[Parts], out: Path, seed: int) -> None:
        self.recipe, self.base, self.parts, self.out, self.seed = recipe, base, parts, out, seed
        self.live: Path | None = None

    def arrive(self, site: int) -> Answers:
        """Learns the site that has come; what the new version answers."""
        from strategies.base import Chosen
        from strategies.lessons import Joined
        from strategies.memory import balanced_by_domain
        from strategies.predictor import Predictor
        from strategies.recipes import run

        before = Joined(*(part.train for part in self.parts[:site]))
        facts = (before.domain.tolist(), before.label.tolist(), before.patient.tolist())
        kept = balanced_by_domain([str(i) for i in range(len(before))], *facts, MEMORY, self.seed)
        made = run(
            self.recipe,
            base=self.base,
            live_parts=self.live,
            new=self.parts[site].train,
            memory=Chosen(before, np.array(sorted(map(int, kept)), dtype=int)),
            develop=Joined(*(part.develop for part in self.parts[: site + 1])),
            out=self.out / f"{site}",
            seed=self.seed,
            measure=recall,
        )
        self.live = made.folder
        return answers(Predictor.load(self.base, self.live))


class Joint:
    """Fine-tunes the base on all training cases of all sites that are there, anew at each arrival: no site is old."""

    def __init__(self, base: Path, parts: Sequence[Parts], out: Path, seed: int) -> None:
        self.base, self.parts, self.out, self.seed = base, parts, out, seed

    def arrive(self, site: int) -> Answers:
        from strategies.base import Chosen
        from strategies.lessons import Joined
        from strategies.predictor import Predictor
        from strategies.recipes import RECIPES, run

        there = self.parts[: site + 1]
        made = run(
            RECIPES["full_finetune"],
            base=self.base,
            live_parts=None,
            new=Joined(*(part.train for part in there)),
            memory=Chosen(self.parts[0].train, np.array([], dtype=int)),
            develop=Joined(*(part.develop for part in there)),
            out=self.out / f"{site}",
            seed=self.seed,
            measure=recall,
        )
        return answers(Predictor.load(self.base, made.folder))
