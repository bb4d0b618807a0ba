"""Continual in one picture: a panel per stream, a line per method, its average at the end beside what it forgets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from agent.plan import LADDER

OURS, OTHERS, BOUND = "#0b7a75", "#6b7280", "#c05a12"
BOUNDS = ("joint", "avalanche cumulative")


def draw(rows: Sequence[Mapping[str, Any]], to: Path) -> None:
    """Writes the table's rows as SVG: dots are medians over seeds, bars go from the least to the most."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "homeostat", "font.size": 9, "axes.spines.top": False,
                            "axes.spines.right": False}  # fmt: skip
    import matplotlib.pyplot as plt

    streams = list(dict.fromkeys(row["data"] for row in rows))
    most = max(sum(row["data"] == stream for row in rows) for stream in streams)
    figure, panels = plt.subplots(
        len(streams), 2, figsize=(9.5, (0.24 * most + 0.9) * len(streams)), sharey="row", squeeze=False
    )
    for pair, stream in zip(panels, streams, strict=True):
        some = sorted((row for row in rows if row["data"] == stream), key=lambda row: row["average"])
        for panel, name, says in zip(
            pair,
            ("average", "forgetting"),
            ("balanced accuracy at the end, mean of sites", "forgetting"),
            strict=True,
        ):
            for place, row in enumerate(some):
                colour = _colour(row["method"])
                panel.plot(row[f"{name}_range"], [place, place], color=colour, linewidth=1)
                panel.plot(row[name], place, "o", color=colour, markersize=5)
            panel.set_yticks(range(len(some)), [row["method"] for row in some])
            panel.set_title(f"{stream}: {says}", fontsize=9, loc="left")
            panel.grid(axis="x", color="#e5e5e5", linewidth=0.5)
            panel.set_axisbelow(True)
    figure.tight_layout()
    figure.savefig(to, metadata={"Date": None})
    plt.close(figure)


def _colour(method: str) -> str:
    if method in BOUNDS:
        return BOUND
    return OURS if method == "homeostat" or method in LADDER else OTHERS
