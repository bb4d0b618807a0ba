"""import: a network that was trained elsewhere is deployed with the head that it came with."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
import vendors
from torchvision import models

from agent.demo.stage import Stage
from benchmarks.deployed import Deployed, play


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A classifier of torchvision's with two outputs, as `.npz`; drawn, and its batch norms in force."""
    torch.manual_seed(0)
    file = tmp_path_factory.mktemp("vendor") / "films.npz"
    network = models.mobilenet_v3_small(num_classes=2)
    np.savez(file, **{name: tensor.numpy() for name, tensor in network.state_dict().items()})
    return file


def test_a_published_classifier_answers_as_its_library_does(weights: Path, tmp_path: Path) -> None:
    """By the two commands: nothing is trained, and what it says of an image is what torchvision says."""
    stage, home = Stage(tmp_path / "site"), vendors.write(tmp_path / "home", "harbour", 40, 1)
    made = stage.must("import", f"mobilenet_v3_small:{weights}", "--classes", "low, high", "--size", 32,
                      "--out", tmp_path / "base")  # fmt: skip
    assert (made["classes"], made["task"], len(made["digest"])) == (["low", "high"], "classification", 64)
    began = stage.must("init", "--model", tmp_path / "base", "--reference", home)
    assert (began["live"], began["unseen"]) == ("v0", "unknown")

    from strategies.predictor import Predictor

    predictor, images = Predictor.load(tmp_path / "base"), torch.rand(3, 3, 32, 32)
    network = models.mobilenet_v3_small(num_classes=2).eval()
    network.load_state_dict({name: torch.from_numpy(array) for name, array in np.load(weights).items()})
    with torch.inference_mode():
        wanted = network(images).numpy()
    assert predictor.logits(images) == pytest.approx(wanted, abs=1e-5)
    assert predictor.preprocessing.size == 32


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("--classes", "low,middle,high"), "has 2 outputs, but 3 classes are named"),
        (("--classes", "low,,high"), "an empty or a repeated name: say one for each output"),
        (("--classes", "low,low"), "an empty or a repeated name"),
        (("--classes", "low,high", "--task", "segmentation"), "serves no segmentation"),
        (("--classes", "low,No Finding", "--task", "multilabel"), "'No Finding' can't be a finding"),
        (("--classes", "low,a|b", "--task", "multilabel"), "can't be a finding"),
        (("--classes", "low,high", "--slices", "0"), "can't be 0 slices"),
    ],
)
def test_what_does_not_fit_the_model_is_refused(
    weights: Path, tmp_path: Path, arguments: tuple[str, ...], reason: str
) -> None:
    refused = Stage(tmp_path / "site").give("import", f"mobilenet_v3_small:{weights}", *arguments,
                                            "--out", tmp_path / "base")  # fmt: skip
    assert refused.exit_code == 2 and reason in refused.value["error"]
    assert not (tmp_path / "base").exists()


def test_a_name_without_weights_or_a_file_of_something_else_is_one_sentence(tmp_path: Path) -> None:
    """Nothing is downloaded for a head that is not there, and nobody is told to unpickle."""
    (tmp_path / "odd.npz").write_bytes(b"no weights")
    stage = Stage(tmp_path / "site")
    for spec, reason in (
        ("mobilenet_v3_small", "name its weights too, mobilenet_v3_small:FILE"),
        (f"mobilenet_v3_small:{tmp_path / 'odd.npz'}", "odd.npz can't be read: it is no archive of arrays"),
    ):
        refused = stage.give("import", spec, "--classes", "low,high", "--out", tmp_path / "base")
        assert refused.exit_code == 2 and reason in refused.value["error"]
        assert "pickle" not in refused.value["error"]


def test_what_a_model_says_of_itself_is_not_overruled(tmp_path: Path) -> None:
    """The other order of classes would turn every answer around."""
    (tmp_path / "vendor").mkdir()
    vendor = vendors.declare(vendors.scripted(vendors.Halves(), tmp_path / "vendor" / "classifier.pt"))
    turned = ",".join(reversed(vendors.CLASSES))
    stage = Stage(tmp_path / "site")
    for other in (("--classes", turned), ("--classes", ",".join(vendors.CLASSES), "--task", "multilabel")):
        refused = stage.give("import", vendor, *other, "--out", tmp_path / "base")
        assert (
            refused.exit_code == 2 and "says itself that it is a classification of low, high" in refused.value["error"]
        )
    assert stage.must("import", vendor, "--classes", ",".join(vendors.CLASSES), "--out", tmp_path / "base")


def test_a_network_of_volumes_is_imported_with_its_slices(tmp_path: Path) -> None:
    """Without them it is refused, and nothing is left of a workspace that could not be."""
    from strategies.families import load_backbone

    torch.manual_seed(0)
    load_backbone("monai:unet3d").save(tmp_path / "net")
    classes = ",".join(["background", *(f"organ {i}" for i in range(1, 16))])
    asked = ("import", tmp_path / "net", "--classes", classes, "--task", "segmentation", "--size", 16)
    stage = Stage(tmp_path / "site")
    refused = stage.give(*asked, "--out", tmp_path / "base")
    assert refused.exit_code == 2 and "takes no images" in refused.value["error"]
    assert stage.must(*asked, "--slices", 8, "--out", tmp_path / "base")["task"] == "segmentation"


def test_a_deployed_model_is_watched_at_home_and_elsewhere(tmp_path: Path) -> None:
    """The benchmark on a vendor's classifier: no alarm at home, one soon at a site where it is right less often."""
    vendors.write(tmp_path / "grey", "harbour", 160, 1)
    there = vendors.write(tmp_path / "hillside", "hillside", 60, 3, tilt=vendors.TILT)
    with (there / "cases.csv").open() as file, (tmp_path / "grey" / "cases.csv").open("a", newline="") as out:
        csv.writer(out).writerows([*csv.reader(file)][1:])
    for image in there.glob("*.png"):
        shutil.copy(image, tmp_path / "grey")
    (tmp_path / "models").mkdir()
    vendors.declare(vendors.scripted(vendors.Halves(), tmp_path / "models" / "classifier.pt"))
    one = Deployed("halves", "{models}", "grey", "harbour", "hillside", vendors.CLASSES)
    row = play(one, tmp_path, 0, tmp_path / "scratch")
    assert (row["n_home"], row["n_new"], row["false_alarms"]) == (80, 60, 0)
    assert row["home"] > 0.95 > 0.85 > row["new"]
    assert row["alarm_after_cases"] <= 40 and row["shift"] is not None
