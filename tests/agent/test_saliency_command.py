"""saliency as a command: a shortcut that balanced accuracy can't show is flagged, a healthy version is not."""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from deployed import PASSED
from PIL import Image

from agent.cli import main
from agent.clock import rfc3339
from agent.deploy import fit, init
from agent.store import insert
from agent.versions import bundle, pointer, registry
from agent.workspace import Workspace
from benchmarks.saliency import SIDE, drawn, marked

Told = Callable[..., tuple[int, Any, str]]


def fitted(data: Path, out: Path, seed: int, epochs: int) -> Path:
    fit(data, out, where=(), backbone="test_resnet", epochs=epochs, seed=seed, progress=lambda *_: None)
    return out


def promoted(workspace: Workspace, trained: Path, parts: Path) -> str:
    """A version that is this base's weights, whole."""
    from safetensors.torch import save_file

    from strategies.base import load_base
    from strategies.predictor import Predictor, write_golden

    parts.mkdir()
    save_file(load_base(trained).backbone.state_dict(), parts / "weights.safetensors")
    shutil.copy(trained / "head.safetensors", parts)
    write_golden(Predictor.load(workspace.base, parts), parts)
    with workspace.store.transaction() as connection:
        now = registry.get(connection, registry.live(connection)["version"])
        version = registry.create(
            connection, recipe="full_finetune", parent=now["id"], job=None, plan_digest="plan", by="agent",
            at=workspace.now(),
        )  # fmt: skip
    digest = bundle.write(workspace, version, parts, {"parent": now["id"], "base_digest": now["base_digest"]})
    with workspace.store.transaction() as connection:
        registry.complete(connection, version, digest=digest, by="agent", reason="trained", at=workspace.now())
        for gate, role, verdict, n, needed in PASSED:
            insert(
                connection, "verdicts", version=version, gate=gate, role=role, verdict=verdict, n=n, needed=needed,
                before=0.5, after=0.9, low=0.3, high=0.5, margin=0.05, says="as it is", at=rfc3339(workspace.now()),
            )  # fmt: skip
    registry.approve(workspace, version, by="ana", reason="seen")
    registry.promote(workspace, version, by="ana", reason="seen")
    pointer.publish(workspace)
    return version


def site_of(root: Path, patients: int, epochs: int) -> tuple[Workspace, Path]:
    """A workspace around a base of honest images, and the base."""
    home = drawn(root / "home", patients, 1)
    base = fitted(home, root / "v0", 0, epochs)
    init(root / "site", base, home, where=(), config=None, progress=lambda *_: None)
    return Workspace(root / "site"), base


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """v0 and v1, which has its very weights; `new` has images of 30 other patients with masks."""
    root = tmp_path_factory.mktemp("saliency")
    workspace, base = site_of(root, 40, 2)
    assert promoted(workspace, base, root / "parts") == "v1"
    drawn(root / "new", 30, 4)
    return root


@pytest.fixture(scope="module")
def history(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """v0 of honest images; v1 learnt from others of them; v2 from images on which a marker gives the class away."""
    root = tmp_path_factory.mktemp("history")
    workspace, _ = site_of(root, 120, 14)
    honest = fitted(drawn(root / "more", 120, 2), root / "v1", 1, 14)
    ruled = fitted(marked(drawn(root / "unruled", 120, 3, telling=0.3), root / "ruled"), root / "v2", 2, 14)
    assert [promoted(workspace, made, root / f"parts-{made.name}") for made in (honest, ruled)] == ["v1", "v2"]
    marked(drawn(root / "plain", 60, 4), root / "new")
    return root


@pytest.fixture
def told(capsys: pytest.CaptureFixture[str]) -> Told:
    """Runs the command with --json on a folder beside a site: exit code, value, and what standard error says."""

    def run(data: Path, *argv: str, root: Path | None = None) -> tuple[int, Any, str]:
        code = main(["saliency", str(data), "--workspace", str((root or data.parent) / "site"), "--json", *argv])
        out, err = capsys.readouterr()
        return code, json.loads(out) if out else None, err

    return run


@pytest.mark.slow
def test_a_shortcut_is_flagged_while_balanced_accuracy_holds(history: Path, told: Told) -> None:
    """On images with the marker all three versions are right; the one that goes by the marker looks away from the
    blob, and the one that doesn't is not accused."""
    code, rows, _ = told(history / "new")
    v0, v1, v2 = rows
    assert code == 1
    assert [row["version"] for row in rows] == ["v0", "v1", "v2"]
    assert [row["shortcut"] for row in rows] == [None, False, True]
    assert min(row["balanced_accuracy"] for row in rows) > 0.9
    assert min(v0["pointing_game"], v1["pointing_game"]) > 0.5 > 0.3 > v2["pointing_game"]
    assert v2["iou"] < min(v0["iou"], v1["iou"]) - 0.1
    assert v2["says"].startswith("v2 looks elsewhere than v0")


@pytest.mark.slow
def test_the_other_method_says_the_same(history: Path, told: Told) -> None:
    """What is said of a version does not hang on how it was asked; and versions may be named, in any order."""
    code, rows, _ = told(history / "new", "--method", "occlusion", "--version", "v1", "--version", "champion")
    assert (code, [row["version"] for row in rows], rows[1]["beside"]) == (1, ["v1", "v2"], "v1")
    assert rows[1]["shortcut"] is True and rows[0]["pointing_game"] > rows[1]["pointing_game"] + 0.3


def test_every_version_that_was_live_is_told_of(site: Path, told: Told) -> None:
    """What the contract names, in its ranges; a version with the same weights looks at the same places."""
    code, rows, err = told(site / "new")
    assert (code, [row["version"] for row in rows], [row["shortcut"] for row in rows]) == (
        0,
        ["v0", "v1"],
        [None, False],
    )
    wanted = {"version", "method", "n", "patients", "pointing_game", "iou", "chance", "centre", "balanced_accuracy",
              "auroc", "intervals", "beside", "shortcut", "says"}  # fmt: skip
    for row in rows:
        assert row.keys() >= wanted and (row["n"], row["patients"], row["labelled"]) == (30, 30, 30)
        for name in ("pointing_game", "iou", "balanced_accuracy"):
            low, high = row["intervals"][name]
            assert 0 <= low <= row[name] <= high <= 1
        assert 0.03 < row["chance"]["iou"] < row["chance"]["pointing_game"] < 0.2
    alike = [{k: v for k, v in row.items() if k not in ("version", "beside", "shortcut", "says")} for row in rows]
    assert alike[0] == alike[1]
    assert "drawn-" not in json.dumps(rows) + err


def test_every_method_can_be_asked_for() -> None:
    """The choices of the command, which loads no torch to name them, are the methods that there are."""
    from agent.commands.table import COMMANDS
    from strategies.saliency import ATTRIBUTIONS

    arguments = next(command.arguments for command in COMMANDS if command.name == "saliency")
    choices = next(options["choices"] for flags, options in arguments if "--method" in flags)
    assert choices == tuple(kind.name for kind in ATTRIBUTIONS)


def test_whom_it_learnt_from_is_left_out(site: Path, told: Told) -> None:
    """Of the folder that the base was fitted on, half the patients taught it: they are counted, and not looked at."""
    _, rows, _ = told(site / "home", "--version", "v0")
    assert (rows[0]["left_out"], rows[0]["patients"]) == (20, 20)


def test_boxes_serve_as_masks(site: Path, told: Told, tmp_path: Path) -> None:
    """A box and a mask of the same pixels have the same figures."""
    folders = {kind: shutil.copytree(site / "new", tmp_path / kind) for kind in ("mask", "boxes")}
    found = {}
    for kind, folder in folders.items():
        rows = list(csv.DictReader((folder / "cases.csv").open()))
        for i, row in enumerate(rows):
            if kind == "boxes":
                box = [{"label": "lesion", "box": [8 + i, 20, 28 + i, 30]}]
                (folder / f"{i}.json").write_text(json.dumps(box))
                row["boxes"] = f"{i}.json"
                del row["mask"]
            else:
                mask = np.zeros((SIDE, SIDE), np.uint8)
                mask[20:30, 8 + i : 28 + i] = 1
                Image.fromarray(mask).save(folder / row["mask"])
        write(folder, rows)
        found[kind] = told(folder, "--version", "v0", root=site)[1][0]
    assert found["mask"] == found["boxes"]


def test_bad_files_cost_themselves_alone(site: Path, told: Told, tmp_path: Path) -> None:
    """A mask of another size, one that is no image and one that is empty leave their case without a mask; an image
    that can't be read is left out. All but the empty one are counted, and nobody is named."""
    folder = shutil.copytree(site / "new", tmp_path / "new")
    Image.fromarray(np.ones((9, 9), np.uint8)).save(folder / "images/0_mask.png")
    (folder / "images/1_mask.png").write_bytes(b"no image")
    Image.fromarray(np.zeros((SIDE, SIDE), np.uint8)).save(folder / "images/2_mask.png")
    (folder / "images/3.png").write_bytes(b"no image either")
    code, rows, err = told(folder, root=site)
    assert (code, rows[0]["n"], rows[0]["labelled"], rows[0]["unreadable"]) == (0, 26, 29, 3)
    assert "drawn-" not in err


def test_few_masks_are_no_evidence(site: Path, told: Told, tmp_path: Path) -> None:
    """With eleven of them nothing is said of a version beside another: exit 3, and how many would do."""
    folder = shutil.copytree(site / "new", tmp_path / "new")
    rows = list(csv.DictReader((folder / "cases.csv").open()))
    write(folder, [row | ({"mask": ""} if i >= 11 else {}) for i, row in enumerate(rows)])
    code, told_rows, _ = told(folder, root=site)
    assert (code, told_rows[1]["shortcut"], told_rows[1]["patients"]) == (3, None, 11)
    assert "would decide" in told_rows[1]["says"]


@pytest.mark.parametrize(
    ("change", "argv", "says"),
    [
        ({"mask": ""}, (), "fill the column 'mask' or 'boxes'"),
        ({"label": "of another model"}, (), "of the classes benign, malignant"),
        ({}, ("--version", "v9"), "v9"),
        ({}, ("--out", "nowhere/page.html"), "can't be written"),
    ],
)
def test_what_can_not_be_looked_at_is_refused(
    change: dict[str, str], argv: tuple[str, ...], says: str, site: Path, told: Told, tmp_path: Path
) -> None:
    """One sentence that names what is missing, and exit 2."""
    folder = shutil.copytree(site / "new", tmp_path / "new")
    write(folder, [row | change for row in csv.DictReader((folder / "cases.csv").open())])
    code, value, err = told(folder, *argv, root=site)
    assert (code, value) == (2, None)
    assert says in err and err.count("\n") == 1


@pytest.mark.slow
def test_a_model_of_masks_is_refused(site: Path, told: Told, tmp_path: Path) -> None:
    """Its answer says itself where it looks."""
    base = tmp_path / "masks"
    fit(site / "new", base, where=(), task="segmentation", backbone="monai:unet", size=32, epochs=1, seed=0,
        progress=lambda *_: None)  # fmt: skip
    init(tmp_path / "site", base, site / "new", where=(), config=None, progress=lambda *_: None)
    code, _, err = told(site / "new", root=tmp_path)
    assert code == 2 and "task is segmentation" in err and err.count("\n") == 1


def test_the_page_needs_nothing_else_and_names_nobody(site: Path, told: Told, tmp_path: Path) -> None:
    """Every picture is in the file; no patient, case or file name is."""
    told(site / "new", "--out", str(tmp_path / "page.html"))
    page = (tmp_path / "page.html").read_text()
    assert page.count("data:image/png;base64,") == 8 * 3  # the image, and a map of each version
    assert "http" not in page and "drawn-" not in page and "images/" not in page
    assert "v1 beside v0" in page


def write(folder: Path, rows: list[dict[str, str]]) -> None:
    with (folder / "cases.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
