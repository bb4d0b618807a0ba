"""The daemon: APScheduler fires the cycle, signals end it after the step at hand, a lock refuses a second one."""

from __future__ import annotations

import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from agent.cycle import Cycle
from agent.workspace import Workspace, exclusive

EVERY = 2.0  # seconds between two looks for work when idle
BREATH = 0.25  # seconds between two looks at a running job


class Stop:
    """Set by SIGTERM and SIGINT, which do nothing else: the step at hand is finished first."""

    def __init__(self) -> None:
        self.asked = threading.Event()

    def __call__(self, _signal: int, _frame: FrameType | None) -> None:
        self.asked.set()


def work(workspace: Workspace) -> None:
    """Runs until SIGTERM or SIGINT. Raises HomeostatError when another process works on the workspace."""
    from apscheduler.events import EVENT_JOB_ERROR
    from apscheduler.schedulers.background import BackgroundScheduler

    failed: list[BaseException] = []
    with _supervised(workspace) as (cycle, stop):
        scheduler = BackgroundScheduler(timezone="UTC")

        def fire() -> None:
            while not stop.asked.is_set() and cycle.step(workspace.now()):
                if cycle.making is not None:
                    time.sleep(BREATH)

        def fall(event: object) -> None:
            failed.append(event.exception)  # type: ignore[attr-defined]
            stop.asked.set()

        scheduler.add_listener(fall, EVENT_JOB_ERROR)
        # A late step is made up for once and never dropped: what there is to do is in the store, not in the clock.
        scheduler.add_job(
            fire, "interval", seconds=EVERY, id="cycle", coalesce=True, max_instances=1, misfire_grace_time=None,
            next_run_time=workspace.now(),
        )  # fmt: skip
        scheduler.start()
        while not stop.asked.wait(0.2):
            pass
        scheduler.shutdown(wait=True)
    if failed:
        raise failed[0]


def work_off(workspace: Workspace, progress: Callable[[Cycle], None] | None = None) -> bool:
    """Works until nothing is left to do; False when a signal ended it before."""
    with _supervised(workspace) as (cycle, stop):
        while not stop.asked.is_set():
            if not cycle.step(workspace.now()):
                return True
            if progress is not None:
                progress(cycle)
            if cycle.making is not None:
                time.sleep(BREATH)
    return False


@contextmanager
def _supervised(workspace: Workspace) -> Iterator[tuple[Cycle, Stop]]:
    refusal = f"another homeostat works on {workspace.root} already: stop it first, or let it do the work"
    with exclusive(workspace.path(".lock"), refusal):
        stop = Stop()
        before = {number: signal.signal(number, stop) for number in (signal.SIGTERM, signal.SIGINT)}
        cycle = Cycle(workspace)
        try:
            cycle.start(workspace.now())
            yield cycle, stop
        finally:
            cycle.stop(workspace.now())
            for number, handler in before.items():
                signal.signal(number, handler)
