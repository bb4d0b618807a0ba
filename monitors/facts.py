"""Do the cases' facts come as before: scanner, kernel, view, age? A chart over the columns that the site names."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from monitors.chart import Chart
from monitors.protocols import Batch, Float, Reference, Signal

VALUES = 12  # of a fact that are told apart; rarer ones are one value
REACH = 4.0  # standard deviations at which a number is cut off: a typing error is no drift
MISSING = ""


class FactStream:
    """The shares of each fact's values, rare ones and those unseen in the reference as one, and the means of its
    numbers, by a multivariate chart (see Chart).

    A fact is a number where all the reference's known values are and there are more than VALUES of them. A missing
    value is a value. What never varied in the reference's n patients is given the variance of one in n: a first new
    value is then unusual, and not infinitely so.

    `statistic` is Hotelling's T^2; `threshold` belongs to `log_e`; evidence names the `fact` that moved most.
    """

    name = "facts"

    def __init__(self, names: Sequence[str] = ("age", "sex"), run_length: float = 365.0) -> None:
        self.names = tuple(names)
        self.run_length = run_length

    def fit(self, reference: Reference) -> None:
        """Only `reference.calibrate` is read. Raises ValueError where it is empty."""
        ranked = reference.calibrate
        self.columns = [_Column(name, _text(ranked, name)) for name in self.names]
        self.chart = Chart(floor=1.0 / max(1, len(ranked)))
        self.chart.fit(self._see(ranked), ranked.unit, ranked.stratum)

    def update(self, batch: Batch) -> Signal:
        if len(batch):
            self.chart.update(self._see(batch), batch)
        driver = {} if self.chart.since is None else {"fact": self._driver()}
        return self.chart.signal(self.name, self.run_length, len(batch), **driver)

    def state(self) -> dict[str, NDArray]:
        return self.chart.state()

    def restore(self, state: Mapping[str, NDArray]) -> None:
        self.chart.restore(state)

    def _see(self, batch: Batch) -> Float:
        """[n, k]: the columns of every fact, side by side."""
        return np.hstack([column.of(_text(batch, name)) for name, column in self._named()])

    def _named(self) -> list[tuple[str, _Column]]:
        return list(zip(self.names, self.columns, strict=True))

    def _driver(self) -> str:
        """The fact of which the shares or the mean moved most, in its own standard deviations."""
        moved, end = np.abs(self.chart.moved()), 0
        found: dict[str, float] = {}
        for name, column in self._named():
            found[name] = float(moved[end : end + column.width].max())
            end += column.width
        return max(found, key=found.__getitem__)


class _Column:
    """How one fact becomes numbers, as learnt on the reference's values."""

    def __init__(self, name: str, values: Sequence[str]) -> None:
        known = [value for value in values if value != MISSING]
        numbers = [number for value in known if (number := _number(value)) is not None]
        self.number = len(numbers) == len(known) and len({*numbers}) > VALUES
        if self.number:
            self.centre, self.scale = float(np.mean(numbers)), float(np.std(numbers)) or 1.0
        self.usual = [value for value, _ in Counter(values).most_common(VALUES)]
        self.values = self.usual[1:]  # the commonest is what is left
        self.width = 2 if self.number else len(self.values) + 1

    def of(self, values: Sequence[str]) -> Float:
        """[n, width]: the number and whether it is missing, or a column per value and one for rare and unseen ones."""
        if self.number:
            found = [_number(value) for value in values]
            cut = [0.0 if x is None else np.clip((x - self.centre) / self.scale, -REACH, REACH) for x in found]
            return np.column_stack([cut, [float(x is None) for x in found]]).reshape(-1, 2)
        columns = [[float(value == one) for value in values] for one in self.values]
        others = [float(value not in self.usual) for value in values]
        return np.array([*columns, others], dtype=np.float64).T.reshape(-1, self.width)


def _text(batch: Batch, name: str) -> list[str]:
    """The fact of each case as text, empty where it is not known."""
    values = batch.facts.get(name)
    if values is None:
        return [MISSING] * len(batch)
    return [MISSING if str(value) == "nan" else str(value) for value in values]


def _number(text: str) -> float | None:
    try:
        number = float(text)
    except ValueError:
        return None
    return number if np.isfinite(number) else None
