"""Workspaces stocked with labelled cases and answers by hand: what the store knows, without any model."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from agent.clock import rfc3339
from agent.observe import record
from agent.store import Connection, insert
from agent.workspace import Workspace, put_setting

CLASSES = ["a", "b"]


def stock(root) -> Workspace:
    workspace = Workspace.create(root)
    with workspace.store.transaction() as connection:
        put_setting(connection, "classes", CLASSES)
    return workspace


def add_case(
    connection: Connection,
    workspace: Workspace,
    case: str,
    *,
    patient: str | None = None,
    split: str = "judge",
    domain: str = "home",
    label: str | None = "a",
    number: int | None = None,
    alias_of: str | None = None,
    answer: Sequence[float] | None = None,
    abstained: bool = False,
) -> None:
    """One observed case; with a number it has a live answer by v0 too."""
    at = rfc3339(workspace.now())
    patient = patient or f"patient of {case}"
    connection.execute("INSERT OR IGNORE INTO patients VALUES (?, ?, ?)", (patient, split, at))
    insert(connection, "cases", case_id=case, alias_of=alias_of, origin="feed", state="observed", patient_key=patient,
           domain=domain, received_at=at, facts="{}")  # fmt: skip
    insert(connection, "inputs", case_id=case, role="image", uri="objects/x", digest=case, media_type="image/png")
    if label:
        add_label(connection, workspace, case, label)
    if number is not None:
        answered(connection, workspace, case, "v0", "live", answer or (0.7, 0.3), number=number, abstained=abstained)


def add_label(connection: Connection, workspace: Workspace, case: str, label: str) -> None:
    insert(connection, "labels", case_id=case, kind="class", value=label, received_at=rfc3339(workspace.now()),
           arm="import")  # fmt: skip


def answered(
    connection: Connection,
    workspace: Workspace,
    case: str,
    version: str,
    role: str,
    probabilities: Sequence[float],
    *,
    number: int | None = None,
    abstained: bool = False,
) -> None:
    record(connection, case_id=case, version=version, role=role, scores=np.array(probabilities, np.float32),
           embedding=np.zeros(2, np.float32), sensor="base:x", trust="normal", at=workspace.now(), number=number,
           abstained=abstained)  # fmt: skip
