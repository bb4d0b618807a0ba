"""Volumes with a bright ball in one half of them for tests, or without: their middle slice never shows it."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

DEPTH = 9


@dataclass
class Balls:
    """Cases of one patient each, the even ones with a ball; read as so many `slices`, or as the middle one.

    The other site's images are inverted.
    """

    label: np.ndarray
    patient: np.ndarray
    domain: np.ndarray
    slices: int = DEPTH
    side: int = 32
    masked: bool = False

    @classmethod
    def of(cls, domain: str, n: int, first: int = 0, slices: int = DEPTH) -> Balls:
        numbers = np.arange(first, first + n)
        return cls(1 - numbers % 2, np.array([f"{domain}{i}" for i in numbers]), np.full(n, domain), slices)

    def drawn(self) -> Balls:
        """The same, of a segmentation, with a ball in each."""
        return replace(self, label=np.zeros(len(self), int), masked=True)

    def __len__(self) -> int:
        return len(self.label)

    def mask(self, i: int) -> np.ndarray:
        return self._read(self._ball(i).astype(np.uint8))

    def image(self, i: int) -> np.ndarray:
        draw = np.random.default_rng(10_000 + self._number(i))
        volume = draw.normal(60, 10, (DEPTH, self.side, self.side))
        if self.masked or self.label[i]:
            volume[self._ball(i)] += 120
        volume = 255 - volume if self.domain[i] == "new" else volume
        return self._read(volume.clip(0, 255).astype(np.float32))

    def _ball(self, i: int) -> np.ndarray:
        draw = np.random.default_rng(self._number(i))
        z, y, x = np.mgrid[:DEPTH, : self.side, : self.side]
        middle = (1.5 if draw.integers(2) else DEPTH - 2.5, *draw.uniform(10, self.side - 10, 2))
        far = ((z - middle[0]) * 4) ** 2 + (y - middle[1]) ** 2 + (x - middle[2]) ** 2
        return far < draw.uniform(7, 9) ** 2

    def _number(self, i: int) -> int:
        return int(str(self.patient[i]).lstrip("abcdefghijklmnopqrstuvwxyz"))

    def _read(self, volume: np.ndarray) -> np.ndarray:
        if self.slices == 1:
            return volume[DEPTH // 2]
        return volume[[(2 * part + 1) * DEPTH // (2 * self.slices) for part in range(self.slices)]]
