"""Generated references and streams for the monitors' tests: a mixture of three classes in 16 dimensions."""

from __future__ import annotations

import numpy as np

from monitors import Batch, Reference

DIMENSION = 16
MONDAY = 4 * 86_400.0  # 5 January 1970
MIX = np.random.default_rng(5).standard_normal((DIMENSION, DIMENSION)) / 2


def see(rng: np.random.Generator, n: int, shift: float = 0.0) -> tuple[np.ndarray, np.ndarray]:
    """(embeddings [n, 16], softmax outputs [n, 3]) of n patients; `shift` moves every second coordinate."""
    label = rng.integers(0, 3, n)
    x = rng.standard_normal((n, DIMENSION)) @ MIX + 3.0 * np.eye(DIMENSION)[label] + shift * (np.arange(DIMENSION) % 2)
    odds = np.exp(1.5 * x[:, :3] - 1.5 * x[:, :3].max(axis=1, keepdims=True))
    return x, odds / odds.sum(axis=1, keepdims=True)


def batch(
    embedding: np.ndarray,
    outputs: np.ndarray,
    start: int = 1,
    units: np.ndarray | None = None,
    time: np.ndarray | None = None,
    tick_time: float = float("nan"),
    stratum: np.ndarray | None = None,
    version: str = "v0",
    sensor: str = "pinned",
) -> Batch:
    """A record of these cases; every case its own patient unless `units` says otherwise."""
    n = len(embedding)
    index = np.arange(start, start + n)
    return Batch(
        index=index,
        unit=np.array([f"patient {i}" for i in index] if units is None else units, dtype=np.str_),
        stratum=np.full(n, "all") if stratum is None else stratum,
        time=np.full(n, np.nan) if time is None else time,
        outputs=outputs,
        embedding=embedding,
        version=version,
        sensor=sensor,
        tick_time=tick_time,
        facts={
            "age": 50 + 10 * np.random.default_rng(abs(start)).standard_normal(n) + 30.0 * gross(embedding),
            "sex": np.where(index % 2 == 0, "F", "M"),
        },
        form={
            "age": np.full(n, "" if gross(embedding) else "there"),
            "type of file": np.where(index % 7 == 0, "image/jpeg", "image/png"),
        },
        quality=embedding[:, :8],
        target=drawn(np.random.default_rng(abs(start) + 1), outputs, gross(embedding)),
    )


def drawn(rng: np.random.Generator, outputs: np.ndarray, wrong: bool = False) -> np.ndarray:
    """[n] the class of each case, as often as the outputs say; by chance alone where they are `wrong`."""
    p = np.full_like(outputs, 1 / max(1, outputs.shape[1])) if wrong else np.nan_to_num(outputs, nan=0.5)
    return (rng.random((len(p), 1)) > np.cumsum(p, axis=1)[:, :-1]).sum(axis=1) if p.size else np.zeros(0, int)


def gross(embedding: np.ndarray) -> bool:
    """Whether these are cases of another world: older ones, too."""
    return embedding.size > 0 and float(np.mean(embedding)) > 1.5


def reference(rng: np.random.Generator, n: int = 166, transform: int = 200) -> Reference:
    """n calibration patients, and the others that transforms are learnt from."""
    return Reference(
        transform=batch(*see(rng, transform), start=-1_000_000), calibrate=batch(*see(rng, n), start=-500_000)
    )


def silent_day(day: int) -> Batch:
    """An empty tick, `day` days after Monday, 5 January 1970."""
    return batch(np.empty((0, DIMENSION)), np.empty((0, 3)), tick_time=MONDAY + day * 86_400.0)
