"""What could not be taken in: the file as it came, and beside it, in NAME.reason.json, why."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from datetime import datetime
from enum import StrEnum
from hashlib import file_digest
from pathlib import Path
from typing import Any

from agent.clock import rfc3339
from agent.store import Connection
from agent.workspace import Workspace, write_atomically

LONGEST_NAME = 100
TAKEN = "taken"  # what became of a patient who was not refused


class Cause(StrEnum):
    """Why something was not taken in, in so few words that they are counted: reasons are sentences, and differ."""

    UNREADABLE = "unreadable"  # no image, or a broken one
    UNOPENED = "can't be opened"
    ID_TAKEN = "id of another image"
    LINE = "line of the list"
    FOLDER = "folder"  # as a whole


def keep(workspace: Workspace, name: str, reason: str, digest: str, file: Path | None = None) -> str:
    """Moves `file` (already on disk whole) into quarantine and writes the reason beside it; returns the name it has.

    Doing it again gives the same names. Another file of the same name gets a part of its digest into its name.
    """
    name = safe_name(name)
    there = workspace.path("quarantine", name)
    if there.is_dir() or (there.exists() and _digest(there) != digest):
        name = f"{there.stem}-{digest[:8]}{there.suffix}"
        there = there.with_name(name)
    content = {"name": name, "reason": reason, "digest": digest, "at": rfc3339(workspace.now())}
    if file is not None:
        file.replace(there)
    write_atomically(there.with_name(f"{name}.reason.json"), _json(content))
    return name


def keep_lines(workspace: Workspace, listed: Path, reasons: Sequence[str]) -> tuple[str, str]:
    """Writes one reason file for all refused lines of a list, which have no file of their own; (name, digest)."""
    digest = _digest(listed)
    name = f"{safe_name(listed.name)}-{digest[:8]}"
    content = {"name": name, "reason": f"{len(reasons)} of its lines are no cases", "lines": reasons, "digest": digest}
    write_atomically(workspace.path("quarantine", f"{name}.reason.json"), _json(content))
    return name, digest


def record(connection: Connection, name: str, reason: str, digest: str, at: datetime) -> bool:
    """Writes the row; False where it was there already."""
    row = {"name": name, "reason": reason, "digest": digest, "at": rfc3339(at)}
    done = connection.execute(
        "INSERT INTO quarantine (name, reason, digest, at) VALUES (:name, :reason, :digest, :at) "
        "ON CONFLICT (name, digest) DO NOTHING",
        row,
    )
    return done.rowcount == 1


def safe_name(name: str) -> str:
    """A file name made of letters, digits and -_. that neither hides, nor climbs, nor is too long."""
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", name).lstrip(".-")
    return plain[-LONGEST_NAME:].lstrip(".-") or "unnamed"


def _json(content: Mapping[str, Any]) -> bytes:
    return (json.dumps(content, ensure_ascii=False) + "\n").encode()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
