"""The comparison in words: for the terminal and for the page."""

from __future__ import annotations

from collections.abc import Iterator

from agent.comparison.compare import FEWEST, Comparison

KINDS = {
    "acquisition": "another look of the images",
    "population": "another group of patients",
    "prevalence": "another mix of the classes",
    "far-out": "images unlike anything in the reference",
    "undetermined": "of a kind that these cases don't tell",
}


def headline(found: Comparison) -> str:
    """The answer in a few words."""
    if found.drift is None:
        return "Too few patients to tell"
    if not found.drift:
        return "No drift found"
    return f"Drift: {KINDS[found.answer.shift]}"


def sentences(found: Comparison) -> Iterator[str]:
    """What was compared, by what, with which result and with what reserve."""
    new, known = found.patients
    cases = f"{new} new patients ({found.cases[0]} images) against {known} of the reference ({found.cases[1]})"
    yield f"{cases}, seen by {found.by}."
    if found.unreadable:
        yield f"{found.unreadable} files could not be read as images and are left out."
    if found.drift is None:
        yield f"Nothing was found, and to say that there is nothing takes at least {FEWEST} patients on each side."
        return
    if not found.drift:
        yield f"The difference is no larger than chance makes it (p = {found.p:.2g})."
        return
    yield f"{found.answer.says[0].upper()}{found.answer.says[1:]}."
    if found.moved:
        name, change = next(iter(found.moved.items()))
        yield f"What moved most: {name.replace('_', ' ')}, by {change:+.1f} standard deviations."
