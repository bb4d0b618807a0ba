"""Drift in one picture: a panel per change, a line per detector, how many cases pass until it speaks."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

NAMES = {
    "product": "Homeostat",
    "union": "MEWMA and neighbours",
    "mewma": "MEWMA",
    "neighbours": "neighbours e-detector",
    "answers": "EWMA of the answers",
    "page_hinkley": "Page-Hinkley",
    "kernel_window": "MMD over a window",
    "kolmogorov_smirnov": "KS per dimension",
    "river_adwin": "ADWIN (river)",
    "river_kswin": "KSWIN (river)",
}
TITLES = {
    "mean": "all cases move",
    "cov": "the spread grows",
    "subpop": "a quarter is new",
    "prevalence": "other mix of classes",
    "ramp": "slow ramp",
}
OURS, OTHERS, LIMIT = "#0b7a75", "#6b7280", "#c05a12"


def draw(rows: Sequence[Mapping[str, Any]], to: Path) -> None:
    """Writes the table's rows as SVG: dots at the shorter run length, rings at the longer, a bar for the oracle."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams |= {"svg.hashsalt": "homeostat", "font.size": 9, "axes.spines.top": False,
                            "axes.spines.right": False}  # fmt: skip
    import matplotlib.pyplot as plt

    lengths = sorted({int(row["run_length"]) for row in rows})
    of = {(row["detector"], row["run_length"]): row for row in rows}
    names = [name for name in NAMES if (name, lengths[0]) in of]
    figure, panels = plt.subplots(1, len(TITLES), figsize=(11, 0.32 * len(names) + 1.3), sharey=True)
    for panel, (shift, title) in zip(panels, TITLES.items(), strict=True):
        for place, name in enumerate(names):
            colour = OURS if name == "product" else OTHERS
            for length, filled in zip(lengths, (colour, "white"), strict=False):
                if of[name, length][shift] is None:
                    continue  # it always spoke before the change
                panel.plot(of[name, length][shift], place, "o", color=colour, markerfacecolor=filled, markersize=5)
        if shift in of["oracle", lengths[0]]:
            panel.axvline(of["oracle", lengths[0]][shift], color=LIMIT, linewidth=1)
        panel.set_xscale("log")
        panel.set_xlim(4, 2000)
        panel.set_title(title, fontsize=9)
        panel.set_yticks(range(len(names)), [NAMES[name] for name in names])
        panel.grid(axis="x", color="#e5e5e5", linewidth=0.5)
        panel.set_axisbelow(True)
    panels[0].invert_yaxis()
    filled = f"one false alarm in {lengths[0]:,} cases" + (f" (rings: {lengths[-1]:,})" if len(lengths) > 1 else "")
    figure.supxlabel(f"cases from the change to the alarm, {filled}; bar: who knows both densities", fontsize=9)
    figure.tight_layout()
    figure.savefig(to, metadata={"Date": None})
    plt.close(figure)
