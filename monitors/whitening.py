"""The coordinates that distances between embeddings are taken in, learnt once on the reference's transform part."""

from __future__ import annotations

import numpy as np

from monitors.protocols import Float


class Whitener:
    """Embeddings [n, d] -> [n, k + 1]: k whitened principal components, and how far off their plane the case lies.

    The last coordinate is the log length of what the components leave over, standardised: the images of another
    modality often differ there and nowhere else. k is at most `components`, and a third of the cases it is learnt from.
    """

    def __init__(self, embedding: Float, components: int = 32) -> None:
        """Raises ValueError with fewer than two cases."""
        if len(embedding) < 2:
            raise ValueError(f"the reference's transform part needs two cases or more, not {len(embedding)}")
        x = np.asarray(embedding, dtype=np.float64)
        self.mean = x.mean(axis=0)
        _, singular, directions = np.linalg.svd(x - self.mean, full_matrices=False)
        k = max(1, min(components, x.shape[1], len(x) // 3))
        scale = singular[:k] / np.sqrt(len(x) - 1)
        ridge = 1e-6 * max(float(scale[0]), 1e-12)
        self.directions = directions[:k]
        self.scale = scale + ridge
        self.floor = 1e-3 * ridge + 1e-12
        rest = self._rest(*self._along(x))
        self.rest_mean, self.rest_scale = float(rest.mean()), float(rest.std()) + 1e-2

    def __call__(self, embedding: Float) -> Float:
        """[n, d] -> float32 [n, k + 1]."""
        centred, along = self._along(np.asarray(embedding, dtype=np.float64))
        rest = (self._rest(centred, along) - self.rest_mean) / self.rest_scale
        return np.column_stack([along / self.scale, rest]).astype(np.float32)

    def _along(self, x: Float) -> tuple[Float, Float]:
        """(what is left without the mean [n, d], how far that reaches along each component [n, k])."""
        centred = x - self.mean
        return centred, centred @ self.directions.T

    def _rest(self, centred: Float, along: Float) -> Float:
        left = np.linalg.norm(centred - along @ self.directions, axis=1)
        return np.log(left + self.floor)


def squared_distances(a: Float, b: Float) -> Float:
    """[n, k], [m, k] -> [n, m]."""
    squares = (-2.0 * a) @ b.T
    squares += (a * a).sum(axis=1)[:, None]
    squares += (b * b).sum(axis=1)
    return np.maximum(squares, 0.0, out=squares)
