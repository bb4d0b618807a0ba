"""When an alarm ends by labels: how soon where nothing is wrong, and how seldom where too much is.

Simulated alarms of a site with 30 cases a day, of which 45 a week get a label, 14 to 42 days late. What a patient is
answered rests on the patient for four fifths; confidence tells as much of it as in the year on trial (correlation
0.45). Each alarm is looked at by the rule of `agent.updates.clear` and by a plain one that it replaced: seven looks at
the latest 128 labelled cases, each at its part of alpha, without what confidence tells. At the margin both are to end
at most alpha of the alarms.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import ndtr, ndtri

from agent.errors import HomeostatError
from agent.updates.clear import LATEST, LOOKS, SHARES, TODAY
from monitors import Verdict, by_confidence, unharmed
from monitors.protocols import Float, Int

MARGIN, ALPHA = 0.08, 0.05
DAYS, PER_DAY, PER_WEEK, DELAY = 220, 30, 45, (14, 42)
LASTING = 0.8  # share of the variance of answers that is the patient's
NOISE = 0.9  # of confidence, in the same unit
PLAIN_LOOKS, PLAIN_LATEST = (32, 64, 128, 192, 256, 384, 512), 128
ALARMS, FULL = 100, 1000


@dataclass(frozen=True, kw_only=True)
class Site:
    """change: accuracy less `accuracy`, the approved one, on a day after the alarm. seen: whether confidence falls with
    it. half: of the cases are of another place. patients: who come again and again; approved: those of the approval."""

    change: Callable[[int], float]
    seen: bool = True
    half: bool = False
    patients: int = 254
    approved: int = 239
    accuracy: float = 0.94


def _creep(day: int) -> float:
    return -0.7 * min(1.0, max(0, day - 10) / 55) if day < 84 else 0.0


def _lost(day: int) -> float:
    return -MARGIN


SITES: Mapping[str, Site] = {
    "as before": Site(change=lambda day: 0.0),
    "2 points less": Site(change=lambda day: -0.02),
    "1 point less, half of the labels": Site(change=lambda day: -0.01, half=True),
    "40 points less for 30 days": Site(change=lambda day: -0.4 if day < 30 else 0.0),
    "creep, confidence falls": Site(change=_creep),
    "creep, confidence stays": Site(change=_creep, seen=False),
    "margin": Site(change=_lost, seen=False),
    "margin, confidence falls": Site(change=_lost),
    "margin, half of the labels": Site(change=_lost, seen=False, half=True),
    "margin, new patients": Site(change=_lost, seen=False, patients=5000),
    "margin, of 0.86": Site(change=_lost, seen=False, accuracy=0.86),
    "margin, of 0.98": Site(change=_lost, seen=False, accuracy=0.98),
    "margin, 100 approved": Site(change=_lost, seen=False, approved=100),
}

Progress = Callable[[str, int, int], None]
Ended = dict[str, tuple[int, float] | None]  # by rule: (day, change of that day) where the alarm ended


def bench(
    data: Path | None, seed: int, input: Path | None = None, full: bool = False, progress: Progress | None = None
) -> dict[str, Any]:
    """{"name", "rows", "ratios"}: per site and rule the share of alarms that end within 220 days, the mean day (220
    where they don't), and the share that end on a day on which the accuracy is more than the margin below.

    Raises HomeostatError where `data` or `input` is given: nothing is read.
    """
    if data is not None or input is not None:
        raise HomeostatError("the benchmark 'clearing' is simulated: leave --data and --input out")
    rng, rows = np.random.default_rng(seed), list[dict[str, Any]]()
    alarms = FULL if full else ALARMS
    for number, (name, site) in enumerate(SITES.items()):
        ended = [played(site, rng) for _ in range(alarms)]
        for rule in ended[0]:
            some = [one[rule] for one in ended]
            rows.append({
                "site": name,
                "rule": rule,
                "ended": sum(one is not None for one in some) / alarms,
                "day": float(np.mean([one[0] if one else DAYS for one in some])),
                "wrongly": sum(one is not None and one[1] <= -MARGIN for one in some) / alarms,
            })  # fmt: skip
        (progress or _tell)(name, number + 1, len(SITES))
    return {"name": "clearing", "rows": rows, "ratios": ratios(rows)}


def ratios(rows: list[dict[str, Any]]) -> dict[str, float]:
    """The most alarms that end wrongly at the margin, in ratio to alpha, and the days of the harmless ones to those of
    the plain rule."""
    at = {(row["site"], row["rule"]): row for row in rows}
    found = {
        f"{rule}.margin.to_alpha": max(at[site, rule]["wrongly"] for site in SITES if site.startswith("margin")) / ALPHA
        for rule in ("now", "plain")
    }
    for site in ("as before", "2 points less", "40 points less for 30 days"):
        found[f"{site.replace(' ', '_')}.days.to_plain"] = at[site, "now"]["day"] / at[site, "plain"]["day"]
    return found


def played(site: Site, rng: np.random.Generator) -> Ended:
    """One alarm, by each rule."""
    approved = _answers(rng.standard_normal(site.approved), site.accuracy, site.accuracy, rng)
    share = 0.5 if site.half else 1.0
    day = np.repeat(np.arange(DAYS), rng.poisson(PER_DAY * share, DAYS))
    patient = rng.integers(0, site.patients, len(day))
    accuracy = site.accuracy + np.array([site.change(one) for one in range(DAYS)])[day]
    believed = accuracy if site.seen else np.full(len(day), site.accuracy)
    right, sure = _answers(rng.standard_normal(site.patients)[patient], accuracy, believed, rng)
    came, order = _labels(day, round(PER_WEEK * share), rng)
    ended: Ended = {"now": None, "plain": None}
    for n in (n for n in LOOKS if n <= len(order)):
        now = int(came[order[n - 1]])
        for rule, (looks, latest, level) in {
            "now": (LOOKS, LATEST, ALPHA / SHARES),
            "plain": (PLAIN_LOOKS, PLAIN_LATEST, ALPHA / len(PLAIN_LOOKS)),
        }.items():
            if ended[rule] is not None or n not in looks:
                continue
            some = order[max(0, n - latest) : n]
            shares, confidence = (_per_patient(patient[some], values[some]) for values in (right, sure))
            two = (float(approved[0].sum()), site.approved), (float(shares.sum()), len(shares))
            if rule == "now":
                today = np.flatnonzero(day <= now)[-TODAY:]
                moved = by_confidence(approved, (shares, confidence), _per_patient(patient[today], sure[today]))
                verdict = unharmed(*two, MARGIN, level, moved).verdict
            else:
                verdict = unharmed(*two, MARGIN, level).verdict
            if verdict is Verdict.PASS:
                ended[rule] = now, site.change(now)
    return ended


def _answers(patient: Float, accuracy: Float | float, believed: Float | float, rng: np.random.Generator) -> Any:
    """(right or not, confidence) of cases with their patients' values; `believed` is what confidence knows of."""
    ease = np.sqrt(LASTING) * patient + np.sqrt(1 - LASTING) * rng.standard_normal(len(patient))
    right = (ease > ndtri(1 - np.clip(accuracy, 0.01, 0.99))).astype(float)
    noise = NOISE * rng.standard_normal(len(patient))
    return right, ndtr(ease - ndtri(1 - np.clip(believed, 0.01, 0.99)) + noise)


def _labels(day: Int, per_week: int, rng: np.random.Generator) -> tuple[Int, Int]:
    """(day on which each case's label comes, the cases whose label comes within DAYS in this order)."""
    came = np.full(len(day), DAYS)
    for week in range(0, DAYS, 7):
        some = np.flatnonzero((day >= week) & (day < week + 7))
        drawn = rng.choice(some, min(per_week, len(some)), replace=False)
        came[drawn] = day[drawn] + rng.integers(DELAY[0], DELAY[1] + 1, len(drawn))
    order = np.argsort(came, kind="stable")
    return came, order[came[order] < DAYS]


def _per_patient(patient: Int, values: Float) -> Float:
    _, place = np.unique(patient, return_inverse=True)
    return np.bincount(place, values) / np.bincount(place)


def _tell(what: str, done: int, of: int) -> None:
    print(f"{done}/{of} {what}", file=sys.stderr, flush=True)
