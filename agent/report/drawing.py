"""The few shapes that a page's charts are drawn of, as SVG text."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

LEFT, RIGHT, TOP, LOW = 46, 12, 24, 34


@dataclass(frozen=True)
class Panel:
    """A drawing area: data from (first, low) to (last, high) on so many pixels."""

    first: float
    last: float
    low: float
    high: float
    width: int
    height: int

    @property
    def left(self) -> int:
        return LEFT

    @property
    def bottom(self) -> int:
        return self.height - LOW

    def x(self, value: float) -> float:
        """The pixel of a value along the width; values outside stop at the edge."""
        share = (value - self.first) / max(self.last - self.first, 1e-12)
        return LEFT + min(max(share, 0.0), 1.0) * (self.width - LEFT - RIGHT)

    def y(self, value: float) -> float:
        """The pixel of a value along the height."""
        share = (value - self.low) / max(self.high - self.low, 1e-12)
        return self.bottom - min(max(share, 0.0), 1.0) * (self.bottom - TOP)


def svg(panel: Panel, says: str, parts: Iterable[str]) -> str:
    """The whole picture; `says` is what a screen reader says of it."""
    label = escape(says, quote=True)
    head = f'<svg class="chart" viewBox="0 0 {panel.width} {panel.height}" role="img" aria-label="{label}">'
    return f"{head}{''.join(parts)}</svg>"


def line(panel: Panel, points: Sequence[tuple[float, float]], colour: str, dashed: bool = False, width: int = 1) -> str:
    """Through data points."""
    path = " ".join(f"{panel.x(x):.1f},{panel.y(y):.1f}" for x, y in points)
    dash = ' stroke-dasharray="5 4"' if dashed else ""
    return f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="{width + 0.5}"{dash}/>'


def band(panel: Panel, first: float, last: float, colour: str) -> str:
    """Between two values along the width, over the whole height."""
    left, top = panel.x(first), panel.y(panel.high)
    size = f'width="{max(panel.x(last) - left, 1.0):.1f}" height="{panel.bottom - top:.1f}"'
    return f'<rect class="band" x="{left:.1f}" y="{top:.1f}" {size} fill="{colour}" fill-opacity="0.18"/>'


def dots(panel: Panel, points: Any, colour: str) -> Iterable[str]:
    """One per row [n, 2]."""
    for x, y in points:
        yield f'<circle cx="{panel.x(x):.1f}" cy="{panel.y(y):.1f}" r="2.6" fill="{colour}" fill-opacity="0.55"/>'


def text(x: float, y: float, says: str, colour: str, anchor: str = "start") -> str:
    """At a pixel."""
    return f'<text x="{x:.1f}" y="{y:.1f}" fill="{colour}" font-size="12" text-anchor="{anchor}">{escape(says)}</text>'


def grid(panel: Panel, unit: str, steps: int = 4) -> Iterable[str]:
    """Values of the first axis below the panel, and its unit."""
    for step in range(steps + 1):
        value = panel.first + step * (panel.last - panel.first) / steps
        yield line(panel, [(value, panel.low), (value, panel.high)], "var(--grid)")
        yield text(panel.x(value), panel.bottom + 15, f"{value:.0f}", "var(--soft)", "middle")
    yield text(panel.width - RIGHT, panel.height - 4, unit, "var(--soft)", "end")
