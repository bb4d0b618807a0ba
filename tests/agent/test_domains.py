"""Which domain a case belongs to: home's own scanner stays home only while nothing is known to have changed."""

from __future__ import annotations

import pytest

from agent.drift.domains import domain_of

BY = ("site", "scanner")


@pytest.mark.parametrize(
    ("site", "scanner", "episode", "domain"),
    [
        ("harbour", "A", None, "home"),
        ("harbour", "A", "since-alarm-2", "since-alarm-2"),
        ("harbour", "B", None, "harbour/B"),
        ("harbour", "B", "since-alarm-2", "harbour/B"),
        (None, None, None, "home"),
        (None, None, "since-alarm-2", "since-alarm-2"),
    ],
)
def test_a_case_is_of_its_scanner_or_of_home_or_of_the_open_episode(site, scanner, episode, domain):
    """A scanner that ages keeps its name: what it brings after an alarm is judged apart from what it brought before."""
    case = {"site": site, "scanner": scanner}
    assert domain_of(case, by=BY, home=["harbour/A"], episode=episode) == domain
