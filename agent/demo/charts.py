"""The story's drawings as SVG text: colours come from the page's style, so that light, dark and print need no redraw.

Every chart is drawn for one width in pixels; the page holds a wide and a narrow drawing and shows the one that fits, so
that letters keep their size on a telephone.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from html import escape
from itertools import pairwise

from agent.demo.record import Band, GateRow, Line, Mark, Panel, Reading, Timeline

LETTER = 6.4  # mean width of a letter at 12 px, for placing what can't be measured here


@dataclass(frozen=True)
class Scale:
    """Values low..high onto pixels start..end."""

    low: float
    high: float
    start: float
    end: float

    def __call__(self, value: float) -> float:
        share = (value - self.low) / ((self.high - self.low) or 1)
        return round(self.start + share * (self.end - self.start), 1)

    def clipped(self, value: float) -> float:
        return self(min(max(value, self.low), self.high))


def timeline(story: Timeline, width: int) -> str:
    """Evidence on a log scale against its threshold; below it, on the same axis, the live version and the trust."""
    left, right, top, height, row = (46, 14, 44, 190, 46) if width < 500 else (58, 20, 40, 210, 46)
    bottom = top + height
    threshold = story.threshold / math.log(10)
    decades = [_decades(reading) for run in story.runs for reading in run]
    highest = math.ceil(max([threshold + 0.8, *(min(d, threshold + 3) for d in decades)]))
    x = Scale(0, max(story.cases, 1), left, width - right)
    y = Scale(-1, highest, bottom, top)
    first_row, last = bottom + 34, bottom + 34 + 2 * row

    parts = [_rect(left, top, width - right - left, y(threshold) - top, "alarm-zone")]
    for decade in range(0, highest + 1, 1 if highest < 6 else 2):
        parts.append(_line(left, y(decade), width - right, y(decade), "grid"))
        parts.append(_text(left - 8, y(decade) + 4, _power(decade), "tick end"))
    parts.append(_line(x(story.change.case), top - 8, x(story.change.case), last - 8, "change"))
    parts.append(_line(left, y(threshold), width - right, y(threshold), "threshold"))
    budget = f"alarm at {math.exp(story.threshold):.0f}"
    parts.append(_text(left + 6, y(threshold) - 6, budget, "note bad-text halo"))

    for run in story.runs:
        points = [(x(reading.case), y.clipped(_decades(reading))) for reading in run]
        area = [(points[0][0], y(-1)), *points, (points[-1][0], y(-1))]
        parts.append(f'<polygon class="evidence-area" points="{_points(area)}"/>')
        parts.append(f'<polyline class="evidence" points="{_points(points)}"/>')
    parts.append(_flag(x(story.change.case), top - 14, story.change.name, width, "note strong halo"))
    if story.alarm is not None:
        readings = [reading for run in story.runs for reading in run]
        at = next((_decades(r) for r in readings if r.case >= story.alarm.case), threshold)
        cx, cy = x(story.alarm.case), y.clipped(at)
        parts.append(f'<circle class="alarm-ring" cx="{cx}" cy="{cy}" r="11"/>')
        parts.append(f'<circle class="alarm-dot" cx="{cx}" cy="{cy}" r="5"/>')
        parts.append(_beside(cx, max(cy + 4, top + 14), story.alarm.name, width, "note strong bad-text halo"))

    parts.append(_band_row("live version", story.versions, x, first_row, width))
    parts.append(_band_row("trust", story.trust, x, first_row + row, width))
    parts.append(_moments(story.marks, x, first_row + 2 * row + 2, width))
    axis = last + 2 + _moment_height(story.marks)
    parts.append(_line(left, axis, width - right, axis, "axis"))
    for case in _nice(story.cases, 4 if width < 500 else 8):
        parts.append(_line(x(case), axis, x(case), axis + 4, "axis"))
        parts.append(_text(x(case), axis + 18, str(case), "tick middle"))
    parts.append(_text(width - right, axis + 36, "observed cases, in order", "tick end"))
    parts.append(_text(left - 8, 14, "evidence of a change, log scale", "tick"))
    says = f"Evidence over {story.cases} cases; {story.change.name} at case {story.change.case}"
    return _svg(width, axis + 44, says + (f"; {story.alarm.name}" if story.alarm else "; no alarm"), parts)


def _band_row(name: str, bands: Sequence[Band], x: Scale, top: float, width: int) -> str:
    parts = [_text(x.start, top - 4, name, "tick")]
    for band in bands:
        start, end = x(band.first), x(band.last)
        end = max(end, start + 4)
        parts.append(
            f"<g><title>{escape(f'{name}: {band.name}, cases {band.first} to {band.last}')}</title>"
            f"{_rect(start, top + 2, end - start, 20, f'band {band.tone}')}"
        )
        if (end - start) > LETTER * len(band.name) + 8:
            parts.append(_text((start + end) / 2, top + 16, band.name, f"note middle on-{band.tone}"))
        parts.append("</g>")
    return "".join(parts)


def _moments(marks: Sequence[Mark], x: Scale, top: float, width: int) -> str:
    """Small labelled pins below the bands."""
    parts = []
    for row, mark in enumerate(marks):  # a row each: a short list reads best as a staircase
        at, base = x(mark.case), top + 4 + 17 * row
        parts.append(_line(at, top - 26, at, base, "pin"))
        parts.append(f'<circle class="pin-dot {mark.tone}" cx="{at}" cy="{base}" r="3.5"/>')
        parts.append(_beside(at, base + 4, mark.name, width, "note halo", gap=8))
    return "".join(parts)


def _moment_height(marks: Sequence[Mark]) -> int:
    return 0 if not marks else 12 + 17 * len(marks)


def curves(panel: Panel, width: int, cases: int, change: int) -> str:
    """Balanced accuracy of each model on unseen patients, as steps over the cases; names stand at the lines' ends."""
    left, top, height = 40, 34, 190
    names = max((len(line.name) for line in panel.lines), default=0)
    right = round(names * LETTER) + 46
    x = Scale(0, max(cases, 1), left, width - right)
    y = Scale(*_floor(panel.lines), top + height, top)
    parts = [_text(left - 8, 16, panel.title, "panel-title")]
    for tick in _tenths(y.low, y.high):
        parts.append(_line(left, y(tick), width - right, y(tick), "grid"))
        parts.append(_text(left - 8, y(tick) + 4, f"{tick:.1f}", "tick end"))
    parts.append(_line(x(change), top, x(change), top + height, "change"))
    ends = []
    for line in panel.lines:
        corners: list[tuple[float, float]] = []
        for case, value in line.points:
            if corners:
                corners.append((x(case), corners[-1][1]))
            corners.append((x(case), y.clipped(value)))
        corners.append((x(cases), corners[-1][1]))
        parts.append(f'<polyline class="curve {line.tone}" points="{_points(corners)}"/>')
        ends.append((corners[-1][1], f"{line.name} {line.points[-1][1]:.2f}", line.tone))
    places = _apart([end[0] for end in ends], 15, top + 4, top + height)
    for (_, name, tone), place in zip(ends, places, strict=True):
        parts.append(_text(width - right + 6, place + 4, name, f"note strong {tone}-text"))
    bottom = top + height
    parts.append(_line(left, bottom, width - right, bottom, "axis"))
    for case in _nice(cases, 4):
        parts.append(_text(x(case), bottom + 17, str(case), "tick middle"))
    says = "; ".join(f"{line.name} ends at {line.points[-1][1]:.2f}" for line in panel.lines)
    return _svg(width, bottom + 26, f"Balanced accuracy, {panel.title}: {says}", parts)


def interval(row: GateRow, reach: float, width: int = 190) -> str:
    """The interval of the change with zero and the margin; to the right is better; an arrow where it goes on."""
    if row.low is None or row.high is None:
        return ""
    sign = -1 if row.rising_is_worse else 1
    low, high = sorted((sign * row.low, sign * row.high))
    x = Scale(-reach, reach, 6, width - 6)
    margin = -row.margin if row.margin else 0.0
    parts = [_rect(6, 3, x(margin) - 6, 20, "alarm-zone"), _line(6, 13, width - 6, 13, "grid")]
    parts.append(_line(x(0), 3, x(0), 23, "zero"))
    parts.append(_line(x(margin), 3, x(margin), 23, "threshold"))
    start, end = x.clipped(low), x.clipped(high)
    parts.append(_rect(min(start, width - 16), 9.5, max(end - min(start, width - 16), 2), 7, f"bar {row.verdict}"))
    if high > reach:
        parts.append(f'<path class="bar {row.verdict}" d="M{width - 8} 7l7 6l-7 6z"/>')
    if low < -reach:
        parts.append(f'<path class="bar {row.verdict}" d="M8 7l-7 6l7 6z"/>')
    if row.before is not None and row.after is not None:
        change = sign * (row.after - row.before)
        if max(low, -reach) <= change <= min(high, reach):
            parts.append(f'<circle class="bar-dot" cx="{x.clipped(change)}" cy="13" r="3.2"/>')
    return _svg(
        width, 26, f"interval from {row.low:+.3f} to {row.high:+.3f}, margin {row.margin:.3f}", parts, "interval"
    )


def _decades(reading: Reading) -> float:
    return reading.log_e / math.log(10)


# pieces ---------------------------------------------------------------------------------------------------------------


def both(draw: Callable[[int], str], wide: int, narrow: int = 344) -> str:
    """The two drawings of one chart; the style shows one of them."""
    return f'<div class="wide">{draw(wide)}</div><div class="narrow">{draw(narrow)}</div>'


def _svg(width: int, height: float, label: str, parts: Iterable[str], kind: str = "chart") -> str:
    size = f'viewBox="0 0 {width} {height:.0f}" width="{width}" height="{height:.0f}"'
    return f'<svg class="{kind}" {size} role="img" aria-label="{escape(label)}">{"".join(parts)}</svg>'


def _rect(x: float, y: float, width: float, height: float, kind: str) -> str:
    size = f'width="{max(width, 0):.1f}" height="{max(height, 0):.1f}"'
    return f'<rect class="{kind}" x="{x:.1f}" y="{y:.1f}" {size}/>'


def _line(x1: float, y1: float, x2: float, y2: float, kind: str) -> str:
    return f'<line class="{kind}" x1="{x1:.1f}" y1="{y1:.1f}" x2="{x2:.1f}" y2="{y2:.1f}"/>'


def _text(x: float, y: float, words: str, kind: str) -> str:
    return f'<text class="{kind}" x="{x:.1f}" y="{y:.1f}">{escape(words)}</text>'


def _beside(x: float, y: float, words: str, width: int, kind: str, gap: float = 16) -> str:
    """To the right of a mark, else to its left, else where the drawing begins."""
    length = LETTER * len(words)
    if x + gap + length < width - 4:
        return _text(x + gap, y, words, kind)
    return _text(x - gap, y, words, f"{kind} end") if x - gap - length > 4 else _text(4, y, words, kind)


def _flag(x: float, y: float, words: str, width: int, kind: str) -> str:
    """Centred over a line, moved inwards at the edges."""
    half = LETTER * len(words) / 2
    return _text(min(max(x, half + 4), width - half - 4), y, words, f"{kind} middle")


def _points(points: Iterable[tuple[float, float]]) -> str:
    return " ".join(f"{x:.1f},{y:.1f}" for x, y in points)


def _power(decade: int) -> str:
    return {0: "1", 1: "10", 2: "100", 3: "1,000"}.get(
        decade, "10" + str(decade).translate(str.maketrans("0123456789", "⁰¹²³⁴⁵⁶⁷⁸⁹"))
    )


def _nice(last: int, about: int) -> list[int]:
    """Round numbers from 0 to `last`, about so many."""
    rough = max(last / about, 1)
    power = 10 ** math.floor(math.log10(rough))
    step = next(int(m * power) for m in (1, 2, 5, 10) if m * power >= rough)
    return list(range(0, last + 1, step))


def _floor(lines: Sequence[Line]) -> tuple[float, float]:
    """The axis of an accuracy: from the tenth below the lowest value to 1."""
    lowest = min((value for line in lines for _, value in line.points), default=0.0)
    return max(0.0, math.floor((lowest - 0.04) * 10) / 10), 1.0


def _tenths(low: float, high: float) -> list[float]:
    first, last = round(low * 10), round(high * 10)
    return [tenth / 10 for tenth in range(first, last + 1, 1 if last - first <= 5 else 2)]


def _apart(places: Sequence[float], gap: float, low: float, high: float) -> list[float]:
    """Moves places down, then up, until no two are nearer than `gap`; their order is kept."""
    order = sorted(range(len(places)), key=lambda i: places[i])
    moved = list(places)
    for before, now in pairwise(order):
        moved[now] = max(moved[now], moved[before] + gap)
    ceiling = high
    for i in reversed(order):
        moved[i] = max(min(moved[i], ceiling), low)
        ceiling = moved[i] - gap
    return moved
