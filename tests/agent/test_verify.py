"""Verify finds whatever was changed behind the agent's back, changes nothing itself, and travels with the workspace."""

from __future__ import annotations

import json
import shutil
import sqlite3
from contextlib import closing
from hashlib import sha256

import pytest
from deployed import approved, candidate, deploy, held, promoted

from agent.clock import rfc3339
from agent.store import insert
from agent.versions import registry, verify
from agent.workspace import Workspace


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A workspace with some history: v1 went live and back, v2 is live, one version of every other kind, one image."""
    workspace = deploy(tmp_path_factory.mktemp("whole") / "site")
    promoted(workspace)
    registry.rollback(workspace, by="ana", reason="worse")
    promoted(workspace)
    approved(workspace), candidate(workspace), held(workspace)
    registry.reject(workspace, candidate(workspace), by="ana", reason="no")
    image = b"pixels"
    uri = f"objects/{sha256(image).hexdigest()[:2]}/{sha256(image).hexdigest()}"
    workspace.path(uri).parent.mkdir(parents=True)
    workspace.path(uri).write_bytes(image)
    with workspace.store.transaction() as connection:
        insert(connection, "patients", patient_key="p", split="judge", first_seen=rfc3339(workspace.now()))
        insert(connection, "cases", case_id="c", origin="feed", state="pending", patient_key="p", facts="{}",
               received_at=rfc3339(workspace.now()))  # fmt: skip
        insert(connection, "inputs", case_id="c", role="image", uri=uri, digest=sha256(image).hexdigest(),
               media_type="image/png")  # fmt: skip
    workspace.store.close()
    return workspace.root


@pytest.fixture
def workspace(whole, tmp_path):
    """A copy of it at another place."""
    shutil.copytree(whole, tmp_path / "elsewhere")
    return Workspace(tmp_path / "elsewhere")


def test_a_copied_workspace_verifies(workspace):
    """No absolute path is inside: copied or moved whole, everything still agrees."""
    assert verify.problems(workspace) == []
    assert verify.notes(workspace) == []


def test_it_changes_nothing(workspace):
    """Every file has the same bytes and the same time afterwards, and none is left behind."""

    def files():
        return {p: (p.read_bytes(), p.stat().st_mtime_ns) for p in workspace.root.rglob("*") if p.is_file()}

    before = files()
    verify.problems(workspace)
    workspace.store.close()
    assert files() == before


def overwrite(path, content: bytes) -> None:
    path.chmod(0o644)
    path.write_bytes(content)


def flip(path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    overwrite(path, bytes(content))


def edit(path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def sql(root, statement: str) -> None:
    with closing(sqlite3.connect(root / "homeostat.db", isolation_level=None)) as connection:
        assert connection.execute(statement).rowcount == 1


def misname(root) -> None:
    pointer = root / "live.json"
    pointer.write_text(pointer.read_text().replace('"v2"', '"v0"'))


FILES = {
    "a byte of a bundle": (lambda r: flip(r / "versions/v2/head.safetensors"), "versions/v2"),
    "a byte of a retired bundle": (lambda r: flip(r / "versions/v0/thresholds.json"), "versions/v0"),
    "sums made to match": (lambda r: resum(r / "versions/v2"), "versions/v2"),
    "a bundle is gone": (lambda r: shutil.rmtree(r / "versions/v3"), "versions/v3"),
    "a file slipped in": (lambda r: (r / "versions/v2/weights.safetensors").write_bytes(b"x"), "versions/v2"),
    "other verdicts": (lambda r: (r / "versions/v2/verdicts.json").write_text("[]"), "versions/v2/verdicts.json"),
    "a byte of the base": (lambda r: flip(r / "base/model.safetensors"), "base"),
    "another file in the base": (lambda r: (r / "base/x.json").write_text("{}"), "base"),
    "the base is gone": (lambda r: shutil.rmtree(r / "base"), "base"),
    "the pointer is gone": (lambda r: (r / "live.json").unlink(), "live.json"),
    "the pointer is torn": (lambda r: (r / "live.json").write_text("{"), "live.json"),
    "the pointer names another version": (misname, "live.json"),
    "the pointer has another digest": (
        lambda r: edit(r / "live.json", scopes={"*": {"version": "v2", "digest": "0" * 64}}),
        "live.json",
    ),
    "the pointer has another trust": (lambda r: edit(r / "live.json", trust="suspended"), "live.json"),
    "the pointer is ahead": (lambda r: edit(r / "live.json", generation=7), "live.json"),
    "the pointer is far behind": (lambda r: edit(r / "live.json", generation=1), "live.json"),
    "an image changed": (lambda r: flip(next(p for p in (r / "objects").rglob("*") if p.is_file())), "objects/"),
    "an image gone": (lambda r: shutil.rmtree(r / "objects"), "objects/"),
}
LAST = "(SELECT max(seq) FROM journal)"
ROWS = {
    "UPDATE journal SET by = 'eve' WHERE seq = 4": "journal",
    "DELETE FROM journal WHERE seq = 4": "journal",
    f"DELETE FROM journal WHERE seq = {LAST}": "journal",
    "UPDATE journal SET body = '{' WHERE seq = 1": "journal",
    "UPDATE live SET version = 'v0'": "live",
    "UPDATE versions SET state = 'active' WHERE id = 'v3'": "versions",
    "UPDATE versions SET digest = 'x' WHERE id = 'v3'": "versions v3",
    "UPDATE activations SET version = 'v3' WHERE generation = 2": "activations",
    "DELETE FROM activations WHERE generation = 2": "activations",
    "UPDATE inputs SET uri = '../../key'": "inputs",
    "DELETE FROM patients": "cases",
}


def resum(folder) -> None:
    """What a careful forger does: changes a file and its line in the sums."""
    head = folder / "head.safetensors"
    before = sha256(head.read_bytes()).hexdigest()
    overwrite(head, b"forged")
    sums = folder / "SHA256SUMS"
    overwrite(sums, sums.read_bytes().replace(before.encode(), sha256(b"forged").hexdigest().encode()))


@pytest.mark.parametrize("what", FILES)
def test_a_changed_file_is_found_and_located(workspace, what):
    """Each file changed behind the agent's back is a problem, told at the place where it is."""
    damage, where = FILES[what]
    damage(workspace.root)
    assert_found(workspace, where)


@pytest.mark.parametrize("statement", ROWS)
def test_a_changed_row_is_found_and_located(workspace, statement):
    """So is each row that was changed with another program."""
    sql(workspace.root, statement)
    assert_found(workspace, f"homeostat.db: {ROWS[statement]}")


def test_a_live_version_that_a_required_gate_failed_is_found(workspace):
    """What is live must have passed: a verdict that says otherwise is a problem wherever it came from."""
    sql(workspace.root, "UPDATE verdicts SET verdict = 'FAIL' WHERE version = 'v2' AND gate = 'gain:new'")
    assert_found(workspace, "versions/v2")


def assert_found(workspace, where: str) -> None:
    found = verify.problems(workspace)
    assert any(problem["where"].startswith(where) for problem in found), found
    assert all(problem["what"] and str(workspace.root) not in problem["where"] for problem in found)


def test_a_damaged_database_is_a_problem_and_not_a_traceback(workspace):
    """Bytes overwritten in the middle of the file: verify says so, whatever SQLite makes of it."""
    with (workspace.root / "homeostat.db").open("r+b") as file:
        file.seek(8192)
        file.write(b"\xff" * 40960)
    assert any(problem["where"].startswith("homeostat.db") for problem in verify.problems(workspace))


def test_a_pointer_one_step_behind_is_a_note(workspace):
    """A crash between the commit and the file is no damage: it mends itself, and until then it is said."""
    live = workspace.path("live.json")
    before = live.read_bytes()
    registry.rollback(workspace, by="ana", reason="worse")
    live.write_bytes(before)
    assert verify.problems(workspace) == []
    assert "one step behind" in verify.notes(workspace)[0]
