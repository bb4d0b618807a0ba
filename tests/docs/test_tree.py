"""Rules that hold for every file of the tree; each test asserts how many files it looked at."""

from __future__ import annotations

import ast
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

from agent.config import read_config

ROOT = Path(__file__).parents[2]
PACKAGES = ("agent", "strategies", "monitors", "homeostat", "benchmarks")
MODULES = [path for package in PACKAGES for path in sorted((ROOT / package).rglob("*.py"))]
# Folders of somebody's machine, which would be wrong on every other.
MACHINE = re.compile("|".join(rf"/{folder}/" for folder in ("home", "Users", "root", "work")))


def public_nodes(tree: ast.Module) -> Iterator[ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef]:
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and not node.name.startswith("_"):
            yield node


def test_every_module_says_what_it_is_for() -> None:
    """Every module opens with a docstring."""
    silent = [str(path.relative_to(ROOT)) for path in MODULES if not ast.get_docstring(ast.parse(path.read_text()))]
    assert len(MODULES) >= 60
    assert silent == []


def test_public_classes_and_functions_are_documented() -> None:
    """Every public class and function at module level has a docstring; two-line functions may speak for themselves."""
    seen, silent = 0, []
    for path in MODULES:
        for node in public_nodes(ast.parse(path.read_text())):
            seen += 1
            plain = isinstance(node, ast.FunctionDef) and len(node.body) == 1
            if not plain and not ast.get_docstring(node):
                silent.append(f"{path.relative_to(ROOT)}:{node.name}")
    assert seen >= 150
    assert silent == []


def test_make_knows_the_targets_that_people_are_told_of() -> None:
    """`make demo`, `make test`, `make lint` and `make bench` stand in the README; CI calls the rest."""
    targets = ["demo", "test", "test-slow", "lint", "bench", "docs"]
    done = subprocess.run(["make", "-n", *targets], cwd=ROOT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert os.access(ROOT / ".ci" / "run", os.X_OK)


def test_every_config_is_valid() -> None:
    """Each deployment in configs/ is one that `init --config` would take."""
    configs = sorted((ROOT / "configs").rglob("*.yaml"))
    for path in configs:
        read_config(path)
    assert len(configs) >= 1


def test_no_file_names_a_folder_of_somebodys_machine() -> None:
    """What is published runs anywhere: no absolute path of a home or a work folder is written in it."""
    listed = subprocess.run(["git", "ls-files"], cwd=ROOT, capture_output=True, text=True, check=True).stdout.split()
    named, seen = [], 0
    for name in listed:
        path = ROOT / name
        if name == "uv.lock" or not path.is_file():
            continue
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        seen += 1
        named += [f"{name}:{i}" for i, line in enumerate(text.splitlines(), 1) if MACHINE.search(line)]
    assert seen >= 60
    assert named == []


def test_no_two_modules_of_the_tests_share_a_name():
    """pytest imports them by their bare names: a second one breaks the whole suite, and no part of it."""
    names = [path.name for path in (ROOT / "tests").rglob("*.py") if path.name != "__init__.py"]
    assert len(names) >= 100 and sorted({name for name in names if names.count(name) > 1}) == []
