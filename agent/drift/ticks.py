"""Decision ticks: a day where cases have times, ten cases where they have none. Pure functions of what was observed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, date, datetime, time, timedelta
from itertools import groupby

CASES_PER_TICK = 10
LONGEST_SILENCE = timedelta(days=400)  # a longer gap between two cases is played as this many silent days
LIVE = timedelta(days=2)  # a case that arrives this soon after it was acquired shows that the feed is live


@dataclass(frozen=True)
class Tick:
    """Numbers of the observations in it (none for a silent day), and its day where it has one."""

    numbers: tuple[int, ...]
    day: date | None

    @property
    def start(self) -> float:
        """Seconds since the epoch, NaN for a tick that is a count of cases."""
        return float("nan") if self.day is None else datetime.combine(self.day, time(), UTC).timestamp()


def day_of(acquired_at: str | None) -> date | None:
    return None if acquired_at is None else date.fromisoformat(acquired_at[:10])


def closed_ticks(
    observed: Sequence[tuple[int, date | None]],
    *,
    pending_days: frozenset[date],
    last_day: date | None,
    feed_is_live: bool,
    today: date,
) -> Iterator[Tick]:
    """The ticks that can be decided on now, in order, silent days among them.

    observed: (number, day) of every observation that no tick has read, in order. pending_days: days of which cases
    still wait to be observed. last_day: the latest day that an earlier tick had. A day is closed when it is over and
    nothing of it waits, or a later observation is of another day. Silent days are seen between two days with cases, and
    up to yesterday where the feed is live; a day before the latest one (time running backwards) brings none.
    """
    groups = [(day, [number for number, _ in group]) for day, group in groupby(observed, key=lambda o: o[1])]
    for position, (day, numbers) in enumerate(groups):
        if day is None:
            for start in range(0, len(numbers) - CASES_PER_TICK + 1, CASES_PER_TICK):
                yield Tick(tuple(numbers[start : start + CASES_PER_TICK]), None)
            remainder = numbers[len(numbers) - len(numbers) % CASES_PER_TICK :]
            if remainder and position < len(groups) - 1:
                yield Tick(tuple(remainder), None)
            continue
        if position == len(groups) - 1 and (day >= today or day in pending_days):
            return
        if last_day is not None:
            yield from _silence(last_day, min(day, today))
        yield Tick(tuple(numbers), day)
        last_day = day if last_day is None else max(last_day, day)
    if feed_is_live and last_day is not None and not pending_days:
        yield from _silence(last_day, today)


def _silence(after: date, before: date) -> Iterator[Tick]:
    day = max(after + timedelta(days=1), before - LONGEST_SILENCE)
    while day < before:
        yield Tick((), day)
        day += timedelta(days=1)
