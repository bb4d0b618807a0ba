"""Labels that are files: copied into the workspace by content, and looked at beside their image before they count."""

from __future__ import annotations

import fcntl
import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path

from agent.cases.probe import Probe
from agent.workspace import Workspace

CHUNK = 2**20


@dataclass(frozen=True)
class StagedTruth:
    """A label's file on its way in: its copy in the workspace, the digest that names it, and why it is refused."""

    copy: Path
    digest: str
    reason: str = ""

    @property
    def uri(self) -> str:
        return uri_of(self.digest)


def stage(
    source: Path, kind: str, copy: Path, image: Path, image_kind: str, classes: Sequence[str], probe: Probe
) -> StagedTruth:
    """Copies a "mask", or "boxes", to `copy` and holds it beside its image. A refused one leaves no copy."""
    hashed = sha256()
    try:
        with source.open("rb") as file, copy.open("wb") as out:
            while chunk := file.read(CHUNK):
                hashed.update(chunk)
                out.write(chunk)
    except OSError as error:
        copy.unlink(missing_ok=True)
        return StagedTruth(copy, "", f"the file of its {kind} can't be opened ({error.strerror})")
    reason = probe.look_at_truth(copy, kind, image, image_kind, classes)
    if reason:
        copy.unlink()
    return StagedTruth(copy, hashed.hexdigest(), reason)


def place(workspace: Workspace, staged: StagedTruth) -> Path:
    """Gives the copy its lasting name and answers with the folder that changed."""
    with staged.copy.open("rb") as file:
        os.fsync(file.fileno())
    target = workspace.path(staged.uri)
    target.parent.mkdir(exist_ok=True)
    staged.copy.replace(target)
    return target.parent


@contextmanager
def intake_alone(workspace: Workspace) -> Iterator[None]:
    """One intake at a time; the kernel lets go of the lock when its process dies."""
    with workspace.path("intake.lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def uri_of(digest: str) -> str:
    """Where bytes lie in a workspace, below its root."""
    return f"objects/{digest[:2]}/{digest}"
