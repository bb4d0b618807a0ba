"""The six axes of an update, as numbers: how deep it went, what it learnt from how many labels, how it bears other
images, what it cost, whether it can be audited, and what the plan says of it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from hashlib import sha256
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.updates.quality import quality

if TYPE_CHECKING:
    from agent.plan import Plan
    from agent.tasks import Task
    from strategies.preprocessing import Pixels
    from strategies.protocols import Examples

LOOKED_AT = 96  # images of develop that depth and corruptions are measured on: seconds, not minutes
HASH = re.compile("[0-9a-f]{64}")  # sha256 in hex, by which the file of a case is named


def of_network(
    task: Task, base: Path, live: Path | None, parts: Path, develop: Examples, table: Mapping[str, Mapping[str, Any]]
) -> dict[str, Any]:
    """Depth and robustness of a finalist, beside the live version; `table`: its measures on *develop* by domain."""
    from strategies.axes import corrupted, depth
    from strategies.tasks import task_of

    images = some_of(base, develop)
    found, label = depth(base, live, parts, images), images.examples.label
    truth = task_of(task.name).target(images.examples, images.preprocessing)
    worse = {
        when: {kind: quality(task, rows, label) for kind, rows in corrupted(base, version, images, truth)}
        for when, version in (("before", live), ("after", parts))
    }
    worst = min(table, key=lambda domain: table[domain]["quality"])
    return {
        "depth": {
            "touched": found.touched,
            "of": found.of,
            "earliest_block": found.earliest,
            "blocks": len(found.change),
            "change": [round(value, 4) for value in found.change],
        },
        "robustness": {
            "n": len(images),
            "worst_domain": {"domain": worst, **table[worst]},
            "corrupted": worse,
        },
    }


def of_record(
    plan: Plan, finalist: str, made: Mapping[str, Any], job: Path, parts: Path, labelled: int, gained: float
) -> dict[str, Any]:
    """Label efficiency, cost, auditability and burden: what the job and the plan tell.

    gained: the mean over domains of the task's figure on *develop*, less that of the live version.
    """
    spec = json.loads((job / "job.json").read_text())
    entries = [entry for part in ("new", "memory", "develop") for entry in spec[part]]
    return {
        "label_efficiency": {"labelled_patients": labelled, "gained_on_develop": round(gained, 4)},
        "cost": {
            "seconds": made["seconds"],
            "peak_mib": made.get("peak_mib"),
            "bytes": sum(file.stat().st_size for file in parts.iterdir() if file.is_file()),
        },
        "auditability": {
            "inputs": len(entries),
            "hashed": sum(_hashed(entry["uri"]) for entry in entries),
            "spec": sha256((job / "job.json").read_bytes()).hexdigest(),
            "replays": None,
        },
        "burden": burden(plan, finalist),
    }


def burden(plan: Plan, recipe: str) -> dict[str, Any]:
    """The clauses of the plan that a recipe falls under, and what lets a version made by it go live."""
    clauses = [f"plan.responses.{shift}" for shift, response in plan.responses.items() if recipe in response.recipes]
    automatic = plan.mode == "bounded_auto" and bool(clauses)
    how = "automatic" if automatic else "by approval" if clauses else "outside the plan, by approval"
    return {"clauses": clauses, "how": how}


def joined(one: Mapping[str, Any], other: Mapping[str, Any]) -> dict[str, Any]:
    """The axes of both; of an axis that both have, the numbers of both."""
    return {axis: {**one.get(axis, {}), **other.get(axis, {})} for axis in {**one, **other}}


def with_replay(axes: Mapping[str, Any], measures: Mapping[str, Any]) -> dict[str, Any]:
    """The axes as the version was written with, and whether it has been replayed since (`measures` of the store)."""
    audit = axes.get("auditability")
    return {**axes, "auditability": {**audit, "replays": measures.get("replays")}} if audit else dict(axes)


def sentences(axes: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    """(axis, what there is to say of it), for people; an axis that was not measured is left out."""
    if deep := axes.get("depth"):
        where = f"from block {deep['earliest_block']} of {deep['blocks']} on" if deep["earliest_block"] else "head only"
        change = f", output of the last block changed by {deep['change'][-1]:.3f} (1 - CKA)" if deep["change"] else ""
        yield "depth", f"{deep['touched']:,} of {deep['of']:,} numbers, {where}{change}"
    if label := axes.get("label_efficiency"):
        gained = f"{label['gained_on_develop']:+.3f} on develop"
        yield "label efficiency", f"{gained} from {label['labelled_patients']} labelled patients{_curve(label)}"
    if robust := axes.get("robustness"):
        worst = robust["worst_domain"]
        before, after = (_mean(robust["corrupted"][when].values()) for when in ("before", "after"))
        yield (
            "robustness",
            f"worst domain {worst['domain']} {worst['quality']:.3f}; "
            f"worse images {before:.3f} -> {after:.3f} (n={robust['n']}){_unseen(robust)}",
        )
    if cost := axes.get("cost"):
        peak = f", {cost['peak_mib']:.0f} MiB at most" if cost["peak_mib"] else ""
        yield "cost", f"{cost['seconds']:.0f} s{peak}, {cost['bytes'] / 1e6:.1f} MB"
    if audit := axes.get("auditability"):
        replays = {None: "not replayed yet", True: "replays to the same bytes", False: "DOES NOT replay"}
        yield "auditability", f"{audit['hashed']} of {audit['inputs']} inputs by hash; {replays[audit['replays']]}"
    if plan := axes.get("burden"):
        yield "burden", f"{plan['how']}{': ' if plan['clauses'] else ''}{', '.join(plan['clauses'])}"


def _curve(label: Mapping[str, Any]) -> str:
    """What the curve adds to the sentence of its axis; empty where none was asked for."""
    if "curve" not in label:
        return ""
    curve, of = label["curve"], label["curve_of"]
    if not of:
        return "; too few for a curve"
    points = [f"{_number(point['gained_on_develop'], '+.3f')} from {point['patients']}" for point in curve]
    ended = f" (ended after {len(curve)} of {len(of)} points)" if len(curve) < len(of) else ""
    return f"; curve: {', '.join(points) or 'no point'}{ended}"


def _unseen(robust: Mapping[str, Any]) -> str:
    """What the domains that were left out add to the sentence of their axis; empty where none was asked for."""
    if "unseen" not in robust:
        return ""
    unseen, of = robust["unseen"], robust["unseen_of"]
    said = [
        f"{one['domain']} {_number(one['quality'], '.3f')} unseen, live {one['before']:.3f}"
        f"{' (which has learnt it)' if one['live_learnt'] else ''}"
        for one in unseen
    ]
    said += [f"{domain} not left out: {why}" for domain, why in robust["unseen_skipped"].items()]
    said += [f"ended after {len(unseen)} of {len(of)} unseen domains"] if len(unseen) < len(of) else []
    return "".join(f"; {one}" for one in said or ["no domain beside home to leave out"])


def _number(value: float | None, form: str) -> str:
    return "failed" if value is None else format(value, form)


def some_of(base: Path, develop: Examples) -> Pixels:
    """LOOKED_AT images of *develop*, evenly spread, as the base takes them."""
    import numpy as np

    from strategies.base import Chosen, load_base
    from strategies.preprocessing import Pixels

    rows = np.linspace(0, len(develop) - 1, min(len(develop), LOOKED_AT)).astype(int)
    return Pixels(Chosen(develop, rows), load_base(base).origin.preprocessing)


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return sum(found) / len(found)


def _hashed(uri: str) -> bool:
    return HASH.fullmatch(Path(uri).name) is not None
