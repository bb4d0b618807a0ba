"""The stage: commands are given in this process where the answer matters, in another one where its death does."""

from __future__ import annotations

import fcntl
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any

from agent.cli import parse
from agent.errors import HomeostatError
from agent.versions import pointer, registry
from agent.workspace import Workspace

PATIENCE = 60.0  # seconds that a process is waited for before the play is given up


@dataclass(frozen=True)
class Reply:
    """What a command answered: its JSON value, or {"error"}, and its exit code."""

    value: Any
    exit_code: int
    seconds: float


class Stage:
    """The commands of one workspace."""

    def __init__(self, root: Path) -> None:
        self.root = root.resolve()
        self.workspace = Workspace(self.root)

    def give(self, *words: str | Path) -> Reply:
        """Gives one command as the command line would; an error is a reply, because some are part of the story."""
        started = time.monotonic()
        args = parse([*map(str, words), "--workspace", str(self.root), "--json"])
        module, function = args.run.split(":")
        try:
            answer = getattr(import_module(f"agent.commands.{module}"), function)(args)
            value, code = answer.value, answer.exit_code
        except HomeostatError as error:
            value, code = {"error": str(error)}, error.exit_code
        return Reply(value, code, time.monotonic() - started)

    def must(self, *words: str | Path) -> Any:
        """Gives a command that the rest of the story needs; its value. Raises HomeostatError where it is refused."""
        reply = self.give(*words)
        if isinstance(reply.value, dict) and "error" in reply.value:
            raise HomeostatError(f"the story ends at 'homeostat {words[0]}': {reply.value['error']}")
        return reply.value

    def give_apart(self, *words: str | Path) -> Reply:
        """Gives one command as a process of its own, from its start to its end."""
        started = time.monotonic()
        done = subprocess.run(self._line(words), capture_output=True, text=True, timeout=PATIENCE, env=_environment())
        seconds = time.monotonic() - started
        value = json.loads(done.stdout) if done.stdout else {"error": done.stderr.strip()}
        return Reply(value, done.returncode, seconds)

    def kill_in_the_middle(self, version: str, *words: str | Path) -> int:
        """Gives a promotion to a process and kills it after its commit, before it tells the services; the exit status.

        The lock of live.json is held here, so that the process stands still exactly between the two: it is then killed
        by SIGKILL from outside, and knows nothing of the play. Raises HomeostatError where it ends by itself.
        """
        with self.workspace.path(f".{pointer.NAME}.lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            process = subprocess.Popen(
                self._line(words), stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env=_environment()
            )
            deadline = time.monotonic() + PATIENCE
            while self.live() != version and process.poll() is None and time.monotonic() < deadline:
                time.sleep(0.002)
            process.kill()
            said = process.communicate()[1].decode().strip()
        if self.live() != version:
            raise HomeostatError(f"the promotion of {version} did not come to its middle: {said or 'no answer'}")
        return process.returncode

    def live(self) -> str:
        """What the store says is live."""
        with self.workspace.store.read() as connection:
            return str(registry.live(connection)["version"])

    def pointed(self) -> str:
        """What the services are told is live."""
        return pointer.read(self.workspace.path(pointer.NAME)).version

    def _line(self, words: Sequence[str | Path]) -> list[str]:
        return [sys.executable, "-m", "agent.cli", *map(str, words), "--workspace", str(self.root), "--json"]


def _environment() -> dict[str, str]:
    """The child finds the packages where this process found them."""
    return {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
