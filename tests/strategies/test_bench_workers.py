"""A benchmark that is interrupted ends with the task that runs, not with the last of the queue."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from benchmarks.workers import workers


def test_what_has_not_begun_is_not_begun_after_an_interrupt(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt), workers(1) as pool:
        pool.submit(int).result()
        for number in range(20):
            pool.submit(Path.mkdir, tmp_path / f"{number}")
            pool.submit(time.sleep, 0.2)
        raise KeyboardInterrupt
    assert len([*tmp_path.iterdir()]) < 10
