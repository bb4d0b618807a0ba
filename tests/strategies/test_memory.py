"""The rehearsal memory: bounded, fair to every site and class, and never half a patient."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from strategies.memory import balanced_by_domain

CASE = st.tuples(st.sampled_from("ABC"), st.sampled_from("xyz"), st.integers(0, 15))
CASES = st.lists(CASE, max_size=60)


def choose(cases: list[tuple[str, str, int]], size: int, seed: int = 0) -> list[int]:
    """Cases as (domain, label, patient); returns the kept indices."""
    ids = [f"{i:03d}" for i in range(len(cases))]
    domain, label, patient = zip(*cases, strict=True) if cases else ((), (), ())
    return [int(i) for i in balanced_by_domain(ids, domain, label, [f"p{p}" for p in patient], size, seed)]


@given(CASES, st.integers(0, 70), st.integers(0, 5))
def test_bounded_and_whole_patients(cases: list, size: int, seed: int) -> None:
    """The memory never exceeds its size, and a patient's cases are all in it or none."""
    kept = choose(cases, size, seed)
    assert len(kept) <= size
    inside, outside = ({cases[i][2] for i in chosen} for chosen in (kept, set(range(len(cases))) - set(kept)))
    assert not inside & outside


@given(CASES, st.integers(0, 70))
def test_nothing_that_fits_is_left_out(cases: list, size: int) -> None:
    """A patient is only dropped when the room that is left can't take all of its cases."""
    kept = choose(cases, size)
    dropped = Counter(cases[i][2] for i in set(range(len(cases))) - set(kept))
    assert all(count > size - len(kept) for count in dropped.values())


@given(CASES, st.integers(0, 70), st.randoms())
def test_order_of_the_cases_does_not_matter(cases: list, size: int, shuffler: random.Random) -> None:
    """The same cases in another order give the same memory, so a retry after a crash can't change it."""
    ids = [f"{i:03d}" for i in range(len(cases))]
    rows = [(i, d, c, f"p{p}") for i, (d, c, p) in zip(ids, cases, strict=True)]
    shuffled = rows.copy()
    shuffler.shuffle(shuffled)
    first, second = (
        balanced_by_domain(*(list(column) for column in zip(*some, strict=True)), size=size) if some else []
        for some in (rows, shuffled)
    )
    assert first == second


@settings(max_examples=50)
@given(
    st.dictionaries(st.tuples(st.sampled_from("ABC"), st.sampled_from("xyz")), st.integers(1, 30), min_size=1),
    st.integers(0, 120),
)
def test_even_over_domains_and_classes(available: dict, size: int) -> None:
    """With one case per patient, no domain has two more than another that had cases left; nor a class in its domain."""
    cells = [cell for cell, n in available.items() for _ in range(n)]
    kept = choose([(*cell, i) for i, cell in enumerate(cells)], size)
    assert len(kept) == min(size, len(cells))
    in_cell = Counter(cells[i] for i in kept)
    in_domain, has_domain = Counter(), Counter()
    for (domain, label), n in available.items():
        in_domain[domain] += in_cell[domain, label]
        has_domain[domain] += n
    for a in has_domain:
        assert all(in_domain[a] >= in_domain[b] - 1 for b in has_domain if in_domain[a] < has_domain[a])
    for d, a in available:
        rivals = [in_cell[d, b] for e, b in available if e == d]
        assert in_cell[d, a] == available[d, a] or in_cell[d, a] >= max(rivals) - 1


def test_one_large_site_does_not_crowd_out_a_small_one() -> None:
    """A thousand cases of home and fifty of a new site share a memory of 80 by halves."""
    cases = [("home", "x", i) for i in range(1000)] + [("new", "x", 1000 + i) for i in range(50)]
    assert Counter(cases[i][0] for i in choose(cases, 80)) == {"home": 40, "new": 40}


def test_seed_draws_another_sample() -> None:
    """Another seed remembers other patients, the same seed the same."""
    cases = [("home", "x", i) for i in range(200)]
    assert choose(cases, 50, seed=1) == choose(cases, 50, seed=1) != choose(cases, 50, seed=2)


def test_bad_calls_are_refused() -> None:
    """Unequal lengths, doubled ids and a negative size are errors, never a silent sample."""
    with pytest.raises(ValueError, match="negative"):
        balanced_by_domain([], [], [], [], -1)
    with pytest.raises(ValueError, match="one entry per case"):
        balanced_by_domain(["a"], [], ["x"], ["p"], 1)
    with pytest.raises(ValueError, match="twice"):
        balanced_by_domain(["a", "a"], ["d", "d"], ["x", "x"], ["p", "q"], 1)
