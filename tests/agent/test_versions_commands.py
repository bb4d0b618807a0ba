"""The registry's commands: their JSON, their exit codes, their sentences."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import sys
from statistics import median

import pytest
from deployed import FAILED, approved, candidate, deploy, held, live, promoted, state

from agent.cli import main
from agent.store import insert
from agent.versions import registry, verify
from agent.workspace import Workspace

WHO = ["--by", "ana", "--reason", "because"]
HEAVY = {"torch", "numpy", "scipy", "pandas", "river", "pydantic", "yaml"}


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    made = deploy(tmp_path / "site")
    monkeypatch.setenv("HOMEOSTAT_WORKSPACE", str(made.root))
    return made


@pytest.fixture
def told(capsys):
    """Runs a command with --json; gives its exit code, its value (None where there is none) and its error."""

    def run(*argv):
        code = main([*argv, "--json"])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else None, err

    return run


def test_versions_lists_all_oldest_first(workspace, told):
    """The contract's columns, for every version there ever was."""
    version, waiting = promoted(workspace), candidate(workspace)
    code, rows, _ = told("versions")

    assert (code, [row["id"] for row in rows]) == (0, ["v0", version, waiting])
    assert all(row.keys() >= {"id", "parent", "state", "recipe", "created_at", "approved_by", "digest"} for row in rows)
    assert [(row["state"], row["approved_by"]) for row in rows] == [
        ("retired", "ana"),
        ("probation", "ana"),
        ("candidate", None),
    ]


def test_show_tells_verdicts_and_lineage(workspace, told):
    """Everything that a person needs to decide stands on one page."""
    promoted(workspace)
    version = candidate(workspace, FAILED)
    code, value, _ = told("show", "challenger")

    assert (code, value["id"], value["lineage"]) == (0, version, [version, "v1", "v0"])
    assert value.keys() >= {"verdicts", "axes", "measures", "lineage"}
    by_gate = {row["gate"]: row for row in value["verdicts"]}
    wanted = {"gate", "verdict", "n", "before", "after", "interval", "margin", "says"}
    assert all(row.keys() >= wanted for row in by_gate.values())
    assert by_gate["forgetting:home:live"]["verdict"] == "FAIL"
    assert by_gate["gain:new"]["interval"] == [0.3, 0.5]


def test_a_version_goes_through_approval_promotion_and_rollback(workspace, told):
    """The three commands of the way there and back, with what the contract answers."""
    version = candidate(workspace)
    assert told("approve", version, *WHO)[:2] == (0, {"version": version, "state": "approved"})
    assert told("promote", version, *WHO)[:2] == (0, {"version": version, "state": "probation"})
    code, value, _ = told("rollback", *WHO)
    assert (code, value["from"], value["to"]) == (0, version, "v0")
    assert 0 < value["seconds"] < 60


@pytest.mark.parametrize(
    ("make", "argv", "code", "sentence"),
    [
        (held, ["approve"], 3, "148 are missing"),
        (held, ["promote"], 3, "148 are missing"),
        (lambda w: candidate(w, FAILED), ["approve"], 1, "failed by the gate"),
        (candidate, ["promote"], 1, "is not approved"),
        (promoted, ["promote"], 1, "is probation and can't become probation"),
        (promoted, ["reject"], 1, "can't become rejected"),
        (approved, ["rollback", "--to"], 1, "can't become active"),
    ],
)
def test_decisions_against_the_state_are_answered_with_no(workspace, told, make, argv, code, sentence):
    """One sentence that names the version, the exit code of the contract, and nothing changed."""
    version = make(workspace)
    before = state(workspace, version)
    got, value, said = told(*argv, version, *WHO)
    assert (got, value, said.count("\n")) == (code, None, 1)
    assert version in said
    assert sentence in said
    assert state(workspace, version) == before


@pytest.mark.parametrize("signed", [["--by", " ", "--reason", "worse"], ["--by", "ana", "--reason", ""]])
def test_an_unsigned_decision_is_a_wrong_call(workspace, told, signed):
    """A name and a reason are part of the record: an empty one is refused, and nothing changes."""
    version = promoted(workspace)
    code, _, said = told("rollback", *signed)
    assert (code, "needs a name and a reason" in said, live(workspace)) == (2, True, version)


def test_a_refused_version_is_not_approved(workspace, told):
    """Once rejected, always rejected."""
    version = candidate(workspace)
    assert told("reject", version, *WHO)[0] == 0
    code, _, said = told("approve", version, *WHO)
    assert (code, f"{version} is rejected" in said) == (1, True)


def test_rollback_from_v0_says_that_there_is_nothing(workspace, told):
    """Exit 1 and a sentence."""
    code, value, said = told("rollback", *WHO)
    assert (code, value) == (1, None)
    assert "nothing to roll back to" in said


@pytest.mark.parametrize("argv", [["show", "v9"], ["rollback", "--to", "v9", *WHO], ["approve", "shadow", *WHO]])
def test_an_unknown_version_is_a_wrong_call(workspace, told, argv):
    """Exit 2, and where to find the names."""
    code, _, said = told(*argv)
    assert code == 2
    assert "homeostat versions" in said


def test_history_tells_what_was_live_when(workspace, told):
    """Half-open spans without gaps; --at finds the one that holds the time."""
    version = promoted(workspace)
    registry.rollback(workspace, by="eve", reason="worse")
    _, rows, _ = told("history")
    assert [(row["version"], row["by"]) for row in rows] == [("v0", "ana"), (version, "ana"), ("v0", "eve")]
    assert [row["to"] for row in rows] == [rows[1]["from"], rows[2]["from"], None]

    assert told("history", "--at", rows[1]["from"])[1] == rows[1:2]
    assert told("history", "--at", "2999-01-01")[1] == rows[2:]
    assert told("history", "--at", "1999-01-01T00:00:00+02:00")[1] == []
    assert told("history", "--at", "yesterday")[0] == 2


def test_verify_answers_with_its_problems(workspace, told):
    """Exit 0 when whole, exit 1 with what and where when not."""
    assert told("verify")[:2] == (0, {"ok": True, "problems": [], "notes": []})
    (workspace.base / "base.json").write_text("{}")
    code, value, _ = told("verify")
    assert (code, value["ok"], [problem["where"] for problem in value["problems"]]) == (1, False, ["base"])


def test_people_get_tables(workspace, capsys):
    """Without --json every reading command prints lines that a person can read."""
    version = promoted(workspace)
    for argv, words in {
        "versions": ["id", "v0", version],
        f"show {version}": ["gain:new", "PASS", f"{version} <- v0"],
        "history": ["promote", "seen"],
        "verify": ["as it was written"],
    }.items():
        assert main(argv.split()) == 0
        out = capsys.readouterr().out
        assert all(word in out for word in words), out


def command(workspace: Workspace, *argv: str) -> list[str]:
    return [sys.executable, "-m", "agent.cli", *argv, *WHO, "--workspace", str(workspace.root)]


def test_a_rollback_that_is_carried_out_loads_nothing_heavy(workspace):
    """The whole way, files checked and pointer written, on a machine where torch may be what is broken."""
    promoted(workspace)
    done = subprocess.run(
        [sys.executable, "-X", "importtime", *command(workspace, "rollback")[1:]], capture_output=True, text=True
    )
    assert done.returncode == 0
    loaded = {line.rsplit("|", 1)[1].strip().split(".")[0] for line in done.stderr.splitlines() if "|" in line}
    assert "agent" in loaded
    assert loaded & HEAVY == set()


@pytest.mark.bench
def test_a_rollback_keeps_its_budget(workspace):
    """At most 0.45 CPU seconds as a whole process, median of 10."""
    promoted(workspace)
    spent = []
    for i in range(10):
        before = resource.getrusage(resource.RUSAGE_CHILDREN)
        subprocess.run(command(workspace, "rollback", "--to", ("v0", "v1")[i % 2]), check=True, capture_output=True)
        after = resource.getrusage(resource.RUSAGE_CHILDREN)
        spent.append(after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)
    assert median(spent) <= 0.45


def in_a_file_system_of_its_own(script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
    """Runs a shell script where it may mount; skips on machines that don't let a user do so."""
    own = ["unshare", "--map-root-user", "--user", "--mount", "sh", "-euc"]
    if shutil.which("unshare") is None or subprocess.run([*own, "true"], capture_output=True).returncode:
        pytest.skip("this machine lets no user mount a file system")
    environment = {**os.environ, "PYTHON": sys.executable}
    return subprocess.run([*own, script, "sh", *map(str, arguments)], capture_output=True, text=True, env=environment)


def test_rollback_works_on_a_full_disk(workspace, tmp_path):
    """With not one byte free, the space kept back at promotion is enough; nothing is promoted without such space."""
    approved(workspace), promoted(workspace)
    workspace.store.close()
    disk = tmp_path / "disk"
    disk.mkdir()
    done = in_a_file_system_of_its_own(
        """
        mount -t tmpfs -o size=6m tmpfs "$2"; cp -r "$1" "$2/site"
        cat /dev/zero > "$2/fill" 2> /dev/null || true
        "$PYTHON" -m agent.cli approve v2 --by a --reason b --workspace "$2/site" || echo "first: $?"
        "$PYTHON" -m agent.cli rollback --json --by a --reason b --workspace "$2/site"
        cat "$2/site/live.json"
        rm "$2/fill"; head -c 800000 /dev/zero > "$2/spare"
        cat /dev/zero > "$2/fill" 2> /dev/null || true; rm "$2/spare"
        "$PYTHON" -m agent.cli promote v1 --by a --reason b --workspace "$2/site" || echo "second: $?"
        ls -A "$2/site" | grep tmp || echo "nothing left behind"; rm "$2/fill"
        "$PYTHON" -m agent.cli verify --workspace "$2/site"
        """,
        workspace.root,
        disk,
    )
    assert done.returncode == 0, done.stderr
    assert "first: 2" in done.stdout
    assert "second: 2" in done.stdout
    assert "a way back may need" in done.stderr
    assert "nothing left behind" in done.stdout
    assert "free space" in done.stderr
    assert '"to": "v0"' in done.stdout
    assert '"version": "v0"' in done.stdout
    assert "all is as it was written" in done.stdout


def test_a_read_only_disk_is_told_in_one_sentence(workspace):
    """Exit 2, the file and the way out; live stays as it was."""
    version = promoted(workspace)
    workspace.store.close()
    done = in_a_file_system_of_its_own(
        """
        mount --bind "$1" "$1"; mount -o remount,ro,bind "$1"
        "$PYTHON" -m agent.cli rollback --by a --reason b --workspace "$1"
        """,
        workspace.root,
    )
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert "homeostat.db" in done.stderr
    assert "permissions" in done.stderr
    assert live(workspace) == version
    assert verify.problems(workspace) == []


def test_the_report_of_a_version_is_its_card_and_change_record(workspace, told, tmp_path):
    """One file that needs nothing else: verdicts as intervals, who let it go live, what happened to it; and no case."""
    version = promoted(workspace)
    out = tmp_path / "card.html"
    code, value, _ = told("report", version, "--out", str(out))
    page = out.read_text()

    assert (code, value) == (0, {"out": str(out)})
    assert all(word in page for word in (f"Version {version}", "gain:new", "Approved by ana", "version_promoted"))
    assert page.count('stroke-linecap="round"') >= 2
    assert "<script" not in page and "http" not in page
    assert told("report", "--out", str(out))[0] == 0 and f"Version {version}" in out.read_text()
    code, _, said = told("report", version, "--alarm", "1", "--out", str(out))
    assert code != 0 and "leave out VERSION or --alarm" in said


def test_anchors_tell_what_is_left_to_decide(workspace, told):
    """Per domain and generation; a generation that was followed decides nothing more."""
    with workspace.store.transaction() as connection:
        for generation, spent in ((1, 0.025), (2, 0.0375)):
            insert(connection, "anchor_sets", domain="home", generation=generation, digest="d", alpha=0.05, spent=spent,
                   n_patients=40 * generation, opened_at="2026-01-01T00:00:00Z")  # fmt: skip
    code, rows, _ = told("anchors")

    assert code == 0
    assert [(row["patients"], row["alpha_left"]) for row in rows] == [(40, 0.025), (80, 0.0125)]
    assert [row["decisions_left"] for row in rows] == [0, 3]
