"""How common each class is among cases that nobody has labelled, and what a probability is worth under another mix."""

from __future__ import annotations

import numpy as np

from monitors.protocols import Float, Int

ROUNDS = 200  # of expectation maximisation
LEAST = 1e-3  # prevalence of a class in the reference
HEAVY = 100.0  # of the equation that a mix sums to 1, beside those of the classes


def prevalence(known: Float, labels: Int, new: Float) -> tuple[Float, Float]:
    """([c], [c]): of the reference and of the new cases, probabilities known [n, c] and new [m, c].

    labels [n]: the class, -1 where unknown. With labels of every class by black-box shift estimation, see `mixes`.
    Without them by expectation maximisation (Saerens, Latinne and Decaestecker 2002).
    """
    if np.bincount(labels[labels >= 0], minlength=known.shape[1]).all():
        was, now = mixes(known, labels, new, np.ones((1, len(known))), np.ones((1, len(new))))
        return was[0], now[0]
    was = np.maximum(known.mean(axis=0), LEAST)
    was, now = was / was.sum(), was / was.sum()
    for _ in range(ROUNDS):
        posterior = new * (now / was)
        now = (posterior / np.maximum(posterior.sum(axis=1, keepdims=True), 1e-12)).mean(axis=0)
    return was, now


def mixes(known: Float, labels: Int, new: Float, weights: Float, new_weights: Float) -> tuple[Float, Float]:
    """([b, c], [b, c]): the prevalences of `prevalence` under each row of weights [b, n] and [b, m].

    By black-box shift estimation (Lipton, Wang and Smola 2018): the mix of the classes' mean answers that gives the new
    mean answer. A class without a labelled case has prevalence 0 in both.
    """
    from scipy.optimize import nnls

    classes, told = known.shape[1], labels >= 0
    truth = np.eye(classes)[labels[told]]
    counts = weights[:, told] @ truth
    answers = (truth[:, :, None] * known[told][:, None, :]).reshape(len(truth), classes**2)
    of_class = (weights[:, told] @ answers).reshape(-1, classes, classes) / np.maximum(counts, 1e-12)[:, :, None]
    mean = new_weights @ new / new_weights.sum(axis=1, keepdims=True)
    now = np.zeros_like(counts)
    for row, there in enumerate(counts > 0):
        columns = of_class[row][there].T
        mix, _ = nnls(np.vstack([columns, np.full(columns.shape[1], HEAVY)]), np.append(mean[row], HEAVY))
        now[row, there] = mix / max(mix.sum(), 1e-12)
    return counts / counts.sum(axis=1, keepdims=True), now


def under(mix: tuple[Float, Float], chances: Float, answer: Int, said: Float) -> Float:
    """[b, m]: the chances [b, m] that the answers [m] are right, once the classes come in another mix, (was, now) of
    [b, c] each: posteriors are multiplied by the ratio of the priors (Saerens, Latinne and Decaestecker 2002).

    said [m, c]: the probabilities, by which the classes that were not answered share what the chance leaves. Those of a
    class that the reference has none of stay.
    """
    was, now = mix
    ratio = np.where(was > 0, now / np.maximum(was, LEAST), 1.0)
    others = np.array(said, dtype=np.float64)
    others[np.arange(len(answer)), answer] = 0.0
    others /= np.maximum(others.sum(axis=1, keepdims=True), 1e-12)
    own = np.clip(chances, 0.0, 1.0)
    own, rest = own * ratio[:, answer], (1.0 - own) * (ratio @ others.T)
    return own / np.maximum(own + rest, 1e-12)
