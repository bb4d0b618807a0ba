"""Jobs: a folder with `job.json` in, `result.json` out, and a worker process that may die at any instant.

The supervisor watches time and resident memory. (An address-space limit would not do: 2 GiB already stop an import of
torch.) What a job made counts only when the supervisor records it; a job without a record is closed as abandoned.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any, NoReturn, Protocol

from agent.clock import rfc3339
from agent.errors import HomeostatError
from agent.plan import Limits
from agent.store import Connection, insert, journal
from agent.updates.asked import SCRATCH
from agent.workspace import Workspace, write_atomically

LEASE = timedelta(minutes=2)


class JobFailed(HomeostatError):
    """A job ended without a result; the sentence says why."""

    exit_code = 1


class Worker(Protocol):
    """What works off a job's folder: a process, as `subprocess.Popen` has it."""

    @property
    def pid(self) -> int: ...

    def poll(self) -> int | None: ...

    def wait(self) -> int: ...


@dataclass
class Job:
    """A running worker; `id` names its folder below jobs/."""

    id: str
    folder: Path
    process: Worker
    deadline: float  # monotonic seconds
    memory_limit: float  # bytes


def start(workspace: Workspace, kind: str, spec: Mapping[str, Any], limits: Limits, *, at: datetime) -> Job:
    """Writes the folder, records the job, then starts its worker."""
    text = json.dumps({"kind": kind, "threads": limits.threads, **spec}, indent=1, sort_keys=True).encode()
    with workspace.store.transaction() as connection:
        number = connection.execute("SELECT count(*) + 1 FROM jobs").fetchone()[0]
        job = f"job{number}"
        folder = workspace.path("jobs", job)
        folder.mkdir(parents=True, exist_ok=True)
        write_atomically(folder / "job.json", text)
        digest = sha256(text).hexdigest()
        lease = rfc3339(at + LEASE)
        insert(connection, "jobs", id=job, kind=kind, spec_digest=digest, state="running", attempt=1, lease_until=lease,
               created_at=rfc3339(at))  # fmt: skip
        journal.append(
            connection, "job_started", at=at, by="homeostat", body={"job": job, "kind": kind, "spec": digest}
        )
    process = (workspace.executor or spawn)(folder, limits.threads)
    with workspace.store.transaction() as connection:
        connection.execute("UPDATE jobs SET pid = :pid WHERE id = :id", {"pid": process.pid, "id": job})
    return Job(job, folder, process, time.monotonic() + limits.minutes * 60, limits.memory_gib * 2**30)


def spawn(folder: Path, threads: int) -> Worker:
    """The executor of a deployment: a process of its own, which leads a group that can be ended at once."""
    environment = {**os.environ, **{name: str(threads) for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS")}}
    with (folder / "log.txt").open("ab") as log:
        return subprocess.Popen(
            [sys.executable, "-m", "agent.updates.worker", str(folder)],
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            env=environment,
            start_new_session=True,
        )


def poll(workspace: Workspace, job: Job, *, at: datetime) -> dict[str, Any] | None:
    """The job's result once it has one, None while it runs. Raises JobFailed when it ended otherwise.

    A worker may leave a result before its end: what it had made when it ran out of time or memory, or died, counts.
    """
    status, says = job.process.poll(), ""
    if status is None:
        over = _over_limit(job)
        if over is None:
            return None
        kill(job)
        says = over
    elif status:
        how = f"was killed by signal {-status}" if status < 0 else f"ended with exit code {status}"
        says = f"its worker {how}; see jobs/{job.id}/log.txt"
    result = job.folder / "result.json"
    answer = json.loads(result.read_text()) if result.exists() else {"error": says or "it left no result"}
    if "error" in answer:
        _fail(workspace, job, answer["error"], at)
    _end(workspace, job.id, "done", says, at)
    return answer


def pause(job: Job, progress: Callable[[str, int, int], None] | None = None) -> None:
    """A breath between two polls; `progress(what, done, of)` is told what the worker says of itself."""
    if progress is not None and (said := progress_of(job.folder)):
        progress(*said)
    time.sleep(0.05)


def kill(job: Job) -> None:
    """Ends the worker and whatever it started, at once; one that has ended is left alone."""
    if job.process.poll() is not None:
        return
    try:
        os.killpg(job.process.pid, signal.SIGKILL)
    except ProcessLookupError:
        return
    job.process.wait()


def abandon(workspace: Workspace, job: Job, reason: str, *, at: datetime) -> None:
    """Ends the worker; the job is closed as abandoned, unless it has ended before."""
    kill(job)
    _end(workspace, job.id, "abandoned", reason, at)


def abandon_orphans(workspace: Workspace, *, at: datetime) -> list[str]:
    """At start-up: every job that a dead supervisor left behind is ended and closed, with the version it was making."""
    with workspace.store.read() as connection:
        orphans = connection.execute("SELECT id, pid FROM jobs WHERE state = 'running'").fetchall()
    for row in orphans:
        if row["pid"] and _is_ours(row["pid"], workspace.path("jobs", row["id"])):
            os.killpg(row["pid"], signal.SIGKILL)
        _end(workspace, row["id"], "abandoned", "the process that watched over it died", at)
    with workspace.store.transaction() as connection:
        for row in connection.execute("SELECT id FROM versions WHERE state = 'training'").fetchall():
            abandon_version(connection, row["id"], "the process that was making it died", at)
    return [row["id"] for row in orphans]


def abandon_version(connection: Connection, version: str, reason: str, at: datetime) -> None:
    """Closes the version that a job died for."""
    from agent.versions import registry

    registry.move(connection, version, "abandoned", by="homeostat", reason=reason, at=at)


def _fail(workspace: Workspace, job: Job, says: str, at: datetime) -> NoReturn:
    _end(workspace, job.id, "failed", says, at)
    raise JobFailed(f"the job {job.id} failed: {says}")


def _end(workspace: Workspace, job: str, state: str, says: str, at: datetime) -> None:
    # Patients' images can be guessed from what a network made of them: it goes with the job, however that ended.
    for meanwhile in ("latents", SCRATCH):
        shutil.rmtree(workspace.path("jobs", job, meanwhile), ignore_errors=True)
    with workspace.store.transaction() as connection:
        ended = connection.execute(
            """UPDATE jobs SET state = :state, ended_at = :at, says = :says, lease_until = NULL
               WHERE id = :id AND state = 'running'""",
            {"state": state, "at": rfc3339(at), "says": says, "id": job},
        )
        if ended.rowcount:
            journal.append(connection, f"job_{state}", at=at, by="homeostat", body={"job": job, "says": says})


def _over_limit(job: Job) -> str | None:
    if time.monotonic() > job.deadline:
        return "it took longer than plan.limits.minutes allows"
    used = _resident(job.process.pid)
    if used > job.memory_limit:
        return f"it used {used / 2**30:.1f} GiB of memory, more than plan.limits.memory_gib allows"
    return None


def _resident(pid: int) -> float:
    """Resident memory in bytes; 0 once the process is gone, or where /proc is not to be had."""
    try:
        pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    except (OSError, IndexError):
        return 0.0
    return float(pages * os.sysconf("SC_PAGE_SIZE"))


def _is_ours(pid: int, folder: Path) -> bool:
    """Pids are used again: a process counts as the job's worker only if its command line names the job's folder."""
    try:
        return str(folder).encode() in Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
    except OSError:
        return False


def progress_of(folder: Path) -> tuple[str, int, int] | None:
    """(what, done, of) that the worker in a job's folder says of itself."""
    try:
        said = json.loads((folder / "progress.json").read_text())
    except (OSError, ValueError):
        return None
    return said["what"], said["done"], said["of"]
