"""Images of two sites for tests: a disc on the left, a bar on the right, each by itself there or not."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from strategies.findings import members

CLASSES = ("bar", "disc")


@dataclass
class Marks:
    """The label is a set of CLASSES; the other site's images are inverted."""

    label: np.ndarray
    patient: np.ndarray
    domain: np.ndarray

    @classmethod
    def of(cls, domain: str, n: int, first: int = 0) -> Marks:
        numbers = np.arange(first, first + n)
        return cls(numbers % 4, np.array([f"{domain}{i}" for i in numbers]), np.full(n, domain))

    def __len__(self) -> int:
        return len(self.label)

    def image(self, i: int) -> np.ndarray:
        draw = np.random.default_rng(int(self.patient[i].lstrip("abcdefghijklmnopqrstuvwxyz")))
        has_bar, has_disc = members(self.label[i : i + 1], 2)[0]
        (y, u), x = draw.uniform(11, 21, 2), draw.uniform(8, 10)
        row, column = np.mgrid[:32, :32]
        image = np.full((32, 32), 40.0)
        if has_disc:
            image[np.hypot(row - y, column - x) < 6] = 120
        if has_bar:
            image[(abs(row - u) < 2) & (column > 18)] = 220
        image += draw.normal(0, 10, (32, 32))
        return (255 - image if self.domain[i] == "new" else image).clip(0, 255).astype(np.float32)


def balanced(probabilities: np.ndarray, labels: np.ndarray) -> float:
    """The mean share of right answers to each finding where it is there and where it isn't."""
    truth, said = members(labels, 2), probabilities >= 0.5
    cells = [(said[truth[:, c] == there, c] == there).mean() for c in range(2) for there in (True, False)]
    return float(np.mean(cells))
