"""Commands that compute nothing load nothing: their budget of CPU time belongs to whoever waits for a rollback."""

from __future__ import annotations

import resource
import subprocess
import sys
from pathlib import Path

import pytest

from agent.workspace import Workspace

HEAVY = {"torch", "numpy", "scipy", "pandas", "river", "avalanche", "transformers", "peft", "monai", "apprise"}
LISTED = """
import atexit, sys
atexit.register(lambda: print("LOADED", *sorted({name.split(".")[0] for name in sys.modules}), file=sys.stderr))
from agent.cli import main
sys.exit(main(sys.argv[1:]))
"""


def loaded_by(*argv: str) -> set[str]:
    """The packages that a process has loaded when `homeostat ARGV` ends."""
    done = subprocess.run([sys.executable, "-c", LISTED, *argv], capture_output=True, text=True, check=False)
    return set(done.stderr.rsplit("LOADED", 1)[1].split())


def test_help_loads_nothing_heavy() -> None:
    """`--help` needs neither a library of numbers nor one of configuration."""
    assert loaded_by("--help") & (HEAVY | {"pydantic", "yaml", "sqlite3"}) == set()


@pytest.mark.parametrize(
    "argv",
    [
        ["status"],
        ["alarms"],
        ["journal"],
        ["versions"],
        ["history"],
        ["suspend", "--by", "a", "--reason", "b"],
        ["rollback", "--by", "a", "--reason", "b"],
    ],
    ids=lambda argv: argv[0],
)
def test_looking_and_rolling_back_load_nothing_heavy(argv: list[str], tmp_path: Path) -> None:
    """A rollback must work on the machine where torch is what is broken."""
    root = Workspace.create(tmp_path / "w").root
    assert loaded_by(*argv, "--workspace", str(root)) & (HEAVY | {"pydantic", "yaml"}) == set()


@pytest.mark.bench
@pytest.mark.parametrize(("argv", "seconds"), [(["--help"], 0.15), (["status"], 0.45)], ids=["help", "status"])
def test_cpu_time_is_within_the_promise(argv: list[str], seconds: float, tmp_path: Path) -> None:
    """CPU seconds of a whole process, the best of five, because a shared machine only ever adds."""
    root = Workspace.create(tmp_path / "w").root
    spent = []
    for _ in range(5):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run([sys.executable, "-m", "agent.cli", *argv], cwd=root, capture_output=True, check=False)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert min(spent) <= seconds
