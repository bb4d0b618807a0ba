"""Cases as `strategies` learns from them: labels and patients at once, images when they are asked for."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from agent.cases.images import read_image
from agent.workspace import Workspace, get_setting

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from agent.cases.datafolder import Row

UNKNOWN = "unknown"
AT_ONCE = 500  # SQLite takes a bounded number of parameters


class FolderExamples:
    """The rows of a data folder, before there is a workspace. An unknown class is label -1.

    Patients are numbered in the order of their ids, because there is no key to make a pseudonym with.
    """

    def __init__(self, rows: Sequence[Row], classes: Sequence[str]) -> None:
        self.rows = rows
        number = {name: i for i, name in enumerate(classes)}
        self.label = np.array([number.get(row.label or "", -1) for row in rows], dtype=np.int64)
        numbered = {raw: f"p{i}" for i, raw in enumerate(sorted({row.patient_id for row in rows}))}
        self.patient = np.array([numbered[row.patient_id] for row in rows], dtype=np.str_)
        self.domain = np.array([row.site or UNKNOWN for row in rows], dtype=np.str_)

    def __len__(self) -> int:
        return len(self.rows)

    def image(self, i: int) -> NDArray[np.float32]:
        """float32 [h, w] or [h, w, 3], 0..255. Raises Unreadable."""
        return read_image(self.rows[i].file)


class StoredExamples:
    """Cases of a workspace in the order of `case_ids`; an alias stands for the case whose bytes it shares.

    The domain is the one that observation set, else the site. `files` holds the path and media type of each.
    """

    def __init__(self, workspace: Workspace, case_ids: Sequence[str]) -> None:
        """Raises KeyError for a case that is not in the store."""
        found = {}
        with workspace.store.read() as connection:
            connection.execute("BEGIN")
            number = {name: i for i, name in enumerate(get_setting(connection, "classes", []))}
            for begin in range(0, len(case_ids), AT_ONCE):
                some = {f"c{i}": case_id for i, case_id in enumerate(case_ids[begin : begin + AT_ONCE])}
                for row in connection.execute(_CASES.format(marks=", ".join(f":{name}" for name in some)), some):
                    found[row["case_id"]] = row
        rows = [found[case_id] for case_id in case_ids]
        self.files = [(workspace.path(row["uri"]), row["media_type"]) for row in rows]
        self.label = np.array([number.get(row["label"], -1) for row in rows], dtype=np.int64)
        self.patient = np.array([row["patient_key"] for row in rows], dtype=np.str_)
        self.domain = np.array([row["domain"] or row["site"] or UNKNOWN for row in rows], dtype=np.str_)

    def __len__(self) -> int:
        return len(self.files)

    def image(self, i: int) -> NDArray[np.float32]:
        """float32 [h, w] or [h, w, 3], 0..255. Raises Unreadable."""
        return read_image(*self.files[i])


_CASES = """
    SELECT asked.case_id, shown.patient_key, shown.domain, shown.site, inputs.uri, inputs.media_type,
           labels.value AS label
    FROM cases asked
    JOIN cases shown ON shown.case_id = COALESCE(asked.alias_of, asked.case_id)
    JOIN inputs ON inputs.case_id = shown.case_id AND inputs.role = 'image'
    LEFT JOIN labels ON labels.case_id = shown.case_id AND labels.kind = 'class'
    WHERE asked.case_id IN ({marks})
"""
