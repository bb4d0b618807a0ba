"""Versions on disk: whole, immutable, of safe formats, bound to their base."""

from __future__ import annotations

import json
import subprocess

import pytest
from deployed import candidate, deploy, parts
from hypothesis import given
from hypothesis import strategies as st

from agent.errors import HomeostatError
from agent.versions import bundle

FACTS = {"parent": "v0", "recipe": "linear_probe", "base_digest": "b" * 64, "made": {"seed": 3, "seconds": 1.25}}


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return deploy(tmp_path_factory.mktemp("bundles") / "site")


def test_a_bundle_holds_the_parts_and_the_record_around_them(workspace):
    """The contract's files are there, and other people's tools agree with the sums."""
    digest = bundle.write(workspace, "v11", parts(workspace, "v11"), FACTS)
    folder = workspace.path("versions", "v11")

    assert {path.name for path in folder.iterdir()} == {
        "head.safetensors", "thresholds.json", "version.json", "card.md", "SHA256SUMS",
    }  # fmt: skip
    assert bundle.check(folder, digest) == []
    assert json.loads((folder / "version.json").read_text()) == {"format": 1, "version": "v11", **FACTS}
    assert "linear_probe" in (folder / "card.md").read_text()
    done = subprocess.run(["sha256sum", "--check", "--strict", "SHA256SUMS"], cwd=folder, capture_output=True)
    assert done.returncode == 0


def test_a_version_never_changes(workspace):
    """Writing the same again is harmless; writing other content under the name is refused and changes nothing."""
    made = parts(workspace, "v12")
    digest = bundle.write(workspace, "v12", made, FACTS)
    assert bundle.write(workspace, "v12", made, FACTS) == digest

    (made / "head.safetensors").write_bytes(b"other")
    with pytest.raises(HomeostatError, match="v12 is written already with other content"):
        bundle.write(workspace, "v12", made, FACTS)
    assert bundle.check(workspace.path("versions", "v12"), digest) == []


@given(place=st.integers(0, 2**16), bit=st.integers(0, 7), which=st.integers(0, 4))
def test_any_flipped_bit_is_found(workspace, place, bit, which):
    """One bit in any file of the bundle, the sums among them, and the check names what it found."""
    folder = workspace.path("versions", "v13")
    if not folder.exists():
        bundle.write(workspace, "v13", parts(workspace, "v13"), FACTS)
    digest = bundle.digest(folder)
    file = sorted(folder.iterdir())[which]
    before = file.read_bytes()
    after = bytearray(before)
    after[place % len(after)] ^= 1 << bit
    file.chmod(0o644)
    try:
        file.write_bytes(after)
        assert bundle.check(folder, digest)
    finally:
        file.write_bytes(before)
    assert bundle.check(folder, digest) == []


def test_missing_and_added_files_and_links_are_found(workspace, tmp_path):
    """A bundle is exactly the files that were written, and none of them lies elsewhere."""
    digest = bundle.write(workspace, "v14", parts(workspace, "v14"), FACTS)
    folder = workspace.path("versions", "v14")
    (folder / "extra.json").write_text("{}")
    assert bundle.check(folder, digest) == ["extra.json was added later"]
    (folder / "extra.json").unlink()

    moved = tmp_path / "head.safetensors"
    (folder / "head.safetensors").rename(moved)
    assert bundle.check(folder, digest) == ["head.safetensors is missing"]
    (folder / "head.safetensors").symlink_to(moved)
    assert bundle.check(folder, digest) == ["head.safetensors points out of the folder"]


def test_sums_that_name_files_elsewhere_are_refused(workspace):
    """SHA256SUMS comes with the bundle, so it is not trusted to stay below it."""
    bundle.write(workspace, "v15", parts(workspace, "v15"), FACTS)
    sums = workspace.path("versions", "v15", "SHA256SUMS")
    sums.chmod(0o644)
    sums.write_text(f"{'0' * 64}  ../../key\n")
    assert "../../key points out of the folder" in bundle.check(sums.parent)


@pytest.mark.parametrize("name", ["head.pt", "weights.bin", "head.pkl"])
def test_formats_that_run_code_when_loaded_are_refused(workspace, name):
    """A recipe that leaves a pickle behind makes no version."""
    made = parts(workspace, f"v16-{name}")
    (made / name).write_bytes(b"x")
    with pytest.raises(HomeostatError, match=name):
        bundle.write(workspace, f"v16{name}", made, FACTS)
    assert not workspace.path("versions", f"v16{name}").exists()


def test_verdicts_lie_beside_the_version_and_may_be_renewed(workspace):
    """A held version is judged again when labels come: its identity stays, the copy of its verdicts is replaced."""
    version = candidate(workspace)
    folder = workspace.path("versions", version)
    digest = bundle.digest(folder)
    bundle.record_verdicts(workspace, version, [{"gate": "gain:new", "verdict": "PASS"}])

    assert bundle.check(folder, digest) == []
    assert json.loads((folder / "verdicts.json").read_text()) == [{"gate": "gain:new", "verdict": "PASS"}]


def test_the_digest_of_a_base_covers_names_and_bytes_of_all_its_files(tmp_path):
    """Renaming, moving or changing any file of a base makes it another base; where it lies doesn't matter."""

    def base(name, **files):
        for file, text in files.items():
            (tmp_path / name / file.replace("__", "/")).parent.mkdir(parents=True, exist_ok=True)
            (tmp_path / name / file.replace("__", "/")).write_text(text)
        return bundle.folder_digest(tmp_path / name)

    one = base("one", weights="w", classes="ab")
    assert base("two", weights="w", classes="ab") == one
    others = [
        base("a", weights="w", classes="ba"),
        base("b", weight="w", classes="ab"),
        base("c", sub__weights="w", classes="ab"),
    ]
    assert len({one, *others}) == 4
