"""An experiment as a picture: quality by what was asked, a mark per series, with intervals where there are any."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

COLOURS = ("#0b7a75", "#c05a12", "#6b7280", "#7c3aed", "#0369a1")


def draw(rows: Sequence[Mapping[str, Any]], across: str, mark: str, to: Path) -> None:
    """Writes the rows' `quality` (and `low`, `high`) as SVG."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "homeostat", "font.size": 9, "axes.spines.top": False,
                            "axes.spines.right": False}  # fmt: skip
    import matplotlib.pyplot as plt

    places = {value: i for i, value in enumerate(dict.fromkeys(str(row[across]) for row in rows))}
    figure, panel = plt.subplots(figsize=(max(4.8, 1.1 * len(places)), 3.6))
    series = list(dict.fromkeys(str(row[mark]) for row in rows))
    for number, name in enumerate(series):
        some = [row for row in rows if str(row[mark]) == name]
        x = [places[str(row[across])] + 0.12 * (number - (len(series) - 1) / 2) for row in some]
        y = [row["quality"] for row in some]
        colour = COLOURS[number % len(COLOURS)]
        panel.plot(x, y, "o", color=colour, markersize=5, label=name.replace("_", " "))
        for place, row in zip(x, some, strict=True):
            if row.get("low") is not None and row.get("high") is not None:
                panel.plot([place, place], [row["low"], row["high"]], color=colour, linewidth=1.2)
    panel.set_xticks(range(len(places)), [value.replace("_", " ") for value in places], rotation=20, ha="right")
    panel.set_ylim(0, 1)
    panel.set_ylabel("Dice")
    panel.set_xlabel(across.replace("_", " "))
    panel.grid(axis="y", color="#e5e5e5", linewidth=0.5)
    panel.set_axisbelow(True)
    panel.legend(fontsize=8, frameon=False)
    figure.tight_layout()
    figure.savefig(to, metadata={"Date": None})
    plt.close(figure)
