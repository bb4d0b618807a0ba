"""One alarm as a page: what it says, every monitor's evidence over the cases, and a map of what the sensor saw."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from agent.drift.domains import known, stream_of
from agent.drift.estimated import PREVALENCE, estimators, in_words
from agent.drift.reference import ROWS, batch_of, epoch_of, read_reference
from agent.errors import HomeostatError
from agent.report.drawing import Panel, band, dots, grid, line, svg, text
from agent.report.frame import framed
from agent.report.place import placed
from agent.store import Connection
from agent.versions import registry
from agent.workspace import Workspace

COLOURS = ("var(--ours)", "var(--naive)", "var(--frozen)", "var(--warn)", "var(--bad)")
BEFORE = 0.25  # of the cases from the onset to now that are shown before it, and at least 200
SHOWN = 400  # points of the map on each side
DRIVERS = ("fact", "measure", "column", "intake", "outcome")  # in the evidence: what moved most


@dataclass(frozen=True, kw_only=True)
class AlarmRecord:
    """A row of the table `alarms` with its evidence; readings: {monitor: [(case, log_e - threshold)]}; live: (version,
    first case, last case) in order; seen: (reference [n, 2], cases since the onset [m, 2])."""

    row: Mapping[str, Any]
    evidence: Mapping[str, Any]
    readings: Mapping[str, Sequence[tuple[int, float]]]
    live: Sequence[tuple[str, int, int]]
    seen: tuple[Any, Any]
    cases: int


def alarm_record(workspace: Workspace, alarm: int) -> AlarmRecord:
    """Raises HomeostatError where there is no such alarm."""
    with workspace.store.read() as connection:
        row = connection.execute("SELECT * FROM alarms WHERE id = ?", (alarm,)).fetchone()
        if row is None:
            raise HomeostatError(f"there is no alarm {alarm}: 'homeostat alarms --all' lists them")
        cases = connection.execute("SELECT coalesce(max(number), 0) AS n FROM observations").fetchone()["n"]
        evidence, onset = json.loads(row["evidence"]), row["since_case"] or row["opened_at_case"]
        shown = evidence.get("onset", {"low": onset})["low"]
        first = max(1, min(shown, onset - max(200, int(BEFORE * (cases - onset)))))
        return AlarmRecord(
            row=dict(row),
            evidence=evidence,
            readings=_readings(connection, first),
            live=_live(connection, first),
            seen=_seen(connection, row["stream"], onset),
            cases=cases,
        )


def page(found: AlarmRecord) -> str:
    """The whole page, with no patient or case on it."""
    said = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences(found))
    body = (
        f'<header><p class="eyebrow">Homeostat &middot; alarm {found.row["id"]}</p><h1>{escape(headline(found))}</h1>'
        f'</header><section class="card">{said}</section>'
        f"{_estimates(found.evidence.get('estimated', {}))}"
        '<section><h2>How it came</h2><p class="soft">How long an unchanged site waits for each reading, over what the '
        f'monitor may use alone: it alarms at the dashed line.</p><div class="card">{timeline(found)}</div></section>'
        '<section><h2>What the sensor saw</h2><p class="soft">A map of the reference (grey) and the cases since the '
        "onset (coloured) by t-SNE: cases that look alike lie near each other, and where nothing changed the two mix. "
        f'Distances and sizes of groups mean nothing.</p><div class="card">{_map(found)}</div></section>'
    )
    return framed(headline(found), body)


def headline(found: AlarmRecord) -> str:
    """The alarm in a few words."""
    shift = found.row["shift"]
    return f"Shift: {shift}" if shift else f"Alarm of the monitor '{found.row['monitor']}'"


def sentences(found: AlarmRecord) -> list[str]:
    """When it opened, since when, what it rests on, and how it ended."""
    row, evidence = found.row, found.evidence
    since = f", since about case {row['since_case']}" if row["since_case"] else ""
    if dated := evidence.get("onset"):
        since = f", since about case {dated['case']} (90 % interval {dated['low']} to {dated['high']})"
    said = [f"Opened by the monitor '{row['monitor']}' at case {row['opened_at_case']}{since}; it is {row['state']}."]
    if evidence.get("says"):
        said.append(f"{evidence['says'][0].upper()}{evidence['says'][1:]} ({evidence['patients']} patients).")
    if evidence.get("distance") is not None:
        said.append(f"The mean of its images lies {evidence['distance']:.1f} standard deviations from the reference's.")
    harm = in_words(evidence)
    if harm:
        said.append(harm)
    if moved := next((evidence[key] for key in DRIVERS if evidence.get(key)), ""):
        said.append(f"What moved most: {moved}.")
    if evidence.get("guarantee"):
        said.append(f"The budget of false alarms is kept: {evidence['guarantee']}.")
    if row["closed_because"]:
        said.append(f"Closed: {row['closed_because']}.")
    return said


def timeline(found: AlarmRecord) -> str:
    """The monitors' readings against their thresholds, the onset with its interval, the alarm and the live versions, as
    SVG. Named are the alarm's monitor and those that rose highest."""
    points = [point for line in found.readings.values() for point in line]
    first, last = min((case for case, _ in points), default=0), max((case for case, _ in points), default=1)
    panel = Panel(first, max(last, first + 1), -3.0, 3.0, 880, 260)
    parts = [*grid(panel, "cases"), line(panel, [(first, 0.0), (last, 0.0)], "var(--bad)", dashed=True)]
    highest = sorted(found.readings, key=lambda name: -max((value for _, value in found.readings[name]), default=0.0))
    told = [found.row["monitor"], *(name for name in highest if name != found.row["monitor"])][: len(COLOURS)]
    for monitor, reading in found.readings.items():
        colour = COLOURS[told.index(monitor)] if monitor in told else "var(--soft)"
        parts.append(line(panel, [(case, value / math.log(10)) for case, value in reading], colour))
    for place, monitor in enumerate(told):
        parts.append(text(panel.left + 8 + 160 * place, 14, monitor, COLOURS[place]))
    dated = found.evidence.get("onset", {"case": found.row["since_case"]})
    if "low" in dated:
        parts.append(band(panel, dated["low"], dated["high"], "var(--soft)"))
    for case, says in ((dated["case"], "onset"), (found.row["opened_at_case"], "alarm")):
        if case:
            parts.append(line(panel, [(case, -3.0), (case, 3.0)], "var(--soft)"))
            parts.append(text(panel.x(case) + 4, panel.bottom - (6 if says == "onset" else 20), says, "var(--soft)"))
    for version, start, end in found.live:
        parts.append(line(panel, [(max(start, first), -2.9), (max(end, first), -2.9)], "var(--ours)", width=5))
        parts.append(text(panel.x(max(start, first)) + 4, panel.bottom - 34, f"{version} live", "var(--ours)"))
    return svg(panel, f"evidence of {len(found.readings)} monitors over {last - first} cases", parts)


def _estimates(estimated: Mapping[str, Mapping[str, Any]]) -> str:
    """What the change may cost, with what each estimate assumes."""
    assumed = {how.name: how.assumption for how in estimators(PREVALENCE)}
    rows = "".join(
        f'<tr><td>{escape(name)}</td><td class="number">{one["before"]:.0%}</td>'
        f'<td class="number">{one["now"]:.0%}</td><td class="number">{one["low"]:.0%} to {one["high"]:.0%}</td>'
        f"<td>{escape(assumed.get(name, ''))}</td></tr>"
        for name, one in estimated.items()
    )
    if not rows:
        return ""
    return (
        '<section><h2>What it may cost</h2><p class="soft">The share of right answers, estimated without labels from '
        "the model's own confidence. Estimates tell what may be at stake; they approve nothing, and at a new site or "
        "scanner the truth may be far lower.</p>"
        '<div class="card"><table><thead><tr><th>estimate</th><th class="number">at approval</th>'
        '<th class="number">now</th><th class="number">95 % band</th><th>assumes</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _map(found: AlarmRecord) -> str:
    reference, since = found.seen
    if not len(reference) or not len(since):
        return "<p>There are too few cases since the onset to be shown.</p>"
    low = [float(min(side[:, axis].min() for side in found.seen)) for axis in (0, 1)]
    high = [float(max(side[:, axis].max() for side in found.seen)) for axis in (0, 1)]
    panel = Panel(low[0], high[0], low[1], high[1], 880, 420)
    parts = [*dots(panel, reference, "var(--frozen)"), *dots(panel, since, "var(--ours)")]
    return svg(panel, f"{len(reference)} reference cases and {len(since)} since the onset", parts)


def _readings(connection: Connection, first: int) -> dict[str, list[tuple[int, float]]]:
    found: dict[str, list[tuple[int, float]]] = {}
    rows = connection.execute(
        "SELECT monitor, at_case, log_e, threshold FROM signals WHERE at_case >= ? AND monitor != 'family' "
        "ORDER BY tick, monitor",
        (first,),
    )
    for row in rows:
        found.setdefault(row["monitor"], []).append((row["at_case"], row["log_e"] - row["threshold"]))
    return found


def _live(connection: Connection, first: int) -> list[tuple[str, int, int]]:
    rows = connection.execute(
        "SELECT version, min(number) AS start, max(number) AS last FROM observations "
        "WHERE role = 'live' AND number >= ? GROUP BY version ORDER BY start",
        (first,),
    )
    return [(row["version"], row["start"], row["last"]) for row in rows]


def _seen(connection: Connection, stream: str, onset: int) -> tuple[Any, Any]:
    """Both sides on one map."""
    import numpy as np

    epoch, said_by = epoch_of(connection, registry.live(connection)["version"])
    reference = read_reference(connection, epoch, said_by).calibrate
    is_known = known(connection)
    rows = connection.execute(
        ROWS + "WHERE o.role = 'live' AND o.number >= ? ORDER BY o.number LIMIT ?", (onset, 4 * SHOWN)
    ).fetchall()
    of = [row for row in rows if stream == "all" or stream_of(row["domain"], is_known) == stream] or rows
    before, after = (
        side[np.isfinite(side).all(axis=1)] for side in (reference.embedding[:SHOWN], batch_of(of[:SHOWN]).embedding)
    )
    return placed(before, after)
