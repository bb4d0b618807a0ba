"""What a year's traces say: silent errors, excess errors, recovery, false alarms, worse versions, forgetting."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from benchmarks.year.play import Trace
from benchmarks.year.schedule import CONDITIONS, DAYS, FAR_OUT, HARMLESS, HOME, SCANNER, THIRD, Change, Year

WORSE = 0.01  # a version is truly worse where its accuracy on held patients, in the mix of its day, falls by more
FORGOTTEN = 0.05  # or where balanced accuracy at home falls under the original's by more
NEAR = 0.05  # a change is recovered from where accuracy under it comes so near the oracle's

Truth = Callable[[str, str], Mapping[str, float]]  # (policy, version) -> {condition: accuracy on held patients}
AFFECTS = {HARMLESS: HARMLESS, SCANNER: SCANNER, THIRD: THIRD, "creep": CONDITIONS[-3]}


def score(trace: Trace, oracle: Trace, year: Year, truth: Truth, classes: Sequence[str]) -> dict[str, Any]:
    """One row of the table: rates are per 1,000 cases after the first change, shares are of those cases.

    An answer is withheld where the case was abstained from or trust was suspended: it is no error then, but deferred.
    """
    first = year.first_change
    after = [i for i, row in enumerate(trace.rows) if row[0] >= first and row[1] != FAR_OUT]
    withheld = {i for i in after if trace.rows[i][5] or trace.rows[i][4] == "suspended"}
    wrong = {i for i in after if trace.rows[i][3] != trace.rows[i][2]} - withheld
    silent = [i for i in wrong if trace.rows[i][4] == "normal"]
    best = [row for row in oracle.rows if row[0] >= first and row[1] != FAR_OUT]
    bound = sum(row[3] != row[2] for row in best)
    deferred = sum(trace.rows[i][4] != "normal" or trace.rows[i][5] for i in after)
    far = [row for row in trace.rows if row[1] == FAR_OUT]
    answered = [i for i in after if i not in withheld]
    worse = worse_versions(trace, year, truth)
    n = len(after) / 1000
    return {
        "policy": trace.policy,
        "silent_errors": len(silent) / n,
        "errors": len(wrong) / n,
        "excess_errors": (len(wrong) - bound) / n,
        "deferred": deferred / len(after),
        "withheld": len(withheld) / len(after),
        "far_out_answered": sum(not row[5] and row[4] == "normal" for row in far) / max(1, len(far)),
        "alarms": len(trace.alarms),
        "false_alarms": false_alarms(trace, year),
        "versions": sum(one["how"] == "promote" for one in trace.activations),
        "rollbacks": sum(one["how"] == "rollback" for one in trace.activations),
        "worse_versions": len(worse),
        "worse_days": sum(days for _, days in worse),
        "home_change": _at(truth, trace, DAYS)[HOME] - truth(trace.policy, "v0")[HOME],
        "ece": _ece(trace, answered, classes),
        "labels": len(trace.labels),
        "training_seconds": trace.training_seconds,
        "recovery": recoveries(trace, year, truth),
    }


def version_on(trace: Trace, day: int) -> str:
    """The version that was live at the end of a day."""
    return next((one["version"] for one in reversed(trace.activations) if one["day"] <= day), "v0")


def _at(truth: Truth, trace: Trace, day: int) -> Mapping[str, float]:
    return truth(trace.policy, version_on(trace, day))


def false_alarms(trace: Trace, year: Year) -> int:
    """Alarms of a shift with no change begun, or under way, since the alarm before it was closed (or the start)."""
    count, known_until = 0, -1
    for alarm in trace.alarms:
        active = [c for c in year.changes if c.start <= alarm["day"] and c.start + c.ramp > known_until]
        ended = [c for c in year.changes if known_until <= c.end <= alarm["day"] and c.end < DAYS]
        count += not active and not ended and alarm["shift"] is not None
        known_until = alarm["day"]
    return count


def worse_versions(trace: Trace, year: Year, truth: Truth) -> list[tuple[str, int]]:
    """(version, days live) of those that were truly worse than what they replaced, on patients held back for it."""
    found = []
    for i, one in enumerate(trace.activations):
        if one["how"] != "promote":
            continue
        before, now = (truth(trace.policy, name) for name in (one["previous"], one["version"]))
        mix = _mix(year, one["day"])
        change = sum(share * (now[condition] - before[condition]) for condition, share in mix.items())
        if change < -WORSE or now[HOME] < truth(trace.policy, "v0")[HOME] - FORGOTTEN:
            until = trace.activations[i + 1]["day"] if i + 1 < len(trace.activations) else DAYS
            found.append((one["version"], until - one["day"]))
    return found


def _mix(year: Year, day: int) -> dict[str, float]:
    """Shares of the conditions among the cases of the four weeks from a day on (before it, at the year's end)."""
    start = min(day, DAYS - 28)
    some = [case.condition for case in year.cases if start <= case.day < start + 28 and case.condition != FAR_OUT]
    return {condition: some.count(condition) / len(some) for condition in set(some)}


def recoveries(trace: Trace, year: Year, truth: Truth) -> dict[str, tuple[int, int] | None]:
    """{change: (cases, labels) until accuracy under it came near the oracle's}; None where it never did."""
    found: dict[str, tuple[int, int] | None] = {}
    for change in year.changes:
        condition = AFFECTS.get(change.kind)
        if condition is None:
            continue
        goal = truth("oracle", "oracle")[condition] - NEAR
        days = [change.start, *(one["day"] for one in trace.activations if change.start < one["day"] <= change.end)]
        day = next((day for day in days if _at(truth, trace, day)[condition] >= goal), None)
        found[change.kind] = None if day is None else _until(trace, change, day)
    return found


def _until(trace: Trace, change: Change, day: int) -> tuple[int, int]:
    cases = sum(change.start <= row[0] < day for row in trace.rows)
    return cases, sum(change.start <= came <= day for came in trace.labels)


def _ece(trace: Trace, rows: Sequence[int], classes: Sequence[str]) -> float:
    """Debiased calibration error of the answers given after the first change."""
    from monitors import Scores, ece

    target = np.array([classes.index(trace.rows[i][2]) for i in rows], np.int64)
    unit = np.array([str(i) for i in rows])
    return float(ece(Scores(probability=trace.probability[list(rows)], target=target, unit=unit))[0])
