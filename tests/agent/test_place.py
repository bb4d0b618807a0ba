"""The map of an alarm: what is apart lies apart on it, and what is alike mixes."""

from __future__ import annotations

import numpy as np
import pytest

from agent.report.place import placed


def own(before: np.ndarray, since: np.ndarray) -> float:
    """The share of new cases among the ten nearest on the map to a new case."""
    both, is_new = np.vstack([before, since]), np.arange(len(before) + len(since)) >= len(before)
    squares = ((since[:, None] - both[None]) ** 2).sum(axis=-1)
    return float(is_new[np.argsort(squares, axis=1)[:, 1:11]].mean())


def drawn(n: int, seed: int, moved: float = 0.0) -> np.ndarray:
    x = np.random.default_rng(seed).standard_normal((n, 12)).astype(np.float32)
    x[:, 0] += moved
    return x


@pytest.mark.parametrize("n", [40, 200])
def test_what_is_alike_mixes_and_what_is_apart_lies_apart(n: int) -> None:
    """Half as many new cases: their neighbours are new as chance says, and nearly all of them if they moved far."""
    alike, apart = placed(drawn(n, 1), drawn(n // 2, 2)), placed(drawn(n, 1), drawn(n // 2, 2, moved=8.0))

    assert own(*alike) == pytest.approx(1 / 3, abs=0.15)
    assert own(*apart) >= 0.9
    assert [part.shape for part in apart] == [(n, 2), (n // 2, 2)]


def test_a_part_that_is_apart_is_a_group_of_its_own() -> None:
    """A quarter of the new cases from elsewhere have each other as neighbours, the rest mix."""
    since = np.vstack([drawn(150, 2), drawn(50, 3, moved=8.0)])
    before, there = placed(drawn(200, 1), since)
    near = np.argsort(((there[150:, None] - np.vstack([before, there])[None]) ** 2).sum(axis=-1), axis=1)[:, 1:11]

    assert (near >= 350).mean() >= 0.9


def test_the_map_is_the_same_each_time() -> None:
    """A page that is drawn again shows the same picture."""
    first, again = (placed(drawn(40, 1), drawn(20, 2)) for _ in range(2))

    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


@pytest.mark.parametrize(("n", "m", "width"), [(0, 20, 12), (20, 0, 12), (6, 5, 12), (20, 20, 5)])
def test_too_few_cases_or_another_sensor_have_no_map(n: int, m: int, width: int) -> None:
    """Nothing is drawn, and nothing fails."""
    assert [len(part) for part in placed(drawn(n, 1), drawn(m, 2)[:, :width])] == [0, 0]


def test_what_never_varies_has_no_map() -> None:
    """Embeddings of zeros, as a broken sensor gives them."""
    assert [len(part) for part in placed(np.zeros((20, 3)), np.zeros((20, 3)))] == [0, 0]
