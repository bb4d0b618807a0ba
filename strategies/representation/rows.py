"""Which cases an alignment goes from, and which to."""

from __future__ import annotations

from strategies.protocols import Lesson


def site_and_home(held: Lesson, least: int = 2) -> tuple[list[int], list[int]]:
    """Rows of the domains that are learnt, labelled or not, and rows of the others.

    Raises ValueError where the domains that are learnt have fewer than `least` cases.
    """
    known = held.new + held.remembered
    site = [*range(held.new), *range(known, len(held))]
    if len(site) < least:
        raise ValueError(f"An alignment needs at least {least} cases of the new site, labelled or not.")
    return site, list(range(held.new, known))
