"""One version as a page: its model card and change record, with the verdicts as intervals and the six axes."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

from agent.report.drawing import Panel, dots, grid, line, svg, text
from agent.report.frame import framed
from agent.store import Connection
from agent.updates.axes import sentences, with_replay
from agent.versions import bundle, registry
from agent.workspace import Workspace

ROW, WIDTH, NAMES = 26, 880, 270  # pixels of a verdict's line, of the drawing, and of the gates' names on it
COLOUR = {"PASS": "var(--good)", "FAIL": "var(--bad)", "INSUFFICIENT": "var(--warn)"}


@dataclass(frozen=True, kw_only=True)
class VersionRecord:
    """A row of the table `versions`; verdicts: rows of theirs; lineage: from it to v0; facts: of version.json;
    events: (time, event, by, reason) of the journal that name it, oldest first."""

    row: Mapping[str, Any]
    verdicts: Sequence[Mapping[str, Any]]
    lineage: Sequence[str]
    facts: Mapping[str, Any]
    events: Sequence[tuple[str, str, str, str]]


def version_record(workspace: Workspace, name: str) -> VersionRecord:
    """Raises HomeostatError where there is no such version, or its files can't be read."""
    with workspace.store.read() as connection:
        connection.execute("BEGIN")
        row = registry.get(connection, registry.resolve(connection, name))
        return VersionRecord(
            row=row,
            verdicts=registry.verdicts(connection, row["id"]),
            lineage=registry.lineage(connection, row["id"]),
            facts=bundle.facts(workspace.path("versions", row["id"])) if row["digest"] else {},
            events=_events(connection, row["id"]),
        )


def page(found: VersionRecord) -> str:
    """The whole page, with no patient or case on it."""
    row = found.row
    title = f"Version {row['id']}: {row['state']}"
    axes = with_replay(found.facts.get("axes", {}), json.loads(row["measures"] or "{}"))
    body = (
        f'<header><p class="eyebrow">Homeostat &middot; model card and change record</p><h1>{escape(title)}</h1>'
        "</header>"
        f'<section class="card">{"".join(f"<p>{escape(one)}</p>" for one in said(found))}</section>'
        f"{_axes(axes)}{_curve(axes.get('label_efficiency', {}))}{_unseen(axes.get('robustness', {}))}"
        f"{_verdicts(found.verdicts)}{_happened(found.events)}"
    )
    return framed(title, body)


def said(found: VersionRecord) -> list[str]:
    """What it is, what it was made from, and who let it go live."""
    row, data = found.row, found.facts.get("data", {})
    if row["parent"] is None:
        told = ["The model as deployed: the base itself, without any update."]
    else:
        domains = ", ".join(data.get("domains", ())) or "unknown"
        told = [
            f"Made from {row['parent']} by the recipe {row['recipe']} on {row['created_at'][:10]}; "
            f"it learnt from {data.get('labelled_patients', 'unknown')} labelled patients of {domains}.",
            f"It descends from {' <- '.join(found.lineage)}.",
        ]
    if row["approved_by"]:
        told.append(f"Approved by {row['approved_by']}: {row['approved_because']}.")
    if row["digest"]:
        told.append(f"Its digest is {row['digest']}; its base's is {row['base_digest']}.")
    if row["plan_digest"]:
        told.append(f"It was made under the plan {row['plan_digest']}.")
    return told


def _axes(axes: Mapping[str, Any]) -> str:
    rows = "".join(f"<tr><th>{escape(name)}</th><td>{escape(says)}</td></tr>" for name, says in sentences(axes))
    if not rows:
        return ""
    change = axes.get("depth", {}).get("change", [])
    drawn = f'<div class="card">{_change(change)}</div>' if change else ""
    return (
        '<section><h2>Six axes of this update</h2><p class="soft">How deep it went, what it gained from how many '
        "labels, how it bears other images, what it cost, how it can be audited, and what the plan says of it.</p>"
        f'<div class="card"><table><tbody>{rows}</tbody></table></div>{drawn}</section>'
    )


def _change(change: Sequence[float]) -> str:
    """How far the output of every block moved, from the image to the head."""
    panel = Panel(0, len(change), 0.0, max(0.05, *change), WIDTH, 180)
    parts = [line(panel, [(0, 0.0), (len(change), 0.0)], "var(--soft)")]
    for block, moved in enumerate(change):
        parts.append(line(panel, [(block + 0.5, 0.0), (block + 0.5, moved)], "var(--ours)", width=14))
        parts.append(text(panel.x(block + 0.5), panel.bottom + 15, str(block + 1), "var(--soft)", "middle"))
    parts.append(text(panel.left, 14, f"1 - CKA of each block's output, up to {panel.high:.2f}", "var(--soft)"))
    return svg(panel, f"how far the output of each of {len(change)} blocks moved", parts)


def _curve(label: Mapping[str, Any]) -> str:
    """What the recipe learns from fewer labels: drawn over the patients, all of them last, and as a table."""
    if not label.get("curve"):
        return ""
    rows = "".join(
        f'<tr><td class="number">{one["patients"]}</td><td class="number">{one["cases"]}</td>'
        f'<td class="number">{_signed(one["gained_on_develop"])}</td>'
        f"<td>{escape(', '.join(f'{domain} {value:.3f}' for domain, value in one['learnt'].items()))}"
        f"{escape(one.get('failed', ''))}</td></tr>"
        for one in label["curve"]
    )
    points = {one["patients"]: one["gained_on_develop"] for one in label["curve"]}
    points[label["labelled_patients"]] = label["gained_on_develop"]
    gained = [(0.0, 0.0), *((float(n), value) for n, value in sorted(points.items()) if value is not None)]
    return (
        '<section><h2>From fewer labels</h2><p class="soft">The recipe trained again on some of the new labelled '
        "patients, the fewer among the more: change of the mean over domains of balanced accuracy on develop.</p>"
        f'<div class="card">{_drawn(gained)}</div><div class="card"><table><thead><tr><th class="number">patients</th>'
        '<th class="number">cases</th><th class="number">gained</th><th>new domains</th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _drawn(gained: Sequence[tuple[float, float]]) -> str:
    values = [value for _, value in gained]
    panel = Panel(0.0, gained[-1][0], min(values), max(max(values), min(values) + 0.05), WIDTH, 180)
    parts = [*grid(panel, "labelled patients"), line(panel, [(0, 0.0), (panel.last, 0.0)], "var(--soft)", dashed=True)]
    parts += [line(panel, gained, "var(--ours)", width=2), *dots(panel, gained, "var(--ours)")]
    parts.append(text(panel.left, 14, f"gained on develop, {panel.low:+.2f} to {panel.high:+.2f}", "var(--soft)"))
    return svg(panel, f"what is gained on develop from {len(gained) - 1} numbers of labelled patients", parts)


def _unseen(robust: Mapping[str, Any]) -> str:
    if not robust.get("unseen"):
        return ""
    rows = "".join(
        f'<tr><td>{escape(one["domain"])}</td><td class="number">{one["n"]}</td>'
        f'<td class="number">{_share(one["quality"])}</td><td class="number">{_share(one["before"])}</td>'
        f"<td>{'has learnt it' if one['live_learnt'] else 'has not seen it'}</td>"
        f"<td>{escape(one.get('failed', ''))}</td></tr>"
        for one in robust["unseen"]
    )
    return (
        '<section><h2>At a domain that it has not seen</h2><p class="soft">The recipe trained again without each '
        "domain, and its balanced accuracy there on develop, beside the live version's.</p>"
        '<div class="card"><table><thead><tr><th>domain</th><th class="number">cases</th><th class="number">unseen</th>'
        '<th class="number">live</th><th>live version</th><th></th></tr></thead>'
        f"<tbody>{rows}</tbody></table></div></section>"
    )


def _signed(value: float | None) -> str:
    return "failed" if value is None else f"{value:+.3f}"


def _share(value: float | None) -> str:
    return "failed" if value is None else f"{value:.3f}"


def _verdicts(verdicts: Sequence[Mapping[str, Any]]) -> str:
    if not verdicts:
        return ""
    rows = "".join(
        f'<tr><td>{escape(one["gate"])}</td><td><span class="badge {one["verdict"]}">{one["verdict"]}</span></td>'
        f'<td>{one["role"]}</td><td class="number">{one["n"]}</td><td>{escape(one["says"])}</td></tr>'
        for one in verdicts
    )
    return (
        '<section><h2>What the gates said</h2><p class="soft">The change of each measure on patients who taught '
        "nobody, with its interval; the dashed line is no change.</p>"
        f'<div class="card">{_intervals([one for one in verdicts if one["low"] is not None])}</div>'
        '<div class="card"><table><thead><tr><th>gate</th><th>verdict</th><th>role</th><th class="number">patients</th>'
        f"<th>says</th></tr></thead><tbody>{rows}</tbody></table></div></section>"
    )


def _intervals(verdicts: Sequence[Mapping[str, Any]]) -> str:
    if not verdicts:
        return "<p>No gate could give an interval yet.</p>"
    reach = max(0.05, *(abs(one[end]) for one in verdicts for end in ("low", "high")))
    panel = Panel(-reach, reach, 0, len(verdicts), WIDTH, ROW * len(verdicts) + 70)

    def x(value: float) -> float:
        return NAMES + (value + reach) / (2 * reach) * (WIDTH - NAMES - 20)

    parts = []
    for place, one in enumerate(verdicts):
        y, colour = 34 + ROW * place, COLOUR[one["verdict"]]
        parts.append(text(NAMES - 12, y + 4, one["gate"], "var(--ink)", "end"))
        parts.append(_stroke(x(one["low"]), y, x(one["high"]), y, colour, 5))
        parts.append(_stroke(x(0.0), y - ROW / 2, x(0.0), y + ROW / 2, "var(--soft)", 1, dashed=True))
    for value in (-reach, 0.0, reach):
        parts.append(text(x(value), panel.height - 10, f"{value:+.2f}", "var(--soft)", "middle"))
    return svg(panel, f"intervals of {len(verdicts)} verdicts", parts)


def _stroke(x: float, y: float, to_x: float, to_y: float, colour: str, width: int, dashed: bool = False) -> str:
    """Between two pixels."""
    dash = ' stroke-dasharray="4 4"' if dashed else ""
    place = f'x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}"'
    return f'<line {place} stroke="{colour}" stroke-width="{width}" stroke-linecap="round"{dash}/>'


def _happened(events: Iterable[tuple[str, str, str, str]]) -> str:
    rows = "".join(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in event)}</tr>" for event in events)
    return (
        '<section><h2>What happened to it</h2><div class="card"><table><thead><tr><th>when</th><th>event</th>'
        f"<th>by</th><th>reason</th></tr></thead><tbody>{rows}</tbody></table></div></section>"
    )


def _events(connection: Connection, version: str) -> list[tuple[str, str, str, str]]:
    rows = connection.execute(
        "SELECT at, event, by, body FROM journal WHERE json_extract(body, '$.version') = ? ORDER BY seq", (version,)
    ).fetchall()
    return [
        (row["at"][:16].replace("T", " "), row["event"], row["by"], str(json.loads(row["body"]).get("reason") or ""))
        for row in rows
    ]
