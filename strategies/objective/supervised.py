"""The task's own supervised loss: what the public recipes minimise."""

from __future__ import annotations

from strategies import tasks
from strategies.protocols import EVERY_TASK, Learner, Lesson, Loss


class Supervised:
    """`CrossEntropy` for a classification, `BinaryCrossEntropy` for findings that don't exclude each other,
    `DiceCrossEntropy` for a segmentation, `CrossEntropyGIoU` for a detection: as the lesson's task says."""

    name = "supervised"
    labelled = True
    tasks = EVERY_TASK

    def prepare(self, lesson: Lesson, learner: Learner) -> Loss:
        """Raises ValueError on a new or remembered case without a label."""
        return tasks.task_of(lesson.task).objective.prepare(lesson, learner)
