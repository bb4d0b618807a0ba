"""live.json: never torn, never backwards, and always brought up to the store."""

from __future__ import annotations

import json
import multiprocessing
import threading

import pytest
from deployed import approved, deploy, promoted

from agent.errors import HomeostatError, Refused
from agent.versions import pointer, registry, verify
from agent.workspace import Workspace, put_setting


@pytest.fixture
def workspace(tmp_path):
    return deploy(tmp_path / "site")


def test_its_form_is_the_contracts(workspace):
    """Services parse this file: scopes, trust, suspended, generation and since, and nothing that is of this machine."""
    value = json.loads(workspace.path("live.json").read_text())
    assert value.keys() == {"scopes", "trust", "suspended", "generation", "since"}
    assert value["scopes"].keys() == {"*"}
    assert value["scopes"]["*"].keys() == {"version", "digest"}
    assert str(workspace.root) not in workspace.path("live.json").read_text()


def test_publishing_what_is_published_writes_nothing(workspace):
    """Every command may publish: where nothing changed, the file is left alone."""
    before = workspace.path("live.json").stat()
    pointer.publish(workspace)
    after = workspace.path("live.json").stat()
    assert (before.st_ino, before.st_mtime_ns) == (after.st_ino, after.st_mtime_ns)


@pytest.mark.parametrize("content", [None, "", "{", "[]", '{"scopes": {"*": {"version": "v7"}}}'])
def test_a_lost_or_broken_pointer_is_written_anew(workspace, content):
    """The store is the truth; the file is made from it again."""
    path = workspace.path("live.json")
    path.unlink() if content is None else path.write_text(content)
    with pytest.raises(HomeostatError):
        pointer.read(path)
    assert pointer.publish(workspace) == pointer.read(path) == pointer.stored(workspace)


def test_a_pointer_ahead_of_the_store_is_not_taken_back(workspace):
    """An older copy of the database never makes readers see a lower generation; it is said, and how to go on."""
    path = workspace.path("live.json")
    value = json.loads(path.read_text()) | {"generation": 9}
    path.write_text(json.dumps(value))
    with pytest.raises(HomeostatError, match="older copy"):
        pointer.publish(workspace)
    assert pointer.read(path).generation == 9


def test_trust_reaches_the_pointer(workspace):
    """The site's services read trust from the same file as the version."""
    with workspace.store.transaction() as connection:
        put_setting(connection, "trust", "suspended")
    assert pointer.publish(workspace).trust == pointer.read(workspace.path("live.json")).trust == "suspended"


def test_readers_never_see_a_torn_file_or_a_lower_generation(workspace):
    """Readers in a loop, while versions go live and back: each read is whole, and generations only grow."""
    version = promoted(workspace)
    path, ended, seen, faults = workspace.path("live.json"), threading.Event(), [], []

    def follow():
        mine = []
        try:
            while not ended.is_set():
                mine.append(pointer.read(path).generation)
        except HomeostatError as error:
            faults.append(error)
        seen.append(mine)

    readers = [threading.Thread(target=follow) for _ in range(3)]
    for reader in readers:
        reader.start()
    for i in range(30):
        registry.rollback(workspace, ("v0", version)[i % 2], by="ana", reason="to and fro")
    ended.set()
    for reader in readers:
        reader.join()

    assert faults == []
    assert all(mine == sorted(mine) for mine in seen)
    assert len(set().union(*seen)) > 3


def _promote(root, version, barrier, outcomes):
    workspace = Workspace(root)
    barrier.wait()
    try:
        outcomes.put((version, registry.promote(workspace, version, by="ana", reason="at once").generation))
    except Refused:
        outcomes.put((version, None))


def _activate(root, version, barrier, outcomes):
    workspace = Workspace(root)
    barrier.wait()
    try:
        with workspace.store.transaction() as connection:
            done = registry.activate(
                connection, version, how="promote", by="ana", reason="at once", at=workspace.now(), expected=1
            )
        outcomes.put((version, done.generation))
        pointer.publish(workspace)
    except Refused:
        outcomes.put((version, None))


@pytest.mark.parametrize("act", [_promote, _activate])
def test_eight_promotions_at_once_leave_one_unbroken_history(workspace, act):
    """Processes that promote at once take turns or are refused; of those with the same view exactly one wins."""
    versions = [approved(workspace) for _ in range(8)]
    workspace.store.close()
    context = multiprocessing.get_context("fork")
    barrier, outcomes = context.Barrier(8), context.Queue()
    processes = [context.Process(target=act, args=(workspace.root, v, barrier, outcomes)) for v in versions]
    for process in processes:
        process.start()
    results = dict(outcomes.get(timeout=60) for _ in processes)
    for process in processes:
        process.join()

    won = {version: generation for version, generation in results.items() if generation is not None}
    assert sorted(won.values()) == list(range(2, 2 + len(won)))
    assert len(won) == 1 or act is _promote
    last = max(won, key=won.get)
    assert pointer.read(workspace.path("live.json")).version == last
    assert verify.problems(workspace) == []
