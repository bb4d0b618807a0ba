"""Promote and rollback, from ten versions to ten thousand: does the way back stay short as the history grows.

`homeostat bench registry` fills a registry by the calls that the agent makes, then measures on it, wall medians:
`transaction_ms` is the rollback's transaction, journal event and activation included; `decision_ms` adds the check of
the target's files and the pointer; `process_seconds` is `homeostat rollback` as a whole process. `fsync_ms` is what one
fsync costs on that disk at that time: a durable transaction can't take less. `transaction_cpu_ms` is the mean processor
time of one, which a busy machine doesn't move.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

from agent.versions import bundle, pointer, registry
from agent.workspace import Workspace

SIZES = (10, 100, 1_000, 10_000)
PART_BYTES = 1_200_000  # an adapter of rank 8 and a head
BY = {"by": "bench", "reason": "measured"}


def bench(data: Path | None, seed: int, input: Path | None, full: bool) -> dict[str, Any]:
    """Needs no data and draws nothing; `full` goes on to 50,000 versions."""
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        for size in (*SIZES, 50_000) if full else SIZES:
            rows.append(measure(filled(Path(folder) / str(size), size), size))
    at = {row["versions"]: row for row in rows}
    ratios = {
        "rollback_ms": at[10]["transaction_ms"],
        "rollback_ms_at_10000_versions": at[10_000]["transaction_ms"],
        "process_seconds": at[10]["process_seconds"],
        "process_cpu_seconds": at[10]["process_cpu_seconds"],
    }
    return {"name": "registry", "rows": rows, "ratios": ratios}


def filled(root: Path, size: int) -> Workspace:
    """A registry in which `size` versions went live one after the other; the last two can be served."""
    workspace = Workspace.create(root)
    parts = workspace.path("jobs", "parts")
    parts.mkdir()
    (parts / "adapter_model.safetensors").write_bytes(bytes(PART_BYTES))
    digests = {f"v{n}": bundle.write(workspace, f"v{n}", parts, {"base_digest": "base"}) for n in (size - 2, size - 1)}
    with workspace.store.transaction() as connection:
        at = workspace.now()
        registry.register_base(connection, digest="", base_digest="base", plan_digest="", by="bench", at=at)
        for generation in range(1, size):
            version = registry.create(
                connection,
                recipe="lora_rehearsal",
                parent=f"v{generation - 1}",
                job=None,
                plan_digest="",
                by="bench",
                at=at,
            )
            registry.complete(connection, version, digest=digests.get(version, ""), at=at, **BY)
            registry.move(connection, version, "approved", at=at, **BY)
            registry.activate(connection, version, how="promote", at=at, expected=generation, **BY)
    pointer.publish(workspace)
    return workspace


def measure(workspace: Workspace, size: int) -> dict[str, Any]:
    """One row of the table: times of a workspace that holds `size` versions, medians in milliseconds or seconds."""
    there, back = f"v{size - 2}", f"v{size - 1}"
    to_and_fro = [there, back] * 100

    def transaction(version: str) -> None:
        with workspace.store.transaction() as connection:
            seen = registry.live(connection)["generation"]
            registry.activate(connection, version, how="rollback", at=workspace.now(), expected=seen, **BY)

    def process(version: str) -> None:
        command = [
            sys.executable,
            "-m",
            "agent.cli",
            "rollback",
            "--to",
            version,
            "--by",
            "bench",
            "--reason",
            "measured",
        ]
        subprocess.run([*command, "--workspace", str(workspace.root)], check=True, capture_output=True)

    def versions(_: str) -> None:
        with workspace.store.read() as connection:
            registry.versions(connection)

    started = time.process_time()
    taken = timed(transaction, to_and_fro)
    row = {
        "versions": size,
        "transaction_cpu_ms": 1e3 * (time.process_time() - started) / len(to_and_fro),
        "transaction_ms": 1e3 * taken,
        "fsync_ms": 1e3 * timed(synchronised(workspace.path("logs", "fsync")), to_and_fro),
        "decision_ms": 1e3 * timed(lambda version: registry.rollback(workspace, version, **BY), to_and_fro[:40]),
        "list_ms": 1e3 * timed(versions, to_and_fro[:10]),
    }
    workspace.store.close()
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    row["process_seconds"] = timed(process, to_and_fro[:10])
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    row["process_cpu_seconds"] = (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime) / 10
    return row


def timed(act: Callable[[str], object], arguments: list[str]) -> float:
    """Median wall seconds of one call."""
    seconds = []
    for argument in arguments:
        started = time.perf_counter()
        act(argument)
        seconds.append(time.perf_counter() - started)
    return median(seconds)


def synchronised(path: Path) -> Callable[[str], None]:
    """A call that appends one page to `path` and makes it durable."""

    def append(_: str) -> None:
        with path.open("ab", buffering=0) as file:
            file.write(bytes(4096))
            os.fsync(file.fileno())

    return append
