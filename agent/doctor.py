"""What this machine has and lacks, and what is wrong with a workspace from outside: one function per finding."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, requires, version
from pathlib import Path

from agent.cases.dicom import DECODERS
from agent.config import read_config
from agent.errors import HomeostatError
from agent.workspace import exclusive

GIB = 2**30
MEMORY_GIB, DISK_GIB = 4, 2
DECODER_PACKAGES = "pydicom python-gdcm pylibjpeg pylibjpeg-openjpeg"

# An operator of torchvision is looked up: with a torch that it was not built for, this fails while each imports alone.
TORCH_AGREES = "import torch, torchvision; torch.ops.torchvision.nms; print(torch.__version__, torchvision.__version__)"


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One line of the report; where it isn't ok, `says` names the way out."""

    name: str
    ok: bool
    says: str


def examine(workspace: Path) -> list[Finding]:
    """Every finding about the machine, then about the workspace where there is one. Takes some seconds."""
    checks: tuple[Callable[[], Iterator[Finding]], ...] = (python, packages, torch, decoders, machine)
    findings = [finding for check in checks for finding in check()]
    return [*findings, *disk(workspace), *deployment(workspace)]


def python() -> Iterator[Finding]:
    """The interpreter that runs this."""
    found = ".".join(map(str, sys.version_info[:3]))
    enough = sys.version_info >= (3, 11)
    yield Finding(name="python", ok=enough, says=found if enough else f"{found}: install Python 3.11 or newer")


def packages() -> Iterator[Finding]:
    """What the distribution declares that it needs, extras aside."""
    for requirement in requires("homeostat") or ():
        if "extra ==" in requirement:
            continue
        name = re.split(r"[^\w.-]", requirement, maxsplit=1)[0]
        try:
            yield Finding(name=name, ok=True, says=version(name))
        except PackageNotFoundError:
            yield Finding(name=name, ok=False, says=f"not installed: 'pip install \"{requirement}\"'")


def torch() -> Iterator[Finding]:
    """Tried in a process of its own, because a mismatch may end the process."""
    tried = subprocess.run([sys.executable, "-c", TORCH_AGREES], capture_output=True, text=True, check=False)
    if tried.returncode == 0:
        yield Finding(name="torch and torchvision", ok=True, says=f"agree ({' with '.join(tried.stdout.split())})")
    else:
        reason = (tried.stderr.strip().splitlines() or ["no reason given"])[-1]
        says = f"{reason}: install a pair that belongs together, see pytorch.org/get-started/previous-versions"
        yield Finding(name="torch and torchvision", ok=False, says=says)


def decoders() -> Iterator[Finding]:
    """Whether the pixels of compressed DICOM files can be read."""
    try:
        from pydicom import uid
        from pydicom.pixels import get_decoder
    except ImportError as error:
        yield Finding(name="DICOM decoders", ok=False, says=f"{error}: 'pip install pydicom'")
        return
    for syntax, plugin in DECODERS.items():
        there = plugin in get_decoder(getattr(uid, syntax)).available_plugins
        says = plugin if there else f"{plugin} does not load: 'pip install --force-reinstall {DECODER_PACKAGES}'"
        yield Finding(name=f"DICOM {syntax}", ok=there, says=says)


def machine() -> Iterator[Finding]:
    """Cores that this process may use, and memory in all."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    yield Finding(name="cores", ok=True, says=f"{cores}")
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / GIB
    enough = memory >= MEMORY_GIB
    says = f"{memory:.1f} GiB" + ("" if enough else f": an update needs {MEMORY_GIB} GiB; add memory")
    yield Finding(name="memory", ok=enough, says=says)


def disk(workspace: Path) -> Iterator[Finding]:
    """Room and access where the workspace is, or where it would be."""
    place = next(p for p in (workspace.resolve(), *workspace.resolve().parents) if p.exists())
    free = shutil.disk_usage(place).free / GIB
    writable = os.access(place, os.W_OK)
    enough = free >= DISK_GIB and writable
    says = f"{free:.1f} GiB free" + ("" if free >= DISK_GIB else f": free at least {DISK_GIB} GiB")
    yield Finding(name="disk", ok=enough, says=says if writable else f"{place} can't be written: check its permissions")


def deployment(workspace: Path) -> Iterator[Finding]:
    """The workspace's files as they lie there; what is in them is the work of `verify`."""
    if not (workspace / "homeostat.db").is_file():
        says = "there is none here; 'homeostat init' makes one, --workspace names another"
        yield Finding(name="workspace", ok=True, says=says)
        return
    key = workspace / "key"
    private = key.is_file() and key.stat().st_mode & 0o077 == 0
    says = (
        "readable by its owner only" if private else "missing or readable by others: restore it, then 'chmod 600 key'"
    )
    yield Finding(name="key", ok=private, says=says)
    yield Finding(name="daemon", ok=True, says="running" if _held(workspace / ".lock") else "not running")
    left = [*workspace.glob("versions/.staging-*"), *workspace.glob(".*.tmp")]
    says = f"{len(left)} left by a crash: no version refers to them; remove them" if left else "none"
    yield Finding(name="half-written files", ok=not left, says=says)
    try:
        channels = len(read_config(workspace / "homeostat.yaml").alerts.channels)
    except HomeostatError as error:
        yield Finding(name="config", ok=False, says=f"{error}")
        return
    says = (
        f"{channels}; try them with 'homeostat alerts test'" if channels else "none: add alerts.channels to the config"
    )
    yield Finding(name="alert channels", ok=channels > 0, says=says)


def _held(lock: Path) -> bool:
    if not lock.is_file():
        return False
    try:
        with exclusive(lock, "held"):
            return False
    except HomeostatError:
        return True
