"""versions, show, approve, reject, promote, rollback, history: the registry for people. No numpy, no torch."""

from __future__ import annotations

import argparse
import json
import time
from typing import Any

from agent.answer import Answer, table
from agent.clock import parse_time, rfc3339
from agent.errors import HomeostatError
from agent.updates.axes import sentences, with_replay
from agent.versions import bundle, registry
from agent.workspace import Workspace

ROW = ("id", "parent", "state", "recipe", "created_at", "approved_by", "digest")
VERDICT = ("gate", "role", "verdict", "n", "before", "after", "interval", "margin", "needed", "says")


def versions(args: argparse.Namespace) -> Answer:
    """Every version, oldest first."""
    with Workspace(args.workspace).store.read() as connection:
        rows = [_row(version) for version in registry.versions(connection)]
    return Answer(rows, lambda: table([{**row, "digest": _short(row["digest"])} for row in rows], list(ROW)))


def show(args: argparse.Namespace) -> Answer:
    """One version: how it was made, what it descends from, what the gates said of it."""
    workspace = Workspace(args.workspace)
    with workspace.store.read() as connection:
        connection.execute("BEGIN")
        version = registry.get(connection, registry.resolve(connection, args.version))
        verdicts = [as_answer(row) for row in registry.verdicts(connection, version["id"])]
        lineage = registry.lineage(connection, version["id"])
    made = bundle.facts(workspace.path("versions", version["id"])) if version["digest"] else {}
    value = {
        **_row(version),
        "verdicts": verdicts,
        "axes": with_replay(made.get("axes", {}), json.loads(version["measures"] or "{}")),
        "measures": json.loads(version["measures"] or "{}"),
        "lineage": lineage,
        "made": made.get("made", {}),
        "data": made.get("data", {}),
        "plan_digest": version["plan_digest"],
        "base_digest": version["base_digest"],
        "approved_because": version["approved_because"],
    }
    return Answer(value, lambda: _shown(value))


def approve(args: argparse.Namespace) -> Answer:
    """Lets a judged candidate be promoted; exit 3 while it is held."""
    workspace = Workspace(args.workspace)
    version = registry.approve(workspace, args.version, **_signed(args))
    return _decided(version, "approved", f"{version} is approved: 'homeostat promote {version}' makes it live")


def reject(args: argparse.Namespace) -> Answer:
    """Refuses a candidate for good."""
    version = registry.reject(Workspace(args.workspace), args.version, **_signed(args))
    return _decided(version, "rejected", f"{version} is rejected for good; it is kept")


def promote(args: argparse.Namespace) -> Answer:
    """Makes an approved version live, on probation."""
    done = registry.promote(Workspace(args.workspace), args.version, **_signed(args))
    says = f"{done.now} is live instead of {done.before}, on probation; 'homeostat rollback' takes it back"
    return _decided(done.now, "probation", says)


def rollback(args: argparse.Namespace) -> Answer:
    """Live goes back; automatic promotion pauses until `resume`."""
    started = time.perf_counter()
    done = registry.rollback(Workspace(args.workspace), args.to, **_signed(args))
    value = {"from": done.before, "to": done.now, "seconds": round(time.perf_counter() - started, 6)}
    return Answer(
        value, f"{done.now} is live again instead of {done.before}; automatic promotion pauses until 'homeostat resume'"
    )


def history(args: argparse.Namespace) -> Answer:
    """What was live from when to when, oldest first; with --at, the one that was live at that time."""
    with Workspace(args.workspace).store.read() as connection:
        rows = registry.activations(connection)
    ends = [row["at"] for row in rows[1:]] + [None]
    value = [
        {
            "version": row["version"],
            "from": row["at"],
            "to": end,
            "by": row["by"],
            "reason": row["reason"],
            "how": row["how"],
        }
        for row, end in zip(rows, ends, strict=True)
    ]
    if args.at is not None:
        at = _time(args.at)
        value = [row for row in value if row["from"] <= at and (row["to"] is None or at < row["to"])]
    columns = ["version", "from", "to", "how", "by", "reason"]
    return Answer(value, lambda: table(value, columns) if value else "nothing was live then")


def _signed(args: argparse.Namespace) -> dict[str, str]:
    """Who decides and why: an empty name or reason would be a hole in the record."""
    signed = {"by": args.by.strip(), "reason": args.reason.strip()}
    if not all(signed.values()):
        raise HomeostatError("a decision needs a name and a reason: --by NAME --reason TEXT, neither of them empty")
    return signed


def _time(text: str) -> str:
    try:
        return rfc3339(parse_time(text))
    except ValueError:
        raise HomeostatError(f"{text!r} is no time: write RFC 3339, as 2026-03-01T08:00:00Z, or a date") from None


def _decided(version: str, state: str, says: str) -> Answer:
    return Answer({"version": version, "state": state}, says)


def _row(version: dict[str, Any]) -> dict[str, Any]:
    return {name: version[name] for name in ROW}


def as_answer(row: dict[str, Any]) -> dict[str, Any]:
    """A row of `verdicts` as the contract shows it."""
    interval = None if row["low"] is None else [row["low"], row["high"]]
    return {name: interval if name == "interval" else row[name] for name in VERDICT}


def _shown(value: dict[str, Any]) -> str:
    lines = [f"{name.ljust(12)} {value[name]}" for name in ROW if value[name] is not None]
    lines += [f"{'descent'.ljust(12)} {' <- '.join(value['lineage'])}"]
    if axes := [{"axis": name, "says": says} for name, says in sentences(value["axes"])]:
        lines += ["", table(axes, ["axis", "says"])]
    if value["verdicts"]:
        columns = ["gate", "role", "verdict", "n", "before", "after", "interval", "margin"]
        rows = [{**row, "interval": _interval(row["interval"])} for row in value["verdicts"]]
        lines += ["", table(rows, columns), "", *(f"{row['gate']}: {row['says']}" for row in rows)]
    return "\n".join(lines)


def _interval(interval: list[float] | None) -> str | None:
    return None if interval is None else f"[{interval[0]:+.3f}, {interval[1]:+.3f}]"


def _short(digest: str | None) -> str | None:
    return digest and digest[:12]
