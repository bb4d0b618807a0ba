"""How good answers are, in the one figure and the one loss that a task is judged by."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from agent.tasks import Task
    from monitors.protocols import Record


def quality(task: Task, rows: NDArray[np.floating], target: NDArray[np.integer]) -> float:
    """Of rows [n, m] beside their targets [n], every case a patient of its own: balanced accuracy, Dice."""
    import numpy as np

    return of_record(task.record(rows, target, np.arange(len(target)).astype(np.str_)))


def of_record(record: Record) -> float:
    """The task's figure, 0..1; NaN where no case has a label."""
    from monitors import form_of

    return float(form_of(record, record).quality[1](record, None)[0])


def developed(record: Record) -> dict[str, Any]:
    """What a job's table has of one domain: `quality`, the figure of the task, the Brier score, and n."""
    from monitors import form_of

    return {
        "quality": of_record(record),
        "brier": float(form_of(record, record).losses[0][1](record, None)[0]),
        "n": len(record),
    }
