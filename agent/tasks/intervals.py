"""Figures with a 95 % interval over patients, as people and `--json` are told them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

RESAMPLES, SEED = 1000, 0


def drawn(weight: NDArray[np.floating], unit: NDArray[np.str_]) -> NDArray[np.floating]:
    """[1 + RESAMPLES, n]: the weights [n] as they are, and with patients drawn anew."""
    import numpy as np

    return np.vstack([weight, *(np.asarray(w, np.float64) * weight for w in _draws(unit))])


def with_interval(values: NDArray[np.floating]) -> dict[str, Any]:
    """[1 + draws] -> the first, and the middle 95 % of the others."""
    import numpy as np

    finite = values[1:][np.isfinite(values[1:])]
    low, high = np.quantile(finite, (0.025, 0.975)) if len(finite) else (np.nan, np.nan)
    return {"value": rounded(values[0]), "interval": [rounded(low), rounded(high)]}


def share(
    hit: NDArray[np.bool_], among: NDArray[np.bool_], weight: NDArray[np.floating], unit: NDArray[np.str_]
) -> dict[str, Any]:
    """Of the cases [n] `among` which it is asked: the share that hit, by Wilson (1927)."""
    from monitors import wilson

    low, value, high = wilson(hit[among], weight[among], unit[among])
    interval = [rounded(low), rounded(high)]
    return {"value": rounded(value), "interval": interval, "n": int((weight[among] > 0).sum())}


def rounded(value: float) -> float | None:
    return round(float(value), 4) + 0.0 if value == value else None


def _draws(unit: NDArray[np.str_]) -> Iterator[NDArray[np.floating]]:
    import numpy as np

    from monitors import patient_weights

    for chunk in patient_weights(unit, RESAMPLES, SEED):
        yield from np.asarray(chunk)
