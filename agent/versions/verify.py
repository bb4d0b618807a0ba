"""Verify: does everything that a workspace holds still agree with everything else in it. Changes nothing.

Each check is one function that yields problems; `CHECKS` are those of one snapshot of the store. Where things lie is
told relative to the workspace, which may have been copied or moved.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from agent.errors import HomeostatError
from agent.store import Connection, journal
from agent.versions import bundle, pointer, registry
from agent.workspace import Workspace, get_setting

UNDER_JUDGEMENT = ("candidate", "held")
LIVE = ("probation", "active")
SWITCHES = ("version_deployed", "version_promoted", "version_rolled_back")
APPROVED = ("approved", "probation", "active", "retired", "rolled_back")


@dataclass(frozen=True)
class Problem:
    """`what` is one sentence, `where` a path below the workspace or a table and row."""

    what: str
    where: str


def problems(workspace: Workspace) -> list[dict[str, str]]:
    """Everything that is not as it was written; empty when the workspace is whole."""
    found: list[Problem] = []
    try:
        with workspace.store.read() as connection:
            connection.execute("BEGIN")
            for check in CHECKS:
                try:
                    found += check(workspace, connection)
                except HomeostatError as error:
                    found.append(Problem(str(error), "homeostat.db"))
                except (ValueError, KeyError, TypeError) as error:
                    found.append(Problem(f"the store holds what was never written so: {error}", "homeostat.db"))
        found += _pointer(workspace)
    except HomeostatError as error:
        found.append(Problem(str(error), "homeostat.db"))
    return [{"what": problem.what, "where": problem.where} for problem in found]


def notes(workspace: Workspace) -> list[str]:
    """What is not as it should stay, but mends itself with the next command."""
    said = _published(workspace)
    with workspace.store.read() as connection:
        now = registry.live(connection)
    if said is None or said.generation == now["generation"]:
        return []
    return [
        f"{pointer.NAME} is one step behind the store, as after a crash: 'homeostat status' publishes {now['version']}"
    ]


def leftovers(workspace: Workspace) -> list[str]:
    """Folders below versions/ that a crash left half-written; nothing reads them."""
    return sorted(path.name for path in workspace.path("versions").glob(".staging-*"))


def _database(_: Workspace, connection: Connection) -> Iterator[Problem]:
    for row in connection.execute("PRAGMA quick_check"):
        if row[0] != "ok":
            yield Problem(f"the database is damaged: {row[0]}", "homeostat.db")
    for row in connection.execute("PRAGMA foreign_key_check"):
        yield Problem(f"a row refers to nothing in {row['parent']}", f"homeostat.db: {row['table']} {row['rowid']}")


def _chain(_: Workspace, connection: Connection) -> Iterator[Problem]:
    for says in journal.verify(connection):
        yield Problem(says, "homeostat.db: journal")


def _base(workspace: Workspace, connection: Connection) -> Iterator[Problem]:
    base = registry.get(connection, "v0")["base_digest"]
    if not workspace.base.is_dir():
        yield Problem("the base model is missing", "base")
    elif bundle.folder_digest(workspace.base) != base:
        yield Problem("the base model is not the one that the versions were made for", "base")


def _bundles(workspace: Workspace, connection: Connection) -> Iterator[Problem]:
    for version in registry.versions(connection):
        if version["digest"] is None:
            continue
        folder, where = workspace.path("versions", version["id"]), f"versions/{version['id']}"
        wrong = bundle.check(folder, version["digest"])
        for says in wrong:
            yield Problem(says, where)
        if not wrong and bundle.facts(folder)["base_digest"] != version["base_digest"]:
            yield Problem("it was made for another base than the store says", where)


def _verdicts(workspace: Workspace, connection: Connection) -> Iterator[Problem]:
    for version in registry.versions(connection):
        rows, state, where = registry.verdicts(connection, version["id"]), version["state"], f"versions/{version['id']}"
        for row in rows:
            if state in APPROVED and row["role"] == "require" and row["verdict"] != "PASS":
                yield Problem(f"it is {state} although the required gate {row['gate']} says {row['verdict']}", where)
        if not rows or version["digest"] is None or state in UNDER_JUDGEMENT:
            continue  # the copy is renewed beside the transaction, which may yet come
        if _said(workspace.path(where, bundle.VERDICTS)) != {row["gate"]: row["verdict"] for row in rows}:
            yield Problem("the verdicts beside the version are not those of the store", f"{where}/{bundle.VERDICTS}")


def _said(file: Path) -> dict[str, str] | None:
    try:
        return {row["gate"]: row["verdict"] for row in json.loads(file.read_text())}
    except (OSError, ValueError, KeyError, TypeError):
        return None


def _registered(_: Workspace, connection: Connection) -> Iterator[Problem]:
    """The rows of the versions against what the journal, which is chained, says of their making."""
    made = "SELECT body FROM journal WHERE event IN ('version_deployed', 'version_trained')"
    digests = {body["version"]: body["digest"] for body in map(_body, connection.execute(made))}
    for version in registry.versions(connection):
        if version["digest"] != digests.get(version["id"]):
            yield Problem("its digest is not the one in the journal", f"homeostat.db: versions {version['id']}")


def _activations(_: Workspace, connection: Connection) -> Iterator[Problem]:
    """What is live is the end of one unbroken chain of activations, each of which the journal reports."""
    query = f"SELECT body FROM journal WHERE event IN ({', '.join('?' * len(SWITCHES))}) ORDER BY seq"
    told = [(body["generation"], body["version"]) for body in map(_body, connection.execute(query, SWITCHES))]
    rows, now = registry.activations(connection), registry.live(connection)
    where = "homeostat.db: activations"
    if [(row["generation"], row["version"]) for row in rows] != told:
        yield Problem("the activations are not those in the journal", where)
    if [row["generation"] for row in rows] != list(range(1, len(rows) + 1)):
        yield Problem("a generation is missing among the activations", where)
    if [row["previous"] for row in rows] != [None, *(row["version"] for row in rows)][: len(rows)]:
        yield Problem("an activation doesn't follow the one before it", where)
    if not rows or (rows[-1]["version"], rows[-1]["generation"]) != (now["version"], now["generation"]):
        yield Problem("what is live is not what was activated last", "homeostat.db: live")
    live = {version["id"] for version in registry.versions(connection) if version["state"] in LIVE}
    if live != {now["version"]}:
        yield Problem(
            f"{now['version']} is live, and in a state of being live: {sorted(live)}", "homeostat.db: versions"
        )


def _pointer(workspace: Workspace) -> Iterator[Problem]:
    """live.json says what the store says, or what it said one activation ago: a crash came before it was renewed.

    The file is read before the store, so that a promotion in between doesn't make it look ahead.
    """
    try:
        said = pointer.read(workspace.path(pointer.NAME))
    except HomeostatError as error:
        yield Problem(str(error), pointer.NAME)
        return
    with workspace.store.read() as connection:
        connection.execute("BEGIN")
        yield from _pointed(said, connection)


def _pointed(said: pointer.Pointer, connection: Connection) -> Iterator[Problem]:
    past = {row["generation"]: row for row in registry.activations(connection)[-2:]}
    row = past.get(said.generation)
    if row is None:
        yield Problem(f"it is at generation {said.generation} and the store at {max(past)}", pointer.NAME)
    elif (said.version, said.since) != (row["version"], row["at"]):
        yield Problem(f"it names {said.version}, and the store {row['version']} at that generation", pointer.NAME)
    elif said.digest != registry.get(connection, said.version)["digest"]:
        yield Problem(f"its digest of {said.version} is not the registered one", pointer.NAME)
    elif said.trust != (trust := get_setting(connection, "trust", "normal")) and said.generation == max(past):
        yield Problem(
            f"it says trust {said.trust} and the store {trust}: 'homeostat status' publishes it", pointer.NAME
        )


def _inputs(workspace: Workspace, connection: Connection) -> Iterator[Problem]:
    for row in connection.execute("SELECT uri, digest FROM inputs GROUP BY uri, digest ORDER BY uri"):
        file = workspace.path(row["uri"])
        if not file.resolve().is_relative_to(workspace.root):
            yield Problem("an image is referred to outside the workspace", f"homeostat.db: inputs {row['digest'][:12]}")
        elif not file.is_file():
            yield Problem("an image is missing", row["uri"])
        elif bundle.file_sha256(file) != row["digest"]:
            yield Problem("an image was changed after it was taken in", row["uri"])


CHECKS: tuple[Callable[[Workspace, Connection], Iterator[Problem]], ...] = (
    _database,
    _chain,
    _base,
    _bundles,
    _verdicts,
    _registered,
    _activations,
    _inputs,
)


def _body(row: Any) -> dict[str, Any]:
    return json.loads(row["body"])


def _published(workspace: Workspace) -> pointer.Pointer | None:
    try:
        return pointer.read(workspace.path(pointer.NAME))
    except HomeostatError:
        return None
