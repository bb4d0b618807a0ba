"""What SECURITY.md promises of the code, read off its syntax; the number of modules that were read is asserted."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
MODULES = [p for package in ("agent", "strategies", "monitors", "homeostat") for p in (ROOT / package).rglob("*.py")]
RUN_CODE = {"pickle", "cPickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}


def dotted(node: ast.expr) -> str:
    """`torch.load` of the expression that is called."""
    if isinstance(node, ast.Attribute):
        return f"{dotted(node.value)}.{node.attr}"
    return node.id if isinstance(node, ast.Name) else ""


def offences(tree: ast.Module) -> Iterator[str]:
    """Everything in a module that could run code from data."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else [node.module or ""]
            yield from (f"imports {name}" for name in names if name.split(".")[0] in RUN_CODE)
        if not isinstance(node, ast.Call):
            continue
        called = dotted(node.func)
        told = {word.arg: word.value.value for word in node.keywords if isinstance(word.value, ast.Constant)}
        if called in ("eval", "exec", "os.system", "yaml.load", "yaml.unsafe_load") or told.get("shell") is True:
            yield f"calls {called}"
        if called == "torch.load" and told.get("weights_only") is not True:
            yield "calls torch.load without weights_only=True"
        if told.get("allow_pickle") is True or told.get("trust_remote_code") is True:
            yield f"lets {called} run what it reads"


def test_nothing_that_is_loaded_can_run_code() -> None:
    """No pickle, no eval, no shell, no remote code, in any module."""
    found = {f"{path.relative_to(ROOT)} {what}" for path in MODULES for what in offences(ast.parse(path.read_text()))}
    assert len(MODULES) >= 60
    assert found == set()


def test_the_search_finds_what_it_is_for() -> None:
    """The rules above see each of the offences they name."""
    wrong = """
import pickle
from joblib import load
eval(x); torch.load(f); torch.load(f, weights_only=False); np.load(f, allow_pickle=True); yaml.load(t)
subprocess.run(c, shell=True); AutoModel.from_pretrained(m, trust_remote_code=True)
"""
    assert len(list(offences(ast.parse(wrong)))) == 9
    fine = "torch.load(f, weights_only=True); np.load(f); yaml.safe_load(t); subprocess.run(c)"
    assert list(offences(ast.parse(fine))) == []
