"""Recovery in one picture: a panel per stream, a line per way of updating from its shortest run to its longest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

ENOUGH, COLOURS = 0.9, ("#6b7280", "#c05a12", "#0b7a75", "#7c3aed", "#0369a1", "#be185d", "#111827", "#a3a3a3")


def draw(rows: Sequence[Mapping[str, Any]], to: Path) -> None:
    """Writes the table's rows as SVG: CPU seconds against the share of the gap that is closed, medians over seeds.

    A dot is filled where home is kept in most seeds, hollow where it is not.
    """
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "homeostat", "font.size": 9, "axes.spines.top": False,
                            "axes.spines.right": False}  # fmt: skip
    import matplotlib.pyplot as plt
    from matplotlib.ticker import LogLocator, NullFormatter

    streams = list(dict.fromkeys(row["data"] for row in rows))
    figure, panels = plt.subplots(1, len(streams), figsize=(6.4 * len(streams), 4.2), squeeze=False)
    for panel, stream in zip(panels[0], streams, strict=True):
        some = [row for row in rows if row["data"] == stream]
        for colour, method in zip(COLOURS, dict.fromkeys(row["method"] for row in some), strict=False):
            runs = [row for row in some if row["method"] == method]
            seconds, closed = ([row[name] for row in runs] for name in ("cpu_seconds", "gap_closed"))
            panel.plot(seconds, closed, color=colour, linewidth=1, label=method.replace("_", " "))
            for row in runs:
                kept = 2 * row["home_passes"] > row["seeds"]
                panel.plot(row["cpu_seconds"], row["gap_closed"], "o", markersize=5, color=colour,
                           markerfacecolor=colour if kept else "white")  # fmt: skip
        panel.axhline(ENOUGH, color="#9ca3af", linewidth=0.8, linestyle="--")
        panel.set_xscale("log")
        panel.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        panel.xaxis.set_major_formatter("{x:g}")
        panel.xaxis.set_minor_formatter(NullFormatter())
        panel.set_xlabel("CPU seconds of the whole update")
        panel.set_title(
            f"{stream}: share of the gap closed at the new site (hollow: home is not kept)", fontsize=9, loc="left"
        )
        panel.legend(fontsize=8, frameon=False)
        panel.grid(color="#e5e5e5", linewidth=0.5)
        panel.set_axisbelow(True)
    figure.tight_layout()
    figure.savefig(to, metadata={"Date": None})
    plt.close(figure)
