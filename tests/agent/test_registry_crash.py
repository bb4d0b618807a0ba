"""The registry as a state machine, and killed between any two of its writes."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest
from deployed import PASSED, approved, candidate, complete, deploy, live, parts, promoted, train
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, initialize, invariant, rule

from agent.errors import HomeostatError, NotEnoughEvidence, Refused
from agent.versions import bundle, pointer, registry, verify
from agent.workspace import Workspace

WHO = {"by": "ana", "reason": "because"}
WRITES = {"open", "os.rename", "os.mkdir", "os.remove", "os.rmdir", "os.chmod", "os.link", "os.truncate"}


def killed_at(point: int, root: Path, act: Callable[[Workspace], object]) -> bool:
    """Runs `act` in a child that is killed, as by kill -9, before its `point`-th file or SQL operation.

    Returns whether it lived to its end. The child hooks the interpreter's own audit events and the connection's trace:
    the program knows nothing of it.
    """
    child = os.fork()
    if child:
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status) or os.WEXITSTATUS(status) == 0
        return not os.WIFSIGNALED(status)
    try:
        workspace, seen = Workspace(root), 0

        def operation(*_: object) -> None:
            nonlocal seen
            seen += 1
            if seen == point:
                os.kill(os.getpid(), signal.SIGKILL)

        with workspace.store.read() as connection:
            connection.set_trace_callback(operation)
        sys.addaudithook(lambda event, _: operation() if event in WRITES else None)
        act(workspace)
        os._exit(0)
    except BaseException:  # the child must not return into the parent's test run
        os._exit(3)


def write_and_complete(workspace: Workspace) -> None:
    complete(workspace, "v3", PASSED)


OPERATIONS: dict[str, tuple[Callable[[Workspace], object], set[str]]] = {
    "train": (train, {"v1"}),
    "complete": (write_and_complete, {"v1"}),
    "approve": (lambda w: registry.approve(w, "v4", **WHO), {"v1"}),
    "reject": (lambda w: registry.reject(w, "v4", **WHO), {"v1"}),
    "promote": (lambda w: registry.promote(w, "v2", **WHO), {"v1", "v2"}),
    "rollback": (lambda w: registry.rollback(w, **WHO), {"v1", "v0"}),
}


@pytest.fixture(scope="module")
def origin():
    """v1 live, v2 approved, v3 in training, v4 a candidate."""
    with scratch() as folder:
        yield waiting(folder / "site")


@pytest.fixture
def folder():
    with scratch() as folder:
        yield folder


@contextmanager
def scratch() -> Iterator[Path]:
    """A folder in memory where there is one: a killed process loses no page that the kernel has, and fsync is free."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=memory if os.access(memory, os.W_OK) else None) as name:
        yield Path(name)


def waiting(root: Path) -> Path:
    workspace = deploy(root)
    made = [promoted(workspace), approved(workspace), train(workspace), candidate(workspace)]
    assert made == ["v1", "v2", "v3", "v4"]
    workspace.store.close()
    return workspace.root


@pytest.mark.parametrize("name", OPERATIONS)
def test_killed_anywhere_the_workspace_verifies_and_the_operation_can_be_done_again(name, origin, folder):
    """Whenever the process dies, the old or the new version is live, and the next command mends the pointer."""
    act, allowed = OPERATIONS[name]
    point, finished, behind = 0, False, 0
    while not finished:
        point += 1
        root = folder / f"{name}-{point}"
        shutil.copytree(origin, root)
        finished = killed_at(point, root, act)

        workspace = Workspace(root)
        assert verify.problems(workspace) == []
        now = live(workspace)
        assert now in allowed
        assert pointer.read(root / "live.json").version in allowed
        behind += bool(verify.notes(workspace))
        assert pointer.publish(workspace).version == now == pointer.read(root / "live.json").version
        if not finished and now == "v1":
            shutil.rmtree(workspace.path("jobs", "parts-v3"), ignore_errors=True)
            try:
                act(workspace)
            except (Refused, HomeostatError) as error:
                assert "can't become" in str(error)  # it was done already when the process died
            assert verify.problems(workspace) == []
        workspace.store.close()
        shutil.rmtree(root)
    assert point > 8, "the kill hook saw almost nothing: is it still wired to the writes?"
    assert (behind > 0) == (len(allowed) > 1), "a kill between the commit and the pointer must be among them"


def test_a_bundle_killed_half_way_never_shows_under_its_name(origin, folder):
    """versions/v9 is there whole or not at all; what a crash leaves is told, and replaced by the next write."""
    point, finished, left = 0, False, 0
    while not finished:
        point += 1
        root = folder / f"bundle-{point}"
        shutil.copytree(origin, root)
        made = parts(Workspace(root), "v9")
        finished = killed_at(point, root, lambda w, made=made: bundle.write(w, "v9", made, {"base_digest": "b"}))

        workspace, version = Workspace(root), root / "versions" / "v9"
        left += bool(verify.leftovers(workspace))
        assert not version.exists() or bundle.check(version) == []
        assert bundle.write(workspace, "v9", made, {"base_digest": "b"}) == bundle.digest(version)
        assert verify.leftovers(workspace) == []
        workspace.store.close()
        shutil.rmtree(root)
    assert left > 5


class Versions(RuleBasedStateMachine):
    """The registry beside a model of it that is three plain variables."""

    versions = Bundle("versions")

    @initialize(target=versions)
    def start(self):
        self.opened = ExitStack()
        self.workspace = deploy(self.opened.enter_context(scratch()) / "site")
        self.states = {"v0": "active"}
        self.came_from = {"v0": None}  # the version that was live when this one was promoted last
        self.live = "v0"
        return "v0"

    def teardown(self):
        if hasattr(self, "workspace"):
            self.workspace.store.close()
            self.opened.close()

    def legal(self, version, to):
        return to in registry.MOVES[self.states[version]]

    @rule(target=versions)
    def make(self):
        version = train(self.workspace)
        assert version not in self.states
        self.states[version] = "training"
        return version

    @rule(version=versions)
    def finish(self, version):
        if self.states[version] == "training":
            complete(self.workspace, version)
            self.states[version] = "candidate"

    @rule(version=versions, to=st.sampled_from(["held", "rejected", "abandoned", "candidate", "approved"]))
    def move(self, version, to):
        if self.states[version] == "training" and to == "candidate":
            return  # that is `finish`
        try:
            with self.workspace.store.transaction() as connection:
                registry.move(connection, version, to, by="agent", reason="because", at=self.workspace.now())
            assert self.legal(version, to)
            self.states[version] = to
        except Refused:
            assert not self.legal(version, to)

    @rule(version=versions)
    def confirm(self, version):
        if self.states[version] == "probation":
            with self.workspace.store.transaction() as connection:
                registry.move(connection, version, "active", by="plan", reason="well", at=self.workspace.now())
            self.states[version] = "active"

    @rule(version=versions, act=st.sampled_from(["approve", "reject"]))
    def decide(self, version, act):
        to = {"approve": "approved", "reject": "rejected"}[act]
        legal = self.legal(version, to)
        try:
            getattr(registry, act)(self.workspace, version, **WHO)
            assert legal
            self.states[version] = to
        except (Refused, NotEnoughEvidence):
            assert not legal

    @rule(version=versions)
    def promote(self, version):
        legal = self.states[version] == "approved"
        try:
            registry.promote(self.workspace, version, **WHO)
            assert legal
            self.states |= {self.live: "retired", version: "probation"}
            self.came_from[version], self.live = self.live, version
        except (Refused, NotEnoughEvidence):
            assert not legal

    @rule()
    def back(self):
        self._back(None, self.came_from[self.live])

    @rule(version=versions)
    def back_to(self, version):
        was_live = self.states[version] in ("retired", "rolled_back")
        self._back(version, version if was_live else None)

    def _back(self, name, expected):
        try:
            done = registry.rollback(self.workspace, name, **WHO)
            assert (done.before, done.now) == (self.live, expected)
            self.states |= {self.live: "rolled_back", expected: "active"}
            self.live = expected
        except Refused:
            assert expected is None

    @invariant()
    def all_agree(self):
        if not hasattr(self, "workspace"):
            return
        assert verify.problems(self.workspace) == []
        with self.workspace.store.read() as connection:
            assert {row["id"]: row["state"] for row in registry.versions(connection)} == self.states
            assert registry.live(connection)["version"] == self.live
        assert pointer.read(self.workspace.path("live.json")) == pointer.stored(self.workspace)


TestVersions = Versions.TestCase
TestVersions.settings = settings(
    max_examples=30, stateful_step_count=25, deadline=None, suppress_health_check=list(HealthCheck)
)
