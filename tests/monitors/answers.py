"""Generated answers of a model that knows the Bayes rule and may be too sure of it, with the truth."""

from __future__ import annotations

import numpy as np

from monitors import Scores

RARE = (0.85, 0.15)


def answers(
    rng: np.random.Generator,
    n: int,
    prior: tuple[float, ...] = (0.4, 0.3, 0.3),
    now: tuple[float, ...] | None = None,
    apart: float = 2.0,
    sure: float = 1.5,
    name: str = "patient",
) -> Scores:
    """n patients of Gaussian classes `apart`; the model was made for the `prior`, and the classes come as `now` says.

    Log-odds are `sure` times the Bayes rule's: 1 is calibrated, above it is too sure.
    """
    classes = len(prior)
    target = rng.choice(classes, n, p=prior if now is None else now)
    x = rng.standard_normal((n, classes)) + apart * np.eye(classes)[target]
    odds = sure * (apart * x + np.log(prior))
    p = np.exp(odds - odds.max(axis=1, keepdims=True))
    return Scores(
        probability=p / p.sum(axis=1, keepdims=True),
        target=target,
        unit=np.array([f"{name} {i}" for i in range(n)]),
    )


def taken(scores: Scores, places: np.ndarray) -> Scores:
    """These cases only."""
    return Scores(probability=scores.probability[places], target=scores.target[places], unit=scores.unit[places])


def harder(rng: np.random.Generator, scores: Scores, share: float = 0.25) -> Scores:
    """Other patients of whom the model is less sure: of those with a top probability over 0.9 a `share` is left. Labels
    given answers stay as they were."""
    sure = scores.probability.max(axis=1) > 0.9
    return taken(scores, np.flatnonzero(~sure | (rng.random(len(scores)) < share)))
