"""Processes that a benchmark's tasks run in."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager


@contextmanager
def workers(at_most: int, tasks_each: int | None = None) -> Iterator[ProcessPoolExecutor]:
    """A pool of fresh processes, no more than there are processors; with an exception, Ctrl-C among them, it is closed
    without the tasks that have not begun, and their folder stays gone."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(
        min(at_most, os.cpu_count() or 1), mp_context=context, max_tasks_per_child=tasks_each
    ) as pool:
        try:
            yield pool
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
