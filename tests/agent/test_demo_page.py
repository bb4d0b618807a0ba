"""The story's page: complete, self-contained, safe with any text, and drawn to scale."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from html.parser import HTMLParser
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from agent.demo.charts import Scale, _apart, curves, interval, timeline
from agent.demo.page import page
from agent.demo.record import (
    Band,
    CandidateCard,
    Figure,
    Gallery,
    GateRow,
    Line,
    Mark,
    Panel,
    Picture,
    Reading,
    Step,
    Story,
    Timeline,
    Tone,
)

VOID = {"meta", "img", "br"}


def told(**changes: object) -> Story:
    gate = GateRow(
        gate="forgetting:home:original", role="require", verdict="FAIL", n=120, before=0.97, after=0.85,
        low=-0.17, high=-0.08, margin=0.05, says="0.97 to 0.85",
    )  # fmt: skip
    story = Story(
        headline="A model met a new scanner",
        subline="and learnt it",
        figures=(Figure(value="14 cases", means="to the alarm"),),
        galleries=(Gallery(title="before", pictures=(Picture(png=b"png", truth="cyst", answers=(("v0", "ring"),)),)),),
        timeline=Timeline(
            cases=200,
            threshold=math.log(365),
            runs=((Reading(case=100, log_e=0.0), Reading(case=150, log_e=9.0)),),
            change=Mark(case=130, name="scanner B arrives"),
            alarm=Mark(case=150, name="alarm at case 150"),
            marks=(Mark(case=180, name="v1 promoted", tone=Tone.OURS),),
            versions=(
                Band(name="v0", first=0, last=180, tone=Tone.FROZEN),
                Band(name="v1", first=180, last=200, tone=Tone.OURS),
            ),
            trust=(Band(name="normal", first=0, last=200, tone=Tone.GOOD),),
        ),
        panels=(Panel(title="home", lines=(Line(name="ours", tone=Tone.OURS, points=((0, 0.5), (180, 0.9))),)),),
        measured_on="unseen patients",
        candidates=(
            CandidateCard(
                version="v2", recipe="naive", outcome="rejected", tone=Tone.BAD, says="it forgets", gates=(gate,)
            ),
        ),
        steps=(
            Step(step="kill", title="kill -9", says="recovered", command="homeostat promote v1", trial=True, seconds=1),
        ),
        made="made by a test",
        seconds=1.0,
    )
    return replace(story, **changes)  # type: ignore[arg-type]


class Balance(HTMLParser):
    """Collects the elements that are open, and complains where one is closed that isn't."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.links: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.links += [value or "" for name, value in attrs if name in {"src", "href", "xlink:href"}]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        pass

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag


def test_the_page_needs_nothing_from_outside_itself() -> None:
    """It opens in a hospital without a network: no script, no link, no font, images within."""
    html = page(told())
    parser = Balance()
    parser.feed(html)
    assert parser.open == [] and all(link.startswith("data:image/png;base64,") for link in parser.links)
    assert "<script" not in html and "http" not in html and "url(" not in html and "@import" not in html


def test_every_part_of_the_story_is_on_the_page() -> None:
    """Figures, images with answers, evidence, bands, curves, verdicts, trials and steps are all told in text."""
    text = re.sub(r"<[^>]+>", " ", page(told()))
    for words in (
        "14 cases", "cyst", "✗ ring", "alarm at case 150", "scanner B arrives", "v1 promoted", "ours 0.90",
        "FAIL", "0.97 to 0.85", "it forgets", "kill -9", "homeostat promote v1", "made by a test",
    ):  # fmt: skip
        assert words in text, words


def test_a_text_with_markup_is_shown_and_not_obeyed() -> None:
    """A class or a site with angle brackets in its name can't put an element into the page."""
    nasty = "<script>alert(1)</script>\"'&"
    picture = Picture(png=b"", truth=nasty, answers=((nasty, nasty),))
    story = told(
        headline=nasty, made=nasty, galleries=(Gallery(title=nasty, pictures=(picture,)),),
        panels=(Panel(title=nasty, lines=(Line(name=nasty, tone=Tone.OURS, points=((0, 1.0),)),)),),
    )  # fmt: skip
    html = page(story)
    Balance().feed(html)
    assert "<script" not in html


def test_a_story_without_an_alarm_or_verdicts_still_makes_a_page() -> None:
    """What did not happen leaves no hole: the page of a half-told story opens too."""
    story = told(candidates=(), figures=(), steps=())
    html = page(replace(story, timeline=replace(story.timeline, alarm=None, runs=(), marks=())))
    parser = Balance()
    parser.feed(html)
    assert parser.open == [] and "no alarm" in html


def test_evidence_is_drawn_above_the_line_exactly_where_it_passes_the_budget() -> None:
    """The eye judges the alarm by the line: the first reading lies below it, the second above."""
    drawing = timeline(told().timeline, 900)
    line = float(re.search(r'class="threshold" x1="[\d.]+" y1="([\d.]+)"', drawing).group(1))  # type: ignore[union-attr]
    points = re.search(r'class="evidence" points="([^"]+)"', drawing).group(1).split()  # type: ignore[union-attr]
    first, second = (float(point.split(",")[1]) for point in points)
    assert first > line > second


@pytest.mark.parametrize("width", [344, 912])
def test_nothing_is_drawn_outside_its_drawing(width: int) -> None:
    """On a telephone as on a desk, every mark lies within its picture."""
    story = told()
    drawings = [timeline(story.timeline, width), curves(story.panels[0], width, 200, 130)]
    for drawing in drawings:
        height = float(re.search(r'height="(\d+)"', drawing).group(1))  # type: ignore[union-attr]
        for x in re.findall(r' (?:x|x1|x2|cx)="(-?[\d.]+)"', drawing):
            assert 0 <= float(x) <= width
        for y in re.findall(r' (?:y|y1|y2|cy)="(-?[\d.]+)"', drawing):
            assert 0 <= float(y) <= height


def test_more_negative_flips_point_to_the_bad_side() -> None:
    """In every row of verdicts, left is worse: a share of flips is turned round."""
    row = GateRow(
        gate="negative_flips:home", role="require", verdict="FAIL", n=100, before=0.0, after=0.3,
        low=0.2, high=0.4, margin=0.1, says="",
    )  # fmt: skip
    bar = re.search(r'class="bar FAIL" x="([\d.]+)"', interval(row, 0.5)).group(1)  # type: ignore[union-attr]
    assert float(bar) < 190 / 2


@given(places=st.lists(st.floats(0, 200), min_size=1, max_size=8), gap=st.floats(5, 20))
def test_names_at_the_ends_of_lines_never_cover_each_other(places: list[float], gap: float) -> None:
    """Three models that end alike can still be told apart."""
    moved = sorted(_apart(places, gap, 0, 200))
    assert all(b - a >= gap - 1e-6 for a, b in pairwise(moved))
    assert moved[0] >= 0 and moved[-1] <= 200


@given(value=st.floats(-1e6, 1e6))
def test_a_clipped_scale_stays_on_its_axis(value: float) -> None:
    """A runaway value ends at the edge instead of leaving the picture."""
    assert 10 <= Scale(0, 1, 10, 90).clipped(value) <= 90
