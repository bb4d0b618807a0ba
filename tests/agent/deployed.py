"""Small deployed workspaces without any model: the registry and its files don't look into weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from agent.clock import rfc3339
from agent.store import insert
from agent.versions import bundle, pointer, registry
from agent.workspace import Workspace

PASSED = (("gain:new", "require", "PASS", 120, None), ("forgetting:home:live", "require", "PASS", 150, None))
HELD = (*PASSED[:1], ("forgetting:home:live", "require", "INSUFFICIENT", 166, 314))
FAILED = (*PASSED[:1], ("forgetting:home:live", "require", "FAIL", 150, None))


def deploy(root: Path) -> Workspace:
    """A workspace with a base and v0 live."""
    workspace = Workspace.create(root, key=b"a key that every test shares")
    workspace.base.mkdir()
    (workspace.base / "model.safetensors").write_bytes(b"weights of the base")
    (workspace.base / "base.json").write_text('{"classes": ["a", "b"]}')
    base_digest = bundle.folder_digest(workspace.base)
    digest = bundle.write(workspace, "v0", parts(workspace, "v0"), {"parent": None, "base_digest": base_digest})
    with workspace.store.transaction() as connection:
        registry.register_base(
            connection, digest=digest, base_digest=base_digest, plan_digest="plan", by="ana", at=workspace.now()
        )
    pointer.publish(workspace)
    return workspace


def parts(workspace: Workspace, word: str) -> Path:
    """What a recipe might have made; different words, different bytes."""
    folder = workspace.path("jobs", f"parts-{word}")
    folder.mkdir()
    (folder / "head.safetensors").write_bytes(f"head of {word}".encode())
    (folder / "thresholds.json").write_text('{"per_class": []}')
    return folder


def train(workspace: Workspace) -> str:
    """A version in state training, made from what is live."""
    with workspace.store.transaction() as connection:
        parent = registry.live(connection)["version"]
        return registry.create(
            connection,
            recipe="linear_probe",
            parent=parent,
            job=None,
            plan_digest="plan",
            by="agent",
            at=workspace.now(),
        )


def complete(workspace: Workspace, version: str, verdicts: Sequence[tuple] = PASSED) -> None:
    """Bundle and verdicts of a version in state training, which becomes a candidate."""
    with workspace.store.read() as connection:
        row = registry.get(connection, version)
    facts = {"parent": row["parent"], "recipe": row["recipe"], "base_digest": row["base_digest"], "made": {"seed": 0}}
    digest = bundle.write(workspace, version, parts(workspace, version), facts)
    with workspace.store.transaction() as connection:
        registry.complete(connection, version, digest=digest, by="agent", reason="trained", at=workspace.now())
        for gate, role, verdict, n, needed in verdicts:
            insert(
                connection, "verdicts", version=version, gate=gate, role=role, verdict=verdict, n=n, needed=needed,
                before=0.5, after=0.9, low=0.3, high=0.5, margin=0.05, says="as it is", at=rfc3339(workspace.now()),
            )  # fmt: skip
        rows = registry.verdicts(connection, version)
    bundle.record_verdicts(workspace, version, rows)


def candidate(workspace: Workspace, verdicts: Sequence[tuple] = PASSED) -> str:
    version = train(workspace)
    complete(workspace, version, verdicts)
    return version


def held(workspace: Workspace) -> str:
    version = candidate(workspace, HELD)
    with workspace.store.transaction() as connection:
        registry.move(connection, version, "held", by="agent", reason="too few labels", at=workspace.now())
    return version


def approved(workspace: Workspace) -> str:
    version = candidate(workspace)
    registry.approve(workspace, version, by="ana", reason="seen")
    return version


def promoted(workspace: Workspace) -> str:
    version = approved(workspace)
    registry.promote(workspace, version, by="ana", reason="seen")
    return version


def live(workspace: Workspace) -> str:
    with workspace.store.read() as connection:
        return registry.live(connection)["version"]


def state(workspace: Workspace, version: str) -> str:
    with workspace.store.read() as connection:
        return registry.get(connection, version)["state"]
