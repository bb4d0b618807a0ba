"""Images of two sites with boxes for tests: bright cells of two kinds on a dark ground, one or two in each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CLASSES = ("large", "small")


@dataclass
class Cells:
    """Up to two cells in every image, none in each tenth; the other site's images are darker and wider."""

    label: np.ndarray
    patient: np.ndarray
    domain: np.ndarray
    side: int = 64

    @classmethod
    def of(cls, domain: str, n: int, first: int = 0, side: int = 64) -> Cells:
        numbers = np.arange(first, first + n)
        return cls(np.zeros(n, int), np.array([f"{domain}{i}" for i in numbers]), np.full(n, domain), side)

    def __len__(self) -> int:
        return len(self.label)

    def number(self, i: int) -> int:
        return int(self.patient[i].lstrip("abcdefghijklmnopqrstuvwxyz"))

    def shape(self, i: int) -> tuple[int, int]:
        return (self.side, 2 * self.side if self.domain[i] == "new" else self.side)

    def boxes(self, i: int) -> np.ndarray:
        draw = np.random.default_rng(self.number(i))
        height, width = self.shape(i)
        found = []
        for left in draw.permutation(2)[: 0 if self.number(i) % 10 == 9 else 1 + draw.integers(2)]:
            kind = int(draw.integers(2))
            radius = draw.uniform(0.07, 0.09) if kind else draw.uniform(0.15, 0.18)
            x, y = 0.25 + 0.5 * left + draw.uniform(-0.05, 0.05), draw.uniform(0.25, 0.75)
            found.append(
                [kind, (x - radius) * width, (y - radius) * height, (x + radius) * width, (y + radius) * height]
            )
        return np.array(found, np.float32).reshape(-1, 5)

    def image(self, i: int) -> np.ndarray:
        draw = np.random.default_rng(10_000 + self.number(i))
        height, width = self.shape(i)
        y, x = np.mgrid[:height, :width] + 0.5
        image = 60 + draw.normal(0, 8, (height, width))
        for kind, x0, y0, x1, y1 in Cells.boxes(self, i):
            inside = np.hypot((2 * x - x0 - x1) / (x1 - x0), (2 * y - y0 - y1) / (y1 - y0)) < 1
            image[inside] += 150 if kind else 90
        return (image * (0.7 if self.domain[i] == "new" else 1.0)).clip(0, 255).astype(np.float32)


def f1(rows: np.ndarray, labels: np.ndarray, classes: int = 2) -> float:
    """Mean over cases of F1 at an overlap of a half, from a detection's rows."""
    boxes = rows[:, :-classes].reshape(len(rows), -1, 12)
    shown = boxes[..., 0] >= 0.5
    hit = (shown & (boxes[..., 2] > 0)).sum(axis=1)
    both = shown.sum(axis=1) + rows[:, -classes:].sum(axis=1)
    return float(np.mean(np.where(both > 0, 2 * hit / np.maximum(both, 1), 1.0)))
