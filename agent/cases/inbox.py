"""The watched folder `inbox/`: data folders and loose images that were put there go to the intake, then away.

What is still being written is left alone: an entry is taken when nothing in it has changed for two seconds by the file
system's own clock. Names that are hidden or end in .part or .tmp wait until they are renamed. An entry is removed only
after its cases are committed, and only if it is still what was read; after a crash it is taken again, as duplicates.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from hashlib import file_digest, sha256
from pathlib import Path

from agent.cases import quarantine
from agent.cases.datafolder import Folder, read_folder, unlisted
from agent.cases.intake import Intake, Progress
from agent.errors import HomeostatError
from agent.store import journal
from agent.workspace import Workspace

SETTLED = 2.0  # seconds
LOOK_AGAIN = 0.2  # seconds; how long a scan waits when all there is still changes
UNFINISHED = (".part", ".tmp", ".crdownload", ".filepart")
GONE = ".taken-"


def scan(workspace: Workspace, *, progress: Progress = lambda what, done, of: None) -> int:
    """Takes what has settled; returns how many cases and refusals that were, or 1 where something still settles.

    Raises HomeostatError where the inbox or the workspace can't be read or written.
    """
    try:
        return _scan(workspace, Intake(workspace, progress=progress))
    except OSError as error:
        raise HomeostatError(
            f"{workspace.path('inbox')} can't be worked off ({error.strerror}): check its permissions and its disk"
        ) from error


def _scan(workspace: Workspace, intake: Intake) -> int:
    inbox = workspace.path("inbox")
    for half_removed in inbox.glob(f"{GONE}*"):
        shutil.rmtree(half_removed)
    entries = [Entry.look(path) for path in _offered(inbox)]
    now = _file_system_time(inbox)
    settled = [entry for entry in entries if entry.files and abs(now - entry.changed) >= SETTLED]
    done = 0
    loose = [entry for entry in settled if entry.path.is_file()]
    if loose:
        done += _taken(intake, unlisted(inbox, [entry.path for entry in loose]))
        for entry in loose:
            entry.remove()
    for entry in settled:
        if entry.path.is_dir():
            done += _take_folder(intake, entry)
    waiting = any(entry.files for entry in entries if entry not in settled)
    if waiting and not done:
        time.sleep(LOOK_AGAIN)
    return done or int(waiting)


@dataclass(frozen=True)
class Entry:
    """A file or a folder of the inbox as one scan saw it."""

    path: Path
    files: tuple[tuple[str, int, int], ...]  # path, size, time of change in ns
    changed: float  # seconds since the epoch, of the latest change

    @classmethod
    def look(cls, path: Path) -> Entry:
        stats = list(_stats(path))
        seen = tuple((str(file), stat.st_size, stat.st_ctime_ns) for file, stat in stats)
        return cls(path, seen, max((stat.st_ctime for _, stat in stats), default=0.0))

    def remove(self) -> None:
        """Removes it at one stroke, so that a crash leaves no half of a folder; keeps it if it has changed since."""
        if not self.path.exists() or Entry.look(self.path) != self:
            return
        if self.path.is_file():
            self.path.unlink()
        else:
            gone = self.path.with_name(f"{GONE}{self.path.name}")
            self.path.rename(gone)
            shutil.rmtree(gone)

    def digest(self) -> str:
        hashed = sha256()
        for file in _files(self.path):
            with file.open("rb") as opened:
                hashed.update(f"{file.relative_to(self.path)}\0".encode() + file_digest(opened, "sha256").digest())
        return hashed.hexdigest()


def _take_folder(intake: Intake, entry: Entry) -> int:
    try:
        folder = read_folder(entry.path)
    except HomeostatError as error:
        return _refuse(intake.workspace, entry, str(error).replace(str(entry.path), "the folder"))
    done = _taken(intake, folder)
    entry.remove()
    return done


def _taken(intake: Intake, folder: Folder) -> int:
    counts = intake.take_cases(folder)
    return counts["accepted"] + counts["duplicates"] + counts["quarantined"]


def _refuse(workspace: Workspace, entry: Entry, reason: str) -> int:
    """A folder that as a whole can't be read goes to quarantine as a whole."""
    digest = entry.digest()
    name = f"{quarantine.safe_name(entry.path.name)}-{digest[:8]}"
    with workspace.store.transaction() as connection:
        if quarantine.record(connection, name, reason, digest, workspace.now()):
            body = {"reason": "the folder can't be read as a data folder", "patients": {quarantine.Cause.FOLDER: 1}}
            journal.append(connection, "folder_refused", at=workspace.now(), by="intake", body=body)
    if workspace.path("quarantine", name).exists():
        entry.remove()
    else:
        quarantine.keep(workspace, name, reason, digest, entry.path)
    return 1


def _offered(inbox: Path) -> Iterator[Path]:
    for path in sorted(inbox.iterdir()):
        if not path.name.startswith(".") and not path.name.endswith(UNFINISHED) and not path.is_symlink():
            yield path


def _files(path: Path) -> list[Path]:
    if path.is_file():
        return [path]
    return sorted(Path(folder, name) for folder, _, names in os.walk(path) for name in names)


def _stats(path: Path) -> Iterator[tuple[Path, os.stat_result]]:
    for file in _files(path):
        with suppress(FileNotFoundError):  # renamed since it was listed: the next look finds it under its new name
            yield file, file.lstat()


def _file_system_time(folder: Path) -> float:
    """Now, by the clock that stamps the files: on a share it may not be ours."""
    probe = folder / ".clock"
    probe.touch()
    now = probe.stat().st_ctime
    probe.unlink()
    return now
