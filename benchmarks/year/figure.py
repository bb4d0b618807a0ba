"""The year as a picture for people: what happened, and week by week how many wrong answers were given in good faith."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.year.play import Trace
from benchmarks.year.schedule import DAYS, FAR_OUT, HARMLESS, SCANNER, THIRD, Year

WEEKS = DAYS // 7
TITLES = {
    SCANNER: "second scanner phased in",
    THIRD: "third site added",
    "creep": "slow creep, then service",
    "prevalence": "season",
    HARMLESS: "harmless change",
    FAR_OUT: "far-out batch",
}
TRUST = {"caution": "#e8b54a", "suspended": "#c4554d"}
INK, SOFT, SILENT, TOLD = "#22303c", "#8896a3", "#c4554d", "#e9cfa3"


def draw(year: Year, traces: Mapping[str, Trace], names: Mapping[str, str], out: Path) -> None:
    """Writes an SVG: a band of what happened, and a row per policy of `names` (policy -> title)."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.hashsalt": "homeostat", "font.size": 9, "font.family": "sans-serif"})
    from matplotlib import pyplot as plt

    rows = len(names)
    figure, axes = plt.subplots(
        rows + 1, 1, figsize=(9.5, 1.2 + 1.25 * rows), sharex=True, height_ratios=[1.15] + [1] * rows
    )
    _events(axes[0], year)
    most = max(_weekly(traces[name])[1].max() for name in names) * 1.15 + 1
    for axis, (name, title) in zip(axes[1:], names.items(), strict=True):
        _policy(axis, traces[name], title, float(most))
    axes[-1].set_xticks(np.arange(0, DAYS, 28), [f"{month}" for month in range(1, DAYS // 28 + 1)])
    axes[-1].set_xlabel("four weeks each")
    _legend(figure)
    figure.subplots_adjust(left=0.02, right=0.985, top=0.985, bottom=0.15, hspace=0.36)
    out.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(out, metadata={"Date": None})
    plt.close(figure)


def _events(axis: Any, year: Year) -> None:
    for line, change in enumerate(sorted(year.changes, key=lambda change: change.start)):
        axis.barh(-line, max(2, change.end - change.start), left=change.start, height=0.62, color="#cfdbe6")
        late = change.start > DAYS * 0.6
        axis.text(change.start + (-4 if late else 4), -line, TITLES[change.kind], va="center", color=INK, fontsize=8,
                  ha="right" if late else "left")  # fmt: skip
    _bare(axis)


def _policy(axis: Any, trace: Trace, title: str, most: float) -> None:
    silent, wrong = _weekly(trace)
    x = np.arange(WEEKS) * 7 + 3.5
    axis.fill_between(x, wrong, color=TOLD, linewidth=0, label="wrong, and trust was lowered")
    axis.fill_between(x, silent, color=SILENT, linewidth=0, label="wrong in good faith")
    for start, end, level in _bands(trace.trust):
        axis.axvspan(start, end, ymin=0, ymax=0.07, color=TRUST[level], linewidth=0)
    for week, share in enumerate(_withheld(trace)):
        span = week * 7, week * 7 + 7
        axis.axvspan(*span, ymin=0.07, ymax=0.14, color=TRUST["suspended"], alpha=float(share), linewidth=0)
    for alarm in trace.alarms:
        axis.plot(alarm["day"], most * 0.93, marker="v", color=INK, markersize=5)
    for one in trace.activations:
        if one["day"]:
            axis.axvline(one["day"], color=INK, linewidth=0.8, linestyle=":" if one["how"] == "rollback" else "-")
            late = one["day"] > DAYS - 15
            axis.text(one["day"] + (-2 if late else 2), most * 0.72, one["version"], fontsize=8, color=INK,
                      ha="right" if late else "left")  # fmt: skip
    total = int(silent.sum())
    axis.set_title(f"{title}: {total:,} wrong answers in good faith".replace(",", " "), loc="left", fontsize=9, pad=3)
    axis.set_ylim(0, most)
    _bare(axis)


def _legend(figure: Any) -> None:
    from matplotlib.lines import Line2D
    from matplotlib.patches import Patch

    keys = [
        Patch(color=SILENT, label="wrong, in good faith"),
        Patch(color=TOLD, label="wrong, while trust was lowered"),
        Patch(color=TRUST["caution"], label="trust: caution"),
        Patch(color=TRUST["suspended"], alpha=0.4, label="share without an answer"),
        Line2D([], [], color=INK, marker="v", linestyle="", markersize=5, label="alarm"),
        Line2D([], [], color=INK, linewidth=0.8, label="version goes live"),
    ]
    figure.legend(handles=keys, loc="lower center", ncols=len(keys), frameon=False, fontsize=8)


def _bare(axis: Any) -> None:
    axis.set_xlim(0, DAYS)
    axis.set_yticks([])
    for side in ("left", "right", "top"):
        axis.spines[side].set_visible(False)


def _weekly(trace: Trace) -> tuple[np.ndarray, np.ndarray]:
    """(silent, all) wrong answers per week; a far-out case has no right answer, so each that is answered is wrong.

    An answer that was withheld is none.
    """
    silent, wrong = np.zeros(WEEKS), np.zeros(WEEKS)
    for day, condition, label, answer, trust, abstained, _ in trace.rows:
        if not abstained and trust != "suspended" and (condition == FAR_OUT or answer != label):
            wrong[day // 7] += 1
            silent[day // 7] += trust == "normal"
    return silent, wrong


def _withheld(trace: Trace) -> np.ndarray:
    """[weeks], the share of cases that got no answer: abstained from, or trust was suspended."""
    none, seen = np.zeros(WEEKS), np.zeros(WEEKS)
    for day, *_, trust, abstained, _ in trace.rows:
        seen[day // 7] += 1
        none[day // 7] += abstained or trust == "suspended"
    return none / np.maximum(seen, 1)


def _bands(trust: Sequence[tuple[int, str]]) -> list[tuple[int, int, str]]:
    ends = [*(day for day, _ in trust[1:]), DAYS][: len(trust)]
    return [(day, end, level) for (day, level), end in zip(trust, ends, strict=True) if level in TRUST]
