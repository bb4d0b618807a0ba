"""Images of two sites with masks for tests: bright discs on a dark ground, a small one and a large one in each."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

CLASSES = ("background", "small", "large")


@dataclass
class Discs:
    """Two structures in every image; the other site's images are inverted."""

    label: np.ndarray
    patient: np.ndarray
    domain: np.ndarray
    side: int = 32

    @classmethod
    def of(cls, domain: str, n: int, first: int = 0, side: int = 32) -> Discs:
        numbers = np.arange(first, first + n)
        return cls(np.zeros(n, int), np.array([f"{domain}{i}" for i in numbers]), np.full(n, domain), side)

    def __len__(self) -> int:
        return len(self.label)

    def mask(self, i: int) -> np.ndarray:
        draw = np.random.default_rng(int(self.patient[i].lstrip("abcdefghijklmnopqrstuvwxyz")))
        y, x = np.mgrid[: self.side, : self.side] * 32 / self.side
        mask = np.zeros((self.side, self.side), np.uint8)
        left = draw.integers(2)
        for structure, radius in ((1, draw.uniform(2.5, 4)), (2, draw.uniform(5, 7))):
            cx = 8 if (structure == 1) == bool(left) else 23
            mask[np.hypot(y - draw.uniform(8, 23), x - cx) < radius] = structure
        return mask

    def image(self, i: int) -> np.ndarray:
        draw = np.random.default_rng(10_000 + int(self.patient[i].lstrip("abcdefghijklmnopqrstuvwxyz")))
        shape = (self.side, self.side)
        image = np.array([40.0, 130.0, 210.0])[Discs.mask(self, i)] + draw.normal(0, 10, shape)
        return (255 - image if self.domain[i] == "new" else image).clip(0, 255).astype(np.float32)


def dice(rows: np.ndarray, labels: np.ndarray) -> float:
    """Mean over structures and cases, from a segmentation's rows."""
    counts = rows[:, :-2].reshape(len(rows), -1, 3)
    return float(np.mean(2 * counts[..., 0] / np.maximum(counts[..., 1] + counts[..., 2], 1)))
