"""Cases as `strategies` learns from them: labels and patients at once, images when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from agent.cases.boxes import numbered, read_boxes
from agent.cases.datafolder import TRUTHS
from agent.cases.images import read_image
from agent.cases.masks import read_beside, read_mask
from agent.errors import HomeostatError
from agent.tasks import TASKS, Task, task_of
from agent.workspace import Workspace, get_setting

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from agent.cases.datafolder import Row

UNKNOWN = "unknown"
AT_ONCE = 500  # SQLite takes a bounded number of parameters


class FolderExamples:
    """The rows of a data folder, before there is a workspace. An unknown class is label -1, as is a case without the
    label of its task.

    Patients are numbered in the order of their ids, because there is no key to make a pseudonym with. Of volumes so
    many `slices` are read.
    """

    def __init__(
        self, rows: Sequence[Row], classes: Sequence[str], task: Task = TASKS["classification"], slices: int = 1
    ) -> None:
        self.rows, self.classes, self.slices = rows, classes, slices
        self.label = task.targets([task.said(row) for row in rows], classes)
        numbered = {raw: f"p{i}" for i, raw in enumerate(sorted({row.patient_id for row in rows}))}
        self.patient = np.array([numbered[row.patient_id] for row in rows], dtype=np.str_)
        self.domain = np.array([row.site or UNKNOWN for row in rows], dtype=np.str_)

    def __len__(self) -> int:
        return len(self.rows)

    def image(self, i: int) -> NDArray[np.float32]:
        """As `read_image` gives it. Raises Unreadable."""
        return read_image(self.rows[i].file, slices=self.slices)

    def mask(self, i: int) -> NDArray[np.uint8]:
        """As `read_mask` gives it, of a case that has one. Raises Unreadable."""
        return read_beside(_there(self.rows[i].truths.get("mask")), self.rows[i].file, self.slices)

    def boxes(self, i: int) -> NDArray[np.float32]:
        """[t, 5] class and corners, of a case that has a list of them. Raises Unreadable."""
        return numbered(read_boxes(_there(self.rows[i].truths.get("boxes"))), self.classes)


class StoredExamples:
    """Cases of a workspace in the order of `case_ids`; an alias stands for the case whose bytes it shares.

    The domain is the one that observation set, else the site. `files` holds the path and media type of each. Of volumes
    as many slices are read as the workspace's base reads.
    """

    def __init__(self, workspace: Workspace, case_ids: Sequence[str]) -> None:
        """Raises KeyError for a case that is not in the store."""
        found = {}
        with workspace.store.read() as connection:
            connection.execute("BEGIN")
            classes, task = get_setting(connection, "classes", []), task_of(connection)
            self.slices = int(get_setting(connection, "slices", 1))
            for begin in range(0, len(case_ids), AT_ONCE):
                some = {f"c{i}": case_id for i, case_id in enumerate(case_ids[begin : begin + AT_ONCE])}
                for row in connection.execute(_CASES.format(marks=", ".join(f":{name}" for name in some)), some):
                    found[row["case_id"]] = row
        rows = [found[case_id] for case_id in case_ids]
        self.files = [(workspace.path(row["uri"]), row["media_type"]) for row in rows]
        self.classes = classes
        self.label = task.targets([row["label"] for row in rows], classes)
        self.truths = [workspace.path(row["label"]) if row["label"] and task.kind in TRUTHS else None for row in rows]
        self.patient = np.array([row["patient_key"] for row in rows], dtype=np.str_)
        self.domain = np.array([row["domain"] or row["site"] or UNKNOWN for row in rows], dtype=np.str_)

    def __len__(self) -> int:
        return len(self.files)

    def image(self, i: int) -> NDArray[np.float32]:
        """As `read_image` gives it. Raises Unreadable."""
        return read_image(*self.files[i], slices=self.slices)

    def mask(self, i: int) -> NDArray[np.uint8]:
        """As `read_mask` gives it, of a case that has one. Raises Unreadable."""
        return read_mask(_there(self.truths[i]), slices=self.slices)

    def boxes(self, i: int) -> NDArray[np.float32]:
        """[t, 5] class and corners, of a case that has a list of them. Raises Unreadable."""
        return numbered(read_boxes(_there(self.truths[i])), self.classes)


def _there(file: Path | None) -> Path:
    if file is None:
        raise HomeostatError("the case has no label of this kind")
    return file


_CASES = """
    SELECT asked.case_id, shown.patient_key, shown.domain, shown.site, inputs.uri, inputs.media_type,
           labels.value AS label
    FROM cases asked
    JOIN cases shown ON shown.case_id = COALESCE(asked.alias_of, asked.case_id)
    JOIN inputs ON inputs.case_id = shown.case_id AND inputs.role = 'image'
    LEFT JOIN labels ON labels.case_id = shown.case_id
    WHERE asked.case_id IN ({marks})
"""
