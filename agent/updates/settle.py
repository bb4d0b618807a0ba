"""Settle: what an answer was worth, once its label is there. For tasks whose scores don't tell it."""

from __future__ import annotations

from agent.errors import HomeostatError
from agent.store import Connection, journal
from agent.tasks import task_of
from agent.workspace import Workspace, get_setting, put_setting

UP_TO = "answers_settled_up_to"  # setting: [id of the last label, last observation] that were looked at
AT_ONCE = 256


def settle(workspace: Workspace) -> int:
    """Measures the kept answers whose label has come, and those that came after their label; how many. One transaction
    per AT_ONCE of them. What can't be read any more stays unmeasured, and the journal has how many these are."""
    with workspace.store.read() as connection:
        connection.execute("BEGIN")  # what comes meanwhile is the next call's
        task = task_of(connection)
        if not task.suffix:
            return 0
        label, observation = get_setting(connection, UP_TO, (0, 0))
        rows = connection.execute(_WAITING, {"label": label, "observation": observation}).fetchall()
        newest = _newest(connection)
    if newest == [label, observation]:
        return 0
    worth, lost = [], 0
    for row in rows:
        try:
            worth.append((task.worth(row["content"], workspace.path(row["value"])), row["observation"]))
        except (HomeostatError, ValueError, OSError):
            lost += 1
    for start in range(0, len(worth) or 1, AT_ONCE):
        with workspace.store.transaction() as connection:
            connection.executemany("UPDATE answers SET worth = ? WHERE observation = ?", worth[start : start + AT_ONCE])
            if start + AT_ONCE >= len(worth):
                put_setting(connection, UP_TO, newest)
                if lost:
                    body = {"answers": lost}
                    journal.append(connection, "answers_unmeasured", at=workspace.now(), by="homeostat", body=body)
    return len(worth)


def _newest(connection: Connection) -> list[int]:
    row = connection.execute(
        """SELECT (SELECT coalesce(max(id), 0) FROM labels) AS label,
                  (SELECT coalesce(max(observation), 0) FROM answers) AS observation"""
    ).fetchone()
    return [row["label"], row["observation"]]


_WAITING = """
    SELECT a.observation, a.content, l.value FROM labels l
    JOIN observations o ON o.case_id = l.case_id JOIN answers a ON a.observation = o.id
    WHERE l.id > :label AND a.worth IS NULL
    UNION
    SELECT a.observation, a.content, l.value FROM answers a
    JOIN observations o ON o.id = a.observation JOIN labels l ON l.case_id = o.case_id
    WHERE a.observation > :observation AND a.worth IS NULL
"""
