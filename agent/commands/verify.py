"""verify: digests, the journal's chain, the pointer. Changes nothing."""

from __future__ import annotations

import argparse

from agent.answer import Answer, table
from agent.versions.verify import notes, problems
from agent.workspace import Workspace


def verify(args: argparse.Namespace) -> Answer:
    """Exit 1 when anything is not as it was written."""
    workspace = Workspace(args.workspace)
    found = problems(workspace)
    remarks = [] if found else notes(workspace)
    value = {"ok": not found, "problems": found, "notes": remarks}
    text = table(found, ["where", "what"]) if found else "\n".join(["all is as it was written", *remarks])
    return Answer(value, text, exit_code=1 if found else 0)
