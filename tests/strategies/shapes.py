"""Images of two sites for tests: discs and squares, and how well they are told apart."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass
class Shapes:
    """Bright discs and squares on a dark ground; the other site's images are inverted."""

    label: np.ndarray
    patient: np.ndarray
    domain: np.ndarray

    @classmethod
    def of(cls, domain: str, n: int, first: int = 0) -> Shapes:
        numbers = np.arange(first, first + n)
        return cls(numbers % 2, np.array([f"{domain}{i}" for i in numbers]), np.full(n, domain))

    def __len__(self) -> int:
        return len(self.label)

    def image(self, i: int) -> np.ndarray:
        draw = np.random.default_rng(int(self.patient[i].lstrip("abcdefghijklmnopqrstuvwxyz")))
        y, x = np.mgrid[:32, :32] - draw.uniform(14, 18, (2, 1, 1))
        radius = draw.uniform(6, 10)
        inside = np.hypot(y, x) < radius if self.label[i] == 0 else np.maximum(abs(y), abs(x)) < radius * 0.85
        image = 40 + 160 * inside + draw.normal(0, 10, (32, 32))
        return (255 - image if self.domain[i] == "new" else image).clip(0, 255).astype(np.float32)


def balanced(probabilities: np.ndarray, labels: np.ndarray) -> float:
    said = probabilities.argmax(1)
    return float(np.mean([(said[labels == c] == c).mean() for c in np.unique(labels)]))
