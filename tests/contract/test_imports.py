"""The direction of imports: agent -> strategies, agent -> monitors, and nothing else between the three."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
OURS = {"agent", "strategies", "monitors", "homeostat", "benchmarks"}
MAY_IMPORT = {
    "agent": {"agent", "strategies", "monitors"},
    "strategies": {"strategies"},
    "monitors": {"monitors"},
    "homeostat": {"homeostat", "agent", "strategies", "monitors"},
    "benchmarks": OURS,
}
# So that a move of files doesn't leave this test looking at nothing.
FEWEST = {"agent": 30, "strategies": 15, "monitors": 8, "homeostat": 1, "benchmarks": 3}


def imported(path: Path) -> Iterator[str]:
    """The top-level package of every import of a module, those inside functions too."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} has a relative import: write it in full"
            yield (node.module or "").split(".")[0]


@pytest.mark.parametrize("package", MAY_IMPORT)
def test_imports_go_one_way(package: str) -> None:
    """No module imports a package that it must not know."""
    modules = sorted((ROOT / package).rglob("*.py"))
    wrong = {
        f"{path.relative_to(ROOT)} -> {name}"
        for path in modules
        for name in imported(path)
        if name in OURS - MAY_IMPORT[package]
    }
    assert len(modules) >= FEWEST[package]
    assert wrong == set()


@pytest.mark.parametrize(
    ("module", "unwanted"),
    [
        ("strategies", {"torch", "avalanche", "agent", "monitors"}),
        ("strategies.protocols", {"torch", "avalanche", "agent", "monitors"}),
        ("monitors.protocols", {"torch", "river", "scipy", "agent", "strategies"}),
        ("monitors", {"torch", "river", "agent", "strategies"}),
        ("homeostat", {"torch", "numpy", "agent"}),
    ],
)
def test_light_modules_stay_light(module: str, unwanted: set[str]) -> None:
    """What is imported to look something up must not bring a heavy library along."""
    code = f"import sys, {module}; print(*{{name.split('.')[0] for name in sys.modules}})"
    loaded = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert unwanted & set(loaded.split()) == set()
