"""validate, doctor, completion, bench, and what later parts bring."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from agent import cli
from agent.commands.bench import BENCHMARKS
from agent.commands.later import LATER, later
from agent.commands.table import GROUPS
from agent.workspace import Workspace

WRONG = """
plan:
  mode: reckless
  alpha: 3
monitors:
  false_alarms: {at_most: 0}
memory: {size: -1}
colour: red
"""


def test_validate_tells_all_errors_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Five errors are five sentences that name their fields, and exit 2."""
    config = tmp_path / "c.yaml"
    config.write_text(WRONG)
    assert cli.main(["validate", str(config), "--json"]) == 2
    answer = json.loads(capsys.readouterr().out)
    assert answer["ok"] is False
    for field in ("plan.mode", "plan.alpha", "monitors.false_alarms.at_most", "memory.size", "colour"):
        assert sum(error.startswith(field) for error in answer["errors"]) == 1
    assert len(answer["errors"]) == 5


def test_validate_accepts_an_empty_config(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Everything has a default; the workspace's own config is the one that is looked at by default."""
    (tmp_path / "homeostat.yaml").write_text("")
    assert cli.main(["validate", "--json", "--workspace", str(tmp_path)]) == 0
    assert json.loads(capsys.readouterr().out) == {"ok": True, "errors": []}


def test_validate_of_a_missing_file_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A wrong path is the caller's error, not a config with errors."""
    assert cli.main(["validate", str(tmp_path / "none.yaml")]) == 2
    assert "none.yaml" in capsys.readouterr().err


def test_schema_describes_the_plan(capsys: pytest.CaptureFixture[str]) -> None:
    """`validate --schema` prints a JSON Schema, with --json or without."""
    assert cli.main(["validate", "--schema"]) == 0
    schema = json.loads(capsys.readouterr().out)
    assert {"plan", "monitors", "alerts"} <= set(schema["properties"])


def test_doctor_says_what_lacks_and_the_way_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Leftovers of a crash, a readable key and missing alert channels are found; the exit code stays 0."""
    root = Workspace.create(tmp_path / "w").root
    (root / "homeostat.yaml").write_text("")
    (root / "key").chmod(0o644)
    (root / "versions" / ".staging-v3").mkdir()
    assert cli.main(["doctor", "--json", "--workspace", str(root)]) == 0
    answer = json.loads(capsys.readouterr().out)
    checks = {check["name"]: check for check in answer["checks"]}
    assert {name for name in ("key", "half-written files", "alert channels") if not checks[name]["ok"]} == {
        "key",
        "half-written files",
        "alert channels",
    }
    assert "chmod 600" in checks["key"]["says"]
    assert answer["ok"] is False and any(error.startswith("key: ") for error in answer["errors"])
    for name in ("python", "torch and torchvision", "DICOM JPEGLosslessSV1", "DICOM JPEGLSLossless", "pyyaml"):
        assert checks[name]["ok"], checks[name]


def test_completion_is_a_script_that_bash_accepts(capsys: pytest.CaptureFixture[str]) -> None:
    """The script parses, and completes the commands."""
    assert cli.main(["completion", "bash"]) == 0
    script = capsys.readouterr().out
    subprocess.run(["bash", "-n"], input=script, text=True, check=True)
    ask = f"{script}\nCOMP_WORDS=(homeostat roll); COMP_CWORD=1; _shtab_homeostat; echo ${{COMPREPLY[@]}}"
    offered = subprocess.run(["bash"], input=ask, capture_output=True, text=True, check=True).stdout
    assert offered.split() == ["rollback"]


@pytest.mark.parametrize("command", GROUPS["Brought by later parts"], ids=lambda command: command.name)
def test_later_commands_say_so_whatever_they_are_given(command, capsys) -> None:  # type: ignore[no-untyped-def]
    """The call of the contract is understood, and answered with exit 2 and a sentence about the release."""
    for argv in ([], ["v1", "--out", "x", "--patient", "7"], ["--against", "REF"]):
        assert cli.main([command.name, *argv]) == 2
        err = capsys.readouterr().err
        assert f"'{command.name}' is not in this release" in err and err.count("\n") == 1


@pytest.mark.parametrize("name", LATER)
def test_what_is_later_is_told_in_one_sentence(name: str) -> None:
    """Each sentence names the thing and where to look."""
    error = later(name)
    assert error.exit_code == 2
    assert name in str(error) and "CHANGELOG.md" in str(error)


def test_bench_lists_its_benchmarks(capsys: pytest.CaptureFixture[str]) -> None:
    """The list is read without running, or importing, any."""
    assert cli.main(["bench", "--list", "--json"]) == 0
    rows = json.loads(capsys.readouterr().out)
    assert [row["name"] for row in rows] == list(BENCHMARKS)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["bench"], "--list"),
        (["bench", "speed"], "no benchmark 'speed'"),
        (["bench", "gates", "--input", "/nowhere"], "--input /nowhere is no folder"),
        (["bench", "gates", "--figure", "gates.svg"], "the benchmark 'gates' has no picture"),
        (["bench", "loop", "--data", "/nowhere"], "--data /nowhere is no folder"),
        (["bench", "drift", "--figure", "/nowhere/drift.svg"], "/nowhere/drift.svg can't be written"),
    ],
)
def test_bench_refuses_what_it_cant_run(argv: list[str], says: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Unknown names and missing data are one sentence each."""
    assert cli.main(argv) == 2
    err = capsys.readouterr().err
    assert says in err and err.count("\n") == 1
