"""live.json: what services follow. Written after the commit that it reports, replaced atomically, never backwards.

The store is the truth and this file its projection: a crash between the two leaves the file one step behind, and the
next command or start of the daemon publishes again.
"""

from __future__ import annotations

import errno
import fcntl
import json
from dataclasses import dataclass
from pathlib import Path

from agent.errors import DiskFull, HomeostatError
from agent.trust import suspended_domains
from agent.workspace import Workspace, get_setting, write_atomically

NAME = "live.json"


@dataclass(frozen=True, kw_only=True)
class Pointer:
    """What is live, and what to think of its answers. `since` is RFC 3339; `generation` only ever grows.

    suspended: sites and scanners (or "home") whose answers are not to be used at all, whatever `trust` says.
    """

    version: str
    digest: str
    trust: str
    generation: int
    since: str
    suspended: tuple[str, ...] = ()

    def json(self) -> str:
        scopes = {"*": {"version": self.version, "digest": self.digest}}
        facts = {"trust": self.trust, "suspended": self.suspended, "generation": self.generation, "since": self.since}
        return json.dumps({"scopes": scopes, **facts}, indent=2)


def read(path: Path) -> Pointer:
    """Reads a live.json. Raises HomeostatError when it is missing or not one."""
    try:
        value = json.loads(path.read_text())
        live = value["scopes"]["*"]
        return Pointer(
            version=live["version"],
            digest=live["digest"],
            trust=value["trust"],
            generation=value["generation"],
            since=value["since"],
            suspended=tuple(value.get("suspended", ())),
        )
    except FileNotFoundError:
        raise HomeostatError(
            f"there is no {NAME} in {path.parent}: is it a workspace? 'homeostat init' makes one"
        ) from None
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise HomeostatError(f"{path} can't be read: remove it, and any homeostat command writes it anew") from error


def stored(workspace: Workspace) -> Pointer:
    """What the store says is live, in one snapshot. Raises HomeostatError when nothing is."""
    with workspace.store.read() as connection:
        connection.execute("BEGIN")
        live = connection.execute(
            "SELECT version, generation, since, digest FROM live JOIN versions ON id = version WHERE scope = '*'"
        ).fetchone()
        if live is None:
            raise HomeostatError(f"nothing is live in {workspace.root}: 'homeostat init' deploys a base model")
        return Pointer(
            version=live["version"],
            digest=live["digest"],
            trust=get_setting(connection, "trust", "normal"),
            generation=live["generation"],
            since=live["since"],
            suspended=tuple(suspended_domains(connection)),
        )


def publish(workspace: Workspace) -> Pointer:
    """Brings live.json up to the store; writes nothing where it says the same already.

    The store is read under the file's lock, so that of two publishers the later one writes the later state. Raises
    HomeostatError where the file is ahead of the store, for then the store is an older copy.
    """
    path = workspace.path(NAME)
    if _published(path) == (now := stored(workspace)):
        return now
    try:
        with workspace.path(f".{NAME}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            before, now = _published(path), stored(workspace)
            if before is not None and before.generation > now.generation:
                raise HomeostatError(
                    f"{path} is at generation {before.generation} and the store only at {now.generation}: the store is "
                    f"an older copy; restore the newer one, or remove {NAME} to go on from this one"
                )
            if before != now:
                write_atomically(path, now.json().encode())
    except OSError as error:
        kind = DiskFull if error.errno in (errno.ENOSPC, errno.EDQUOT) else HomeostatError
        raise kind(
            f"{now.version} is live in the store, but {path} can't be written ({error.strerror}): "
            "make room or access, then run 'homeostat status'"
        ) from error
    return now


def _published(path: Path) -> Pointer | None:
    try:
        return read(path)
    except HomeostatError:
        return None
