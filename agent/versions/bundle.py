"""A version on disk: one immutable folder of parts in portable formats, written whole or not at all.

versions/v3/ holds what the recipe made (peft folder, head, recalibrator, thresholds, preprocessing, golden outputs),
version.json (lineage, recipe, data by hash, the base's digest), card.md and SHA256SUMS over them all. The sha256 of
SHA256SUMS is the version's digest, its identity. verdicts.json beside them is a copy of the store's verdicts, renewed
after every judgement of a version that waits for labels, and hence not among the sums.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from hashlib import file_digest, sha256
from pathlib import Path
from typing import Any

from agent.errors import HomeostatError
from agent.workspace import Workspace, fsync_folder, write_atomically

FORMAT = 1
SUMS = "SHA256SUMS"
VERDICTS = "verdicts.json"
# What a bundle may hold: weights that run no code when read, plain data, and text for people.
FORMATS = {".safetensors", ".json", ".md"}


def write(workspace: Workspace, version: str, parts: Path, facts: Mapping[str, Any]) -> str:
    """Copies the files of `parts` and writes the record around them; returns the digest.

    `facts` goes into version.json; it needs "base_digest" and should hold "parent", "recipe", "made" and "data". The
    folder appears under its name only when all of it is on disk, so that a crash leaves a staging folder at most; a
    bundle that is there already with the same sums is left alone. Raises HomeostatError where `parts` holds what a
    bundle may not, where the name is taken by another content, and where the disk is full or read-only.
    """
    folder, staging = workspace.path("versions", version), workspace.path("versions", f".staging-{version}")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        for name in sorted(path.name for path in parts.iterdir()):
            _copy(parts / name, staging / name)
        record = {"format": FORMAT, "version": version, **facts}
        _write(staging / "version.json", json.dumps(record, indent=2, sort_keys=True, ensure_ascii=False) + "\n")
        _write(staging / "card.md", card(record))
        _write(staging / SUMS, "".join(f"{file_sha256(file)}  {file.name}\n" for file in sorted(staging.iterdir())))
        fsync_folder(staging)
        digest_ = digest(staging)
        if folder.exists():
            shutil.rmtree(staging)
            if digest(folder) != digest_:
                raise HomeostatError(f"{version} is written already with other content: a version never changes")
            return digest_
        staging.rename(folder)
        fsync_folder(folder.parent)
    except OSError as error:
        raise HomeostatError(
            f"{version} can't be written ({error.strerror}): check the disk of {workspace.root}"
        ) from error
    return digest_


def digest(folder: Path) -> str:
    """The identity of a version: the sha256 of its SHA256SUMS. Raises HomeostatError when there is none."""
    try:
        return file_sha256(folder / SUMS)
    except OSError as error:
        raise HomeostatError(
            f"version {folder.name} has no readable {SUMS} ({error.strerror}): restore it from a backup"
        ) from error


def check(folder: Path, expected: str | None = None) -> list[str]:
    """What differs from what was written, one sentence each; `expected` is the digest that the store knows."""
    if not (folder / SUMS).is_file():
        return [f"there is no {SUMS}"]
    problems = []
    if expected is not None and digest(folder) != expected:
        problems.append(f"{SUMS} is not the one that was registered")
    listed = dict(_listed(folder))
    for name, written in listed.items():
        file = folder / name
        if Path(name).name != name or file.is_symlink():
            problems.append(f"{name} points out of the folder")
        elif not file.is_file():
            problems.append(f"{name} is missing")
        elif file_sha256(file) != written:
            problems.append(f"{name} was changed after it was written")
    present = {path.name for path in folder.iterdir() if not path.name.startswith(f".{VERDICTS}.")}
    return problems + [f"{name} was added later" for name in sorted(present - set(listed) - {SUMS, VERDICTS})]


def facts(folder: Path) -> dict[str, Any]:
    """What version.json says. Raises HomeostatError when it can't be read."""
    try:
        return json.loads((folder / "version.json").read_text())
    except (OSError, ValueError) as error:
        raise HomeostatError(f"version {folder.name} has no readable version.json: run 'homeostat verify'") from error


def record_verdicts(workspace: Workspace, version: str, verdicts: Sequence[Mapping[str, Any]]) -> None:
    """Renews the copy of the verdicts that lies with the version. Call it after the transaction that stored them."""
    text = json.dumps(list(verdicts), indent=2, ensure_ascii=False) + "\n"
    write_atomically(workspace.path("versions", version, VERDICTS), text.encode())


def folder_digest(folder: Path) -> str:
    """sha256 over the sorted (path below the folder, sha256 of the bytes) of every file: the identity of a base."""
    files = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())
    return sha256("".join(f"{file_sha256(folder / name)}  {name}\n" for name in files).encode()).hexdigest()


def card(record: Mapping[str, Any]) -> str:
    """The model card of a version, for people; its verdicts come after it and stand in verdicts.json."""
    lines = [f"# Version {record['version']}", ""]
    if record.get("parent"):
        lines += [f"Made from {record['parent']} by the recipe *{record.get('recipe', 'unknown')}*.", ""]
    else:
        lines += ["The model as deployed: the base itself, without any update.", ""]
    lines += [f"- Base: sha256 `{record['base_digest']}`. It belongs to this base and no other."]
    lines += [
        f"- {key.replace('_', ' ').capitalize()}: {_short(value)}" for key, value in record.items() if key not in _SAID
    ]
    lines += ["", "What the gates said of it stands in `verdicts.json`; who let it go live, and why, in the journal."]
    return "\n".join(lines) + "\n"


_SAID = {"format", "version", "parent", "recipe", "base_digest"}


def _short(value: Any) -> str:
    if isinstance(value, Mapping):
        return "; ".join(f"{key.replace('_', ' ')} {_short(item)}" for key, item in value.items())
    if isinstance(value, (list, tuple)):
        return f"{len(value)} entries" if len(value) > 12 else ", ".join(_short(item) for item in value)
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _listed(folder: Path) -> Iterator[tuple[str, str]]:
    for line in (folder / SUMS).read_text(errors="replace").splitlines():
        written, _, name = line.partition("  ")
        yield name, written


def _copy(source: Path, target: Path) -> None:
    if source.is_symlink() or not source.is_file() or source.suffix not in FORMATS:
        raise HomeostatError(
            f"a version may hold plain files of {', '.join(sorted(FORMATS))} only, and not {source.name!r}"
        )
    with source.open("rb") as reader, target.open("wb") as writer:
        shutil.copyfileobj(reader, writer, 1 << 20)
        _settle(writer)


def _write(path: Path, text: str) -> None:
    with path.open("wb") as file:
        file.write(text.encode())
        _settle(file)


def _settle(file: Any) -> None:
    file.flush()
    os.fsync(file.fileno())
    os.fchmod(file.fileno(), 0o444)


def file_sha256(path: Path) -> str:
    """sha256 of the bytes, in hex."""
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
