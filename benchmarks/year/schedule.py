"""The year as it is drawn: what changes when, who comes on which day. Pure: the same seed gives the same year."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

DAYS = 364  # whole weeks, from a Monday on
WEEKDAY, WEEKEND = 36, 9  # patients' images a day, on average: some 10,000 a year
HOLIDAYS = 9
SLOTS = (35, 85, 135, 185, 235, 290)  # days around which the changes fall, in an order that is drawn
LEVELS = 6  # steps of the creep
VIEWS = 4  # images that a patient can have

HOME, HARMLESS, SCANNER, THIRD, FAR_OUT = "home", "harmless", "scanner", "third", "far-out"


def creep(level: int) -> str:
    """The name of the home scanner's look at a level of its creep, 1..LEVELS."""
    return f"creep{level}"


CONDITIONS = (HOME, HARMLESS, *(creep(level) for level in range(1, LEVELS + 1)), SCANNER, THIRD)


@dataclass(frozen=True)
class Change:
    """Something that happens from day `start` on, in full force `ramp` days later, until day `end`."""

    kind: str
    start: int
    ramp: int
    end: int

    def force(self, day: int) -> float:
        """0..1 on a day."""
        if not self.start <= day < self.end:
            return 0.0
        return min(1.0, (day - self.start + 1) / max(1, self.ramp))


@dataclass(frozen=True)
class Shown:
    """A case: image `view` of a patient under a condition; `minute` of the day."""

    case_id: str
    day: int
    minute: int
    condition: str
    patient: str
    view: int
    label: str


@dataclass(frozen=True)
class Year:
    """What happens, and every case in order of its time."""

    days: int
    changes: Sequence[Change]
    cases: Sequence[Shown]

    @property
    def first_change(self) -> int:
        return min(change.start for change in self.changes)


# kind: (days of ramp, days in force; None: until the year's end, share of all cases where it is a place of its own)
KINDS: Mapping[str, tuple[int, int | None, float]] = {
    HARMLESS: (1, None, 0.0),
    SCANNER: (21, None, 0.35),
    "prevalence": (3, 42, 0.0),
    "creep": (63, 84, 0.0),
    THIRD: (10, None, 0.25),
    FAR_OUT: (1, 1, 0.0),
}
FAR_OUT_CASES = 24
SEASON = 5.0  # times that the season's class comes more often


def drawn_changes(rng: np.random.Generator) -> list[Change]:
    """Each kind once, in an order and on days that are drawn."""
    changes = []
    for slot, kind in zip(SLOTS, rng.permutation(list(KINDS)).tolist(), strict=True):
        ramp, lasts, _ = KINDS[kind]
        start = slot + int(rng.integers(-8, 9))
        changes.append(Change(kind, start, ramp, DAYS if lasts is None else min(DAYS, start + lasts)))
    return changes


def draw(
    seed: int,
    patients: Mapping[str, Mapping[str, Sequence[str]]],
    changes: Sequence[Change] | None = None,
    days: int = DAYS,
) -> Year:
    """A year over `patients`: {pool: {class: patients}}, the pools being HOME, SCANNER, THIRD and FAR_OUT.

    The changes (unless given), the season's class, the holidays and every patient are drawn. A patient comes again now
    and then, with up to three images at a time; home's classes come equally often, those of the other sites as they
    are.
    """
    rng = np.random.default_rng([seed, 20260105])
    changes = drawn_changes(rng) if changes is None else changes
    season = str(rng.choice(sorted(patients[HOME])))
    holidays = set(rng.choice(DAYS, HOLIDAYS, replace=False).tolist())
    cases: list[Shown] = []
    for day in range(days):
        force = {change.kind: change.force(day) for change in changes if change.force(day)}
        mean = WEEKEND if day % 7 > 4 or day in holidays else WEEKDAY
        todays = _visits(int(rng.poisson(mean)), force, patients, season, rng)
        if FAR_OUT in force:
            pool = patients[FAR_OUT][""]
            todays += [(FAR_OUT, str(rng.choice(pool)), 0, "") for _ in range(FAR_OUT_CASES)]
        minutes = np.sort(rng.integers(8 * 60, 18 * 60, len(todays)))
        for minute, (condition, patient, view, label) in zip(minutes.tolist(), todays, strict=True):
            cases.append(Shown(f"year-{len(cases):05}", day, minute, condition, patient, view, label))
    return Year(days, tuple(changes), tuple(cases))


def _visits(
    images: int,
    force: Mapping[str, float],
    patients: Mapping[str, Mapping[str, Sequence[str]]],
    season: str,
    rng: np.random.Generator,
) -> list[tuple[str, str, int, str]]:
    """(condition, patient, view, class) of one day's cases; all images of a visit show the same patient."""
    share = {place: KINDS[place][2] * force.get(place, 0.0) for place in (SCANNER, THIRD)}
    seen: list[tuple[str, str, int, str]] = []
    while len(seen) < images:
        place = str(rng.choice([SCANNER, THIRD, HOME], p=[*share.values(), 1 - sum(share.values())]))
        pool = patients[place]
        names = sorted(pool)
        # At home every class is as frequent; elsewhere each patient is.
        weight = np.array([1.0 if place == HOME else len(pool[name]) for name in names])
        if "prevalence" in force and season in names:
            weight[names.index(season)] *= SEASON
        label = str(rng.choice(names, p=weight / weight.sum()))
        patient = str(rng.choice(pool[label]))
        condition = place if place != HOME else _look(force)
        views = rng.permutation(VIEWS)[: 1 + int(rng.choice(3, p=(0.67, 0.24, 0.09)))]
        seen += [(condition, patient, int(view), label) for view in views]
    return seen[:images]


def _look(force: Mapping[str, float]) -> str:
    """What the home scanner's images look like on a day."""
    level = round(force.get("creep", 0.0) * LEVELS)
    if level:
        return creep(level)
    return HARMLESS if HARMLESS in force else HOME
