"""Ticks: every observation is decided on exactly once, whatever the days do."""

from __future__ import annotations

from datetime import date, timedelta

from hypothesis import given
from hypothesis import strategies as st

from agent.drift.ticks import CASES_PER_TICK, LONGEST_SILENCE, Tick, closed_ticks

FIRST = date(2025, 3, 1)
TODAY = FIRST + timedelta(days=60)


def on(day: int) -> date:
    return FIRST + timedelta(days=day)


def ticks(observed, *, pending=(), last=None, live=False, today=TODAY) -> list[Tick]:
    return list(closed_ticks(observed, pending_days=frozenset(pending), last_day=last, feed_is_live=live, today=today))


DAYS = st.one_of(st.none(), st.integers(0, 70).map(on))
RUNS = st.lists(st.tuples(DAYS, st.integers(1, 23)), max_size=8)


@given(RUNS, st.booleans(), st.sampled_from([None, on(5), on(40)]))
def test_every_observation_is_in_one_tick_or_waits_at_the_end(runs, live, last):
    """No observation is decided on twice, none is passed over, and those that wait are the latest ones."""
    days = [day for day, count in runs for _ in range(count)]
    observed = list(enumerate(days, 1))
    found = ticks(observed, last=last, live=live)
    decided = [number for tick in found for number in tick.numbers]
    assert decided == list(range(1, len(decided) + 1))
    waiting = days[len(decided) :]
    assert len(set(waiting)) <= 1, "only the open tick waits"
    if waiting and waiting[0] is None:
        assert len(waiting) < CASES_PER_TICK
    elif waiting:
        assert waiting[0] >= TODAY
    for tick in found:
        assert {days[number - 1] for number in tick.numbers} <= {tick.day}, "a tick holds cases of its own day"


@given(RUNS, st.integers(0, 40))
def test_what_was_decided_on_stays_so_when_more_comes(runs, later):
    """Looking often or once gives the same ticks of cases: restarts and pauses change nothing."""
    observed = list(enumerate((day for day, count in runs for _ in range(count)), 1))
    cut = min(later, len(observed))
    early = [tick for tick in ticks(observed[:cut]) if tick.numbers]
    # A day that more cases join is not over: the reader says so by `pending_days`, here by stopping at a change of day.
    if cut and cut < len(observed) and observed[cut][1] == observed[cut - 1][1] and observed[cut][1] is not None:
        return
    done = sum(len(tick.numbers) for tick in early)
    late = [tick for tick in ticks(observed[done:]) if tick.numbers]
    assert early + late == [tick for tick in ticks(observed) if tick.numbers]


def test_a_day_is_closed_when_it_is_over_and_nothing_of_it_waits():
    """Today's cases wait for tomorrow, yesterday's for those of yesterday that are still to be observed."""
    observed = [(1, on(3)), (2, on(3))]
    assert ticks(observed, today=on(3)) == []
    assert ticks(observed, today=on(4), pending=[on(3)]) == []
    assert ticks(observed, today=on(4)) == [Tick((1, 2), on(3))]


def test_silent_days_between_two_days_with_cases_are_seen():
    """A gap is an observation of the case volume, one empty tick per day."""
    found = ticks([(1, on(1)), (2, on(4))])
    assert found == [Tick((1,), on(1)), Tick((), on(2)), Tick((), on(3)), Tick((2,), on(4))]


def test_silence_up_to_yesterday_is_seen_only_where_the_feed_is_live():
    """A live feed that stops is told; a folder of old cases isn't silent since the day that it ends."""
    assert ticks([], last=on(1), live=False, today=on(5)) == []
    assert ticks([], last=on(1), live=True, today=on(5)) == [Tick((), on(day)) for day in (2, 3, 4)]
    assert ticks([], last=on(1), live=True, today=on(5), pending=[on(2)]) == [], "cases of a silent day still wait"


def test_time_that_runs_backwards_brings_no_silence():
    """A case that arrives late is decided on, and the days between it and the latest one are not silent again."""
    found = ticks([(1, on(20)), (2, on(3)), (3, on(21))], last=on(19))
    assert found == [Tick((1,), on(20)), Tick((2,), on(3)), Tick((3,), on(21))]


def test_a_date_in_the_future_plays_no_silence_that_has_not_been():
    """One wrong clock is no silence of months: silent days end where today begins."""
    found = ticks([(1, on(9)), (2, date(2099, 1, 1)), (3, on(9))], today=on(10))
    assert [tick.day for tick in found if not tick.numbers] == []


def test_a_long_gap_is_played_in_part():
    """Ten years between two cases are not thousands of ticks."""
    found = ticks([(1, date(2010, 1, 1)), (2, on(0))])
    assert len(found) == LONGEST_SILENCE.days + 2
