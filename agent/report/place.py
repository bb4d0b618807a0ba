"""A map of what the sensor saw: cases that look alike lie near each other."""

from __future__ import annotations

from typing import Any

COMPONENTS = 50  # principal ones that neighbours are looked for in
PERPLEXITY = 30  # neighbours that a case is laid out by
FEWEST = 12  # cases of both sides below which there is no map


def placed(before: Any, since: Any) -> tuple[Any, Any]:
    """(reference [n, 2], cases [m, 2]) of embeddings before [n, d] and since [m, d], by t-SNE (van der Maaten and
    Hinton 2008) of both together, in the reference's standard deviations; the same call gives the same map.

    Both together, because a map of the reference that new cases are placed into shows where they are most like it: it
    takes another scanner's offset away (Policar, Strazar and Zupan 2023), and that is what is looked for here. Of cases
    like the reference's as many are neighbours of their own as chance would have it. Both are empty with fewer than
    FEWEST cases or none of one side, of another width, or where nothing varies.
    """
    import numpy as np
    from sklearn.manifold import TSNE

    nothing = np.zeros((0, 2)), np.zeros((0, 2))
    if min(len(before), len(since)) == 0 or len(before) + len(since) < FEWEST or before.shape[1] != since.shape[1]:
        return nothing
    both = (np.vstack([before, since]).astype(np.float64) - before.mean(axis=0)) / (before.std(axis=0) + 1e-6)
    both -= both.mean(axis=0)
    if not both.any():
        return nothing
    directions = np.linalg.svd(both, full_matrices=False)[2][:COMPONENTS]
    perplexity = min(PERPLEXITY, (len(both) - 1) / 3)
    found = TSNE(perplexity=perplexity, random_state=0, n_jobs=1).fit_transform(both @ directions.T)
    return found[: len(before)], found[len(before) :]
