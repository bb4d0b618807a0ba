"""What came to the intake since the last decision: how many patients were taken, and how many refused for what."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping

from agent.cases.quarantine import TAKEN
from agent.drift.ticks import CASES_PER_TICK
from agent.store import Connection
from agent.workspace import get_setting, put_setting

READ = "arrivals_read"  # setting: the last event of the journal that a tick has read


def came(connection: Connection) -> tuple[Mapping[str, int], int]:
    """({what became of them: patients}, the last event that is read with them). The reference's are left out.

    Files that nobody could read are no cases and belong to no day: they are the next tick's, whichever that is.
    """
    newest = connection.execute("SELECT coalesce(max(seq), 0) AS seq FROM journal").fetchone()["seq"]
    rows = connection.execute(
        """SELECT body FROM journal WHERE event IN ('cases_taken_in', 'folder_refused') AND seq > :read""",
        {"read": get_setting(connection, READ, 0)},
    )
    patients: Counter[str] = Counter()
    for row in rows:
        body = json.loads(row["body"])
        if body.get("origin") != "reference":
            patients.update(body.get("patients", {}))  # events of before they were counted have none
    return dict(patients), newest


def only_refused(connection: Connection) -> bool:
    """Whether as many patients as make a tick were refused since the last one, and none was taken."""
    patients, _ = came(connection)
    return TAKEN not in patients and sum(patients.values()) >= CASES_PER_TICK


def read_up_to(connection: Connection, newest: int) -> None:
    """Keeps what a tick has read, in the tick's transaction."""
    put_setting(connection, READ, newest)
