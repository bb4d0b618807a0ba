"""The new site's pooled features brought to where home's lie, by one affine map that the head takes in.

Features [n, d] are those of the version so far, home's too: so batch statistics of the site don't go before it. Nothing
here costs time when it is served (`strategies.alignment.fold`).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from strategies.alignment import ALIGNMENT
from strategies.protocols import Learner, Lesson
from strategies.representation.rows import site_and_home

Map = tuple[NDArray[np.float64], NDArray[np.float64]]  # A [d, d] or its diagonal [d], b [d]


class FeatureStatistics:
    """Mean and deviation of every feature, for networks without batch norms too: x -> (x - m) s_home / s + m_home.

    A feature that hardly varies at the site is moved, and never stretched beyond `at_most`.
    """

    name = "feature_statistics"
    labelled = False

    def __init__(self, at_most: float = 3.0) -> None:
        self.at_most = at_most

    def fit(self, held: Lesson, served: Learner, folder: Path) -> dict[str, str]:
        """Writes alignment.safetensors. Raises ValueError with fewer than two cases of either side."""
        site, home = _both(held)
        tiny = np.finfo(np.float32).tiny
        scale = np.clip(home.std(axis=0) / np.maximum(site.std(axis=0), tiny), 1 / self.at_most, self.at_most)
        return _write((scale, home.mean(axis=0) - scale * site.mean(axis=0)), folder)


class Coral:
    """Correlation alignment (Sun, Feng and Saenko 2016), from the site's features to home's, as they are served.

    A = C_home^1/2 C_site^-1/2 with covariances shrunk as Ledoit and Wolf (2004) have it, and equal means.
    """

    name = "coral"
    labelled = False

    def fit(self, held: Lesson, served: Learner, folder: Path) -> dict[str, str]:
        """Writes alignment.safetensors. Raises ValueError with fewer than two cases of either side."""
        site, home = _both(held)
        weight = _power(home, 0.5) @ _power(site, -0.5)
        return _write((weight, home.mean(axis=0) - weight @ site.mean(axis=0)), folder)


class Prototypes:
    """Each class's mean at the site is moved towards the class's mean at home, and what lies between along with it.

    A = I + D, D the ridge regression of the way home on the place among the site's classes, `ridge` in units of its
    mean eigenvalue. A case without a label counts as the class that the version says.
    """

    name = "prototypes"
    labelled = False

    def __init__(self, ridge: float = 1.0) -> None:
        self.ridge = ridge

    def fit(self, held: Lesson, served: Learner, folder: Path) -> dict[str, str]:
        """Writes alignment.safetensors. Raises ValueError where no class has cases on both sides."""
        rows = site_and_home(held)
        said = np.where(held.label >= 0, held.label, held.logits().argmax(axis=1))
        features = held.features().astype(np.float64)
        shared = sorted(set(said[rows[0]].tolist()) & set(said[rows[1]].tolist()))
        if not shared:
            raise ValueError("No class has cases both at the new site and at home: there is no prototype to align.")
        site, home = (np.stack([features[side][said[side] == c].mean(axis=0) for c in shared]) for side in rows)
        x, way = site - site.mean(axis=0), home - site
        inner = x @ x.T
        level = self.ridge * np.trace(inner) / len(shared)
        moved = (x.T @ np.linalg.pinv(inner + level * np.eye(len(shared))) @ (way - way.mean(axis=0))).T
        weight = np.eye(features.shape[1]) + moved
        return _write((weight, home.mean(axis=0) - weight @ site.mean(axis=0)), folder)


def _both(held: Lesson) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    site, home = site_and_home(held)
    if len(home) < 2:
        raise ValueError("An alignment needs at least 2 cases of home to align the new site's with.")
    features = held.features().astype(np.float64)
    return features[site], features[home]


def _power(features: NDArray[np.float64], exponent: float) -> NDArray[np.float64]:
    from sklearn.covariance import ledoit_wolf

    values, vectors = np.linalg.eigh(ledoit_wolf(features)[0])
    return (vectors * np.maximum(values, 1e-12 * values.max()) ** exponent) @ vectors.T


def _write(alignment: Map, folder: Path) -> dict[str, str]:
    weight, bias = (np.ascontiguousarray(one, dtype=np.float32) for one in alignment)
    save_file({"weight": weight, "bias": bias}, folder / ALIGNMENT)
    return {"alignment": ALIGNMENT}
