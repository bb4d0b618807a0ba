"""What the agent does otherwise for each task, one file each. `TASKS` is the registry, by the name in `base.json`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from agent.cases.findings import SEPARATOR
from agent.errors import HomeostatError
from agent.store import Connection
from agent.tasks.classification import Classification
from agent.tasks.detection import Detection
from agent.tasks.multilabel import Multilabel
from agent.tasks.segmentation import Segmentation
from agent.tasks.task import Answered, Kept, Task, answer, rows_of
from agent.workspace import get_setting

if TYPE_CHECKING:
    from agent.cases.datafolder import Row

__all__ = ["TASKS", "Answered", "Kept", "Task", "answer", "rows_of", "task_for", "task_named", "task_of"]

TASKS: dict[str, Task] = {task.name: task for task in (Classification(), Multilabel(), Segmentation(), Detection())}


def task_named(name: str) -> Task:
    """Raises HomeostatError for a task that is none of TASKS."""
    if name not in TASKS:
        raise HomeostatError(f"the task {name!r} is none of {', '.join(TASKS)}")
    return TASKS[name]


def task_for(name: str, rows: Sequence[Row]) -> Task:
    """The task to fit to these cases: a classification whose cases name several classes, `a|b`, is a multi-label one.
    Raises HomeostatError for a task that is none of TASKS."""
    several = name == Classification.name and any(SEPARATOR in (row.label or "") for row in rows)
    return task_named(Multilabel.name if several else name)


def task_of(connection: Connection) -> Task:
    """The task of a workspace."""
    return task_named(get_setting(connection, "task", Classification.name))
