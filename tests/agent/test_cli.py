"""The frame of the command line: exit codes, one sentence per error, one JSON value, nothing lost on a closed pipe."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from agent import cli
from agent.answer import Answer, table
from agent.commands.table import COMMANDS
from agent.workspace import Workspace

PYTHON = [sys.executable, "-m", "agent.cli"]
RESULT = Answer({"says": "grüß"}, "grüß")


def run(*args: str, **options: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*PYTHON, *args], capture_output=True, text=True, check=False, **options)  # type: ignore[call-overload, no-any-return]


@pytest.fixture
def handler(monkeypatch: pytest.MonkeyPatch):  # type: ignore[no-untyped-def]
    """Puts a function of the test behind `homeostat doctor`."""

    def put(function) -> None:  # type: ignore[no-untyped-def]
        from agent.commands import check

        monkeypatch.setattr(check, "doctor", function)

    return put


def test_help_shows_every_command_in_a_group(capsys: pytest.CaptureFixture[str]) -> None:
    """A person finds every command on the first page."""
    with pytest.raises(SystemExit) as ended:
        cli.main(["--help"])
    page = capsys.readouterr().out
    assert ended.value.code == 0
    assert all(re.search(rf"^  {command.name} +{re.escape(command.help)}$", page, re.M) for command in COMMANDS)


@pytest.mark.parametrize("name", [command.name for command in COMMANDS])
def test_every_command_has_help_of_its_own(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    """`homeostat COMMAND --help` tells the arguments and what --json answers with."""
    with pytest.raises(SystemExit) as ended:
        cli.main([name, "--help"])
    assert ended.value.code == 0
    assert f"usage: homeostat {name}" in capsys.readouterr().out


def test_version_is_that_of_the_installed_package(capsys: pytest.CaptureFixture[str]) -> None:
    """`--version` says which release answers."""
    with pytest.raises(SystemExit):
        cli.main(["--version"])
    assert re.fullmatch(r"homeostat \d+\.\d+\.\d+\S*\n", capsys.readouterr().out)


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        ([], "required: COMMAND"),
        (["statu"], "did you mean 'status'?"),
        (["xyzzy"], "there is no command 'xyzzy'"),
        (["status", "--wrkspace", "x"], "'status' has no --wrkspace"),
        (["--json"], "required: COMMAND"),
        (["feed"], "required: DIR"),
        (["approve", "v1", "--by", "me"], "--reason"),
        (["fit", "--data", "d", "--out", "o", "--task", "guessing"], "guessing"),
        (["journal", "--since", "yesterday"], "yesterday"),
        (["status", "--works", "x"], "--works"),
    ],
)
def test_wrong_calls_get_one_sentence_and_exit_2(
    argv: list[str], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """The sentence names what is wrong; no usage dump, nothing on standard output."""
    assert cli.main(argv) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert err.startswith("homeostat: ") and err.count("\n") == 1


@pytest.mark.parametrize(
    ("argv", "found"),
    [
        ("alarms ack 3 --by A", {"action": "ack", "id": 3, "by": "A"}),
        ("alarms ack --by A 3", {"action": "ack", "id": 3, "by": "A"}),
        ("alarms --by A --json", {"action": None, "id": None, "json": True}),
        ("labels import --workspace w late.csv", {"action": "import", "file": "late.csv"}),
        ("predict a.png --version v1 b.png", {"files": ["a.png", "b.png"], "version": "v1"}),
        ("feed --where a=b DIR --where c!=d", {"dir": "DIR", "where": ["a=b", "c!=d"]}),
        ("bench --seed 3 gates", {"name": "gates", "seed": 3}),
        ("validate --json c.yaml", {"config": "c.yaml", "schema": False}),
    ],
)
def test_options_may_stand_anywhere(argv: str, found: dict[str, object]) -> None:
    """Before, between and after the words of a command."""
    args = vars(cli.parse(argv.split()))
    assert {name: args[name] for name in found} == found


def test_common_options_are_taken_before_and_after_the_command(handler, capsys) -> None:  # type: ignore[no-untyped-def]
    """`homeostat --json doctor` and `homeostat doctor --json` are the same call."""
    handler(lambda args: Answer(str(args.workspace), ""))
    answers = []
    for argv in (["--workspace", "w", "--json", "doctor"], ["doctor", "--workspace", "w", "--json"]):
        assert cli.main(argv) == 0
        answers.append(json.loads(capsys.readouterr().out))
    assert answers == ["w", "w"]


def test_workspace_comes_from_the_flag_then_the_environment(handler, capsys, monkeypatch) -> None:  # type: ignore[no-untyped-def]
    """The order of the contract: flag, $HOMEOSTAT_WORKSPACE, current folder."""
    handler(lambda args: Answer(str(args.workspace), ""))
    found = []
    monkeypatch.delenv("HOMEOSTAT_WORKSPACE", raising=False)
    for environment, flag in ((None, []), ("env", []), ("env", ["--workspace", "flag"])):
        if environment:
            monkeypatch.setenv("HOMEOSTAT_WORKSPACE", environment)
        cli.main(["doctor", "--json", *flag])
        found.append(json.loads(capsys.readouterr().out))
    assert found == [".", "env", "flag"]


def test_json_is_the_only_thing_on_standard_output(handler, capsys) -> None:  # type: ignore[no-untyped-def]
    """What a library prints goes to standard error, and undefined numbers are null, so that programs can read on."""

    def noisy(args: object) -> Answer:
        print("a library says hello")
        return Answer({"auroc": float("nan"), "n": 3, "rows": [float("inf")]}, "", exit_code=1)

    handler(noisy)
    assert cli.main(["doctor", "--json"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out) == {"auroc": None, "n": 3, "rows": [None]}
    assert "a library says hello" in err


def test_answers_survive_a_terminal_that_knows_only_ascii() -> None:
    """A name with an umlaut must not turn an answer into a traceback."""
    code = (
        "from agent.answer import Answer\nimport agent.commands.check as c, agent.cli as cli, sys\n"
        "c.doctor = lambda args: Answer({'says': 'gr\\xfc\\xdf\\udcff'}, 'gr\\xfc\\xdf')\n"
        "sys.exit(cli.main(['doctor', *sys.argv[1:]]))"
    )
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    for flags in ([], ["--json"]):
        done = subprocess.run([sys.executable, "-c", code, *flags], capture_output=True, env=environment, check=False)
        assert (done.returncode, done.stderr) == (0, b"")
    assert json.loads(done.stdout) == {"says": "grüß\udcff"}


def test_a_reader_that_goes_away_is_no_error(tmp_path: Path) -> None:
    """`homeostat journal | head -1` ends quietly, with the code of what was done."""
    workspace = Workspace.create(tmp_path / "w")
    with workspace.store.transaction() as connection:
        from agent.store import journal

        for i in range(3000):
            journal.append(connection, "tick_read", at=workspace.now(), by="test", body={"i": i})
    command = f"{' '.join(PYTHON)} journal --workspace {workspace.root}; echo code $? >&2"
    done = subprocess.run(["bash", "-c", f"( {command} ) | head -1"], capture_output=True, text=True, check=False)
    assert done.stderr == "code 0\n"
    assert done.stdout.startswith("seq")


def test_a_fault_is_recorded_without_the_data_it_happened_on(handler, tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    """The place in the code is kept for the report; its message, which may name a patient, only shown."""
    root = Workspace.create(tmp_path / "w").root

    def broken(args: object) -> Answer:
        raise KeyError(name)

    name = "MUELLER^HANS"
    handler(broken)
    assert cli.main(["doctor", "--workspace", str(root)]) == 2
    out, err = capsys.readouterr()
    recorded = (root / "logs" / "faults.log").read_text()
    assert out == "" and err.count("\n") == 1 and "faults.log" in err
    assert "KeyError" in recorded and "test_cli.py" in recorded
    assert "MUELLER" not in recorded + err
    assert cli.main(["doctor", "--debug", "--workspace", str(root)]) == 2
    assert "MUELLER^HANS" in capsys.readouterr().err


def test_a_fault_outside_a_workspace_makes_no_files(handler, tmp_path, capsys) -> None:  # type: ignore[no-untyped-def]
    """A command that fails in some folder leaves that folder as it was."""

    def broken(args: object) -> Answer:
        raise RuntimeError("x")

    handler(broken)
    assert cli.main(["doctor", "--workspace", str(tmp_path)]) == 2
    assert "--debug" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named_as_such(handler, capsys) -> None:  # type: ignore[no-untyped-def]
    """What the system refuses is told with the way out, not as a fault of the program."""

    def full(args: object) -> Answer:
        raise OSError(28, "No space left on device", "homeostat.db")

    handler(full)
    assert cli.main(["doctor"]) == 2
    assert "homeostat.db: No space left on device: free space" in capsys.readouterr().err


def test_an_answer_that_cant_be_written_is_told() -> None:
    """An answer into a full device ends with exit 2 and a sentence, not with silence."""
    with open("/dev/full", "w") as full:
        done = subprocess.run(
            [*PYTHON, "completion", "bash"], stdout=full, stderr=subprocess.PIPE, text=True, check=False
        )
    assert done.returncode == 2
    assert "No space left on device" in done.stderr


def test_no_workspace_is_one_sentence_with_the_way_out(tmp_path: Path) -> None:
    """The commonest mistake, run as a process: the wrong folder."""
    done = run("status", "--workspace", str(tmp_path))
    assert done.returncode == 2
    assert "homeostat init" in done.stderr and done.stderr.count("\n") == 1
    assert done.stdout == ""


def test_interrupting_says_that_nothing_is_lost(handler, capsys) -> None:  # type: ignore[no-untyped-def]
    """Ctrl-C is answered in one sentence."""

    def interrupted(args: object) -> Answer:
        raise KeyboardInterrupt

    handler(interrupted)
    assert cli.main(["doctor"]) == 130
    assert "interrupted" in capsys.readouterr().err


def test_table_aligns_and_marks_what_is_missing() -> None:
    """Columns line up whatever their width; None is a dash and long floats are cut."""
    lines = table([{"id": 1, "x": None}, {"id": 22, "x": 0.123456789}], ["id", "x"]).splitlines()
    assert lines == ["id  x", "1   -", "22  0.1235"]
