"""Bad input gets one clear sentence and the exit code of the contract, and nothing is lost."""

from __future__ import annotations

import csv
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import smears
import torch
import vendors
from chapters import rows
from PIL import Image

from agent.cli import main
from agent.versions import registry
from agent.workspace import Workspace, exclusive

COUNTED = ("cases", "labels", "versions", "observations", "activations", "alarms")


@pytest.fixture
def site(chapters, tmp_path) -> Path:
    """v1 is judged; v0 is live."""
    return chapters.open("judged", tmp_path / "site").root


@pytest.fixture
def call(capsys):
    """(exit code, lines on standard error) of one command."""

    def run(*words: object) -> tuple[int, list[str]]:
        code = main([str(word) for word in words])
        return code, [line for line in capsys.readouterr().err.splitlines() if line.startswith("homeostat: ")]

    return run


def counts(root: Path) -> dict[str, int]:
    workspace = Workspace(root)
    found = {table: rows(workspace, f"SELECT count(*) AS n FROM {table}")[0]["n"] for table in COUNTED}
    workspace.store.close()
    return found


def listed(folder: Path, **column: object) -> Path:
    """A folder of three good cases, one of them spoilt: its cells are replaced."""
    smears.write(folder, smears.HOME, 3, 40)
    with (folder / "cases.csv").open() as file:
        cases = list(csv.DictReader(file))
    cases[1].update({name: str(value) for name, value in column.items()})
    return relisted(folder, cases)


def relisted(folder: Path, cases: list[dict]) -> Path:
    with (folder / "cases.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(cases[0]))
        writer.writeheader()
        writer.writerows(cases)
    return folder


def second_file(folder: Path) -> Path:
    return sorted((folder / "images").iterdir())[1]


def spoil_text(folder: Path) -> None:
    second_file(folder).write_bytes(b"this is no image")


def spoil_truncated(folder: Path) -> None:
    file = second_file(folder)
    file.write_bytes(file.read_bytes()[:-400])


def spoil_dicom(folder: Path) -> None:
    second_file(folder).write_bytes(b"\0" * 128 + b"DICM" + b"\x02\x00\x10\x00UI\x14\x00")


def spoil_nan(folder: Path) -> None:
    with second_file(folder).open("wb") as file:
        np.save(file, np.full((16, 16), np.nan, np.float32))


def spoil_huge(folder: Path) -> None:
    Image.new("1", (20_000, 20_000)).save(second_file(folder), "PNG")


def spoil_pixel(folder: Path) -> None:
    Image.new("L", (1, 1), 128).save(second_file(folder), "PNG")


def spoil_gone(folder: Path) -> None:
    second_file(folder).unlink()


@pytest.mark.parametrize(
    "spoil", [spoil_text, spoil_truncated, spoil_dicom, spoil_nan, spoil_huge, spoil_pixel, spoil_gone]
)
def test_a_case_that_cannot_be_read_is_quarantined_and_the_others_are_taken(site, call, tmp_path, spoil):
    """One sentence names the file and the line of the list; the reason lies beside the file in quarantine/."""
    folder = listed(tmp_path / "cases")
    spoil(folder)
    before = counts(site)
    code, said = call("feed", folder, "--workspace", site)
    assert code == 0 and len(said) == 1 and "line 3 of cases.csv" in said[0]
    assert counts(site)["cases"] == before["cases"] + 2
    (file,) = site.joinpath("quarantine").glob("*.reason.json")
    kept = json.loads(file.read_text())
    assert any(reason in said[0] for reason in [kept["reason"], *kept.get("lines", ())])


@pytest.mark.parametrize(
    ("column", "says"),
    [
        ({"case_id": f"{smears.HOME}-40-0000"}, "case id"),
        ({"file": "../../../etc/passwd"}, "file"),
    ],
)
def test_a_line_that_is_no_case_is_refused_alone(site, call, tmp_path, column, says):
    """Doubled ids, paths that climb out of the folder: the other lines are taken."""
    before = counts(site)
    code, said = call("feed", listed(tmp_path / "cases", **column), "--workspace", site)
    assert code == 0 and len(said) == 1 and says.replace("_", " ") in said[0].replace("_", " ")
    assert counts(site)["cases"] == before["cases"] + 2


def test_a_label_of_an_unknown_class_leaves_the_case_without_one(site, call, tmp_path):
    """The image is worth having, and the answer tells how many labels were left out."""
    before = counts(site)
    code, _ = call("feed", listed(tmp_path / "cases", label="basophil"), "--workspace", site)
    after = counts(site)
    assert code == 0 and after["cases"] == before["cases"] + 3 and after["labels"] == before["labels"] + 2


def wrong_column(folder: Path) -> None:
    text = (folder / "cases.csv").read_text()
    (folder / "cases.csv").write_text(text.replace("file,case_id", "picture,case_id", 1))


def empty(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def no_folder(folder: Path) -> None:
    shutil.rmtree(folder)


@pytest.mark.parametrize("spoil", [wrong_column, empty, no_folder])
def test_a_folder_that_is_no_data_folder_is_refused_whole(site, call, tmp_path, spoil):
    """Exit code 2 and one sentence that names it."""
    folder = listed(tmp_path / "cases")
    spoil(folder)
    before = counts(site)
    code, said = call("feed", folder, "--workspace", site)
    assert code == 2 and len(said) == 1 and "cases" in said[0]
    assert counts(site) == before


def labels_file(path: Path, *lines: str) -> Path:
    path.write_text("\n".join(["case_id,label", *lines]) + "\n")
    return path


def test_labels_for_unknown_cases_and_second_opinions_are_told_line_by_line(site, call, tmp_path):
    """What can be joined is joined; the first label stays."""
    known = rows(Workspace(site), "SELECT case_id, value FROM labels LIMIT 1")[0]
    other = next(name for name in smears.CLASSES if name != known["value"])
    file = labels_file(tmp_path / "l.csv", "nobody,monocyte", f"{known['case_id']},{other}",
                       f"{smears.HOME}-2-0001,monocyte", f"{smears.HOME}-2-0002,basophil")  # fmt: skip
    before = counts(site)
    code, said = call("labels", "import", file, "--workspace", site)
    assert code == 0 and len(said) == 3
    assert counts(site)["labels"] == before["labels"] + 1
    assert rows(Workspace(site), "SELECT value FROM labels WHERE case_id = :c", c=known["case_id"])[0] == {
        "value": known["value"]
    }


def one_class(folder: Path) -> None:
    with (folder / "cases.csv").open() as file:
        relisted(folder, [{**row, "label": "monocyte"} for row in csv.DictReader(file)])


def no_labels(folder: Path) -> None:
    with (folder / "cases.csv").open() as file:
        relisted(folder, [{**row, "label": ""} for row in csv.DictReader(file)])


@pytest.mark.parametrize(("spoil", "says"), [(one_class, "one class only"), (no_labels, "label"), (empty, "cases")])
def test_a_base_is_not_fitted_on_what_cannot_teach(call, tmp_path, spoil, says):
    """Nothing is written where nothing can be learnt."""
    folder = smears.write(tmp_path / "cases", smears.HOME, 12, 41)
    spoil(folder)
    code, said = call("fit", "--data", folder, "--task", "classification", "--out", tmp_path / "base")
    assert code == 2 and len(said) == 1 and says in said[0]
    assert not (tmp_path / "base").exists()


def test_a_base_takes_images_of_the_side_that_was_asked_for(call, tmp_path):
    """A size that the architecture can't take is one sentence, and nothing is written; another is kept in the base."""
    folder, base = smears.write(tmp_path / "cases", smears.HOME, 30, 41), tmp_path / "base"
    asked = ("fit", "--data", folder, "--task", "classification", "--out", base, "--epochs", "1", "--size")
    for size in ("100", "0", "-4"):
        code, said = call(*asked, size, "--backbone", "vit_tiny_patch16_224")
        assert code == 2 and len(said) == 1 and f"no images of {size} pixels a side" in said[0], said
        assert not base.exists()
    code, said = call(*asked, "48", "--backbone", "mobilenet_v3_small")
    assert code == 0, said
    assert json.loads((base / "base.json").read_text())["preprocessing"]["size"] == 48


def test_a_model_that_cannot_be_deployed_is_refused_before_a_workspace_is_made(call, tmp_path):
    """A pickle with a declaration, and a folder that is no model, are one sentence each."""
    folder, vendor = smears.write(tmp_path / "cases", smears.HOME, 6, 41), tmp_path / "vendor"
    vendor.mkdir()
    torch.save(vendors.Halves(), vendor / "model.ts")
    vendors.declare(vendor / "model.ts")
    for model, says in ((vendor, "model.ts is a pickle, which can run code"), (folder, "cases is no base model")):
        code, said = call("init", "--model", model, "--reference", folder, "--workspace", tmp_path / "new")
        assert code == 2 and len(said) == 1 and says in said[0], said
        assert not (tmp_path / "new").exists()


def test_five_errors_of_a_config_are_one_sentence(site, call, tmp_path):
    """A workspace isn't made with them either, and none is half-made."""
    config = tmp_path / "site.yaml"
    config.write_text("plan: {mode: auto, alpha: 2, power: 7}\nmodel: {task: guess}\nalert: {}\n")
    before = sorted(tmp_path.iterdir())
    code, said = call("init", "--model", site / "base", "--reference", site, "--config", config,
                      "--workspace", tmp_path / "new")  # fmt: skip
    assert code == 2 and len(said) == 1 and "5 errors" in said[0]
    assert sorted(tmp_path.iterdir()) == before


def test_a_second_daemon_is_refused(site, call):
    """Whoever holds the lock does the work."""
    with exclusive(site / ".lock", "taken"):
        code, said = call("run", "--workspace", site)
    assert code == 2 and len(said) == 1 and "another homeostat works" in said[0]


def test_there_is_nothing_to_roll_back_to_from_v0(site, call):
    """Exit code 1: the question was answered, and the answer is no."""
    before = counts(site)
    code, said = call("rollback", "--by", "ana", "--reason", "why not", "--workspace", site)
    assert code == 1 and len(said) == 1 and "nothing to roll back to" in said[0]
    assert counts(site) == before


def test_a_refused_version_cannot_be_approved(site, call):
    """A refusal is final."""
    assert call("reject", "v1", "--by", "ana", "--reason", "not convinced", "--workspace", site)[0] == 0
    code, said = call("approve", "v1", "--by", "ben", "--reason", "I am", "--workspace", site)
    assert code == 1 and len(said) == 1 and "rejected" in said[0]


def test_a_bundle_with_a_flipped_byte_never_goes_live(site, call):
    """It is told which file; the version before goes on answering."""
    assert call("approve", "v1", "--by", "ana", "--reason", "good", "--workspace", site)[0] == 0
    file = site / "versions" / "v1" / "head.safetensors"
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 1
    file.chmod(0o600)
    file.write_bytes(content)
    code, said = call("promote", "v1", "--by", "ana", "--reason", "good", "--workspace", site)
    assert code == 1 and len(said) == 1 and "head.safetensors" in said[0]
    image = next(path for path in site.joinpath("objects").glob("*/*") if path.is_file())
    assert call("predict", image, "--version", "v1", "--workspace", site)[0] == 2
    assert call("predict", image, "--workspace", site) == (0, [])
    assert call("verify", "--workspace", site)[0] == 1
    with Workspace(site).store.read() as connection:
        assert registry.live(connection)["version"] == "v0"


def test_an_adapter_is_not_laid_on_another_base(site, call):
    """The version is bound to the bytes of the base that it was made for."""
    for file in (site / "base").iterdir():
        if file.name == "head.safetensors":
            content = bytearray(file.read_bytes())
            content[-1] ^= 1
            file.chmod(0o600)
            file.write_bytes(content)
    image = next(path for path in site.joinpath("objects").glob("*/*") if path.is_file())
    code, said = call("predict", image, "--workspace", site)
    assert code == 2 and len(said) == 1 and "another base" in said[0]


def test_a_folder_that_is_no_workspace_is_named_with_the_way_out(call, tmp_path):
    """Every command of the deployment says the same."""
    for command in (["status"], ["run"], ["update"], ["versions"]):
        code, said = call(*command, "--workspace", tmp_path)
        assert code == 2 and len(said) == 1 and "homeostat init" in said[0]
