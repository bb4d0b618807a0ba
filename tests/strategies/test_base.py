"""Base models: fitted, imported with their own head, written, read and refused."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from safetensors.torch import save_file
from torch import nn

from strategies.base import base_digest, fit_base, import_base, load_base
from strategies.families import load_backbone
from strategies.predictor import Predictor


class Cells:
    """Generated images of two classes that differ in the side that is bright; every third is grey."""

    def __init__(self, n: int, seed: int, factor: float = 1.0) -> None:
        draw = np.random.default_rng(seed)
        self.label = draw.integers(0, 2, n)
        self.patient = np.array([f"p{i}" for i in range(n)])
        self.domain = np.array(["home"] * n)
        self._images = (draw.uniform(0, 60, (n, 40, 40, 3)) * factor).astype(np.float32)
        for image, label in zip(self._images, self.label, strict=True):
            image[:20] += 180 * factor * label
            image[20:] += 180 * factor * (1 - label)

    def __len__(self) -> int:
        return len(self.label)

    def image(self, i: int) -> NDArray[np.float32]:
        return self._images[i, ..., 0] if i % 3 == 0 else self._images[i]


def accuracy(probability: NDArray[np.float32], label: NDArray[np.integer]) -> float:
    return float(np.mean(probability.argmax(axis=1) == label))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base fitted on images that are easy to tell apart."""
    torch.set_num_threads(1)
    out = tmp_path_factory.mktemp("fit") / "base"
    fit_base(Cells(32, 0), Cells(8, 1), ("down", "up"), epochs=2, seed=3, out=out, measure=accuracy)
    return out


def test_same_seed_same_base(base: Path, tmp_path: Path) -> None:
    """A base can be made again: the seed decides every weight, and the digest says so."""
    seen: list[tuple[str, int, int]] = []
    answer = fit_base(
        Cells(32, 0),
        Cells(8, 1),
        ("down", "up"),
        epochs=2,
        seed=3,
        out=tmp_path / "again",
        measure=accuracy,
        progress=lambda what, done, of: seen.append((what, done, of)),
    )
    assert base_digest(tmp_path / "again") == base_digest(base)
    assert seen[-1] == ("epochs", 2, 2)
    assert (answer["n_train"], answer["n_val"], answer["backbone"]) == (32, 8, "mobilenet_v3_small")


def test_digest_covers_weights_preprocessing_and_classes(base: Path, tmp_path: Path) -> None:
    """An adapter is bound to all that its base is: any change of it is another base."""
    digests = {base_digest(base)}
    for i, change in enumerate(({"classes": ["up", "down"]}, {"preprocessing": {"size": 64}})):
        copied = shutil.copytree(base, tmp_path / str(i))
        record = json.loads((copied / "base.json").read_text())
        for key, value in change.items():
            record[key] = record[key] | value if isinstance(value, dict) else value
        (copied / "base.json").write_text(json.dumps(record))
        digests.add(base_digest(copied))
    copied = shutil.copytree(base, tmp_path / "weights")
    raw = bytearray((copied / "model.safetensors").read_bytes())
    raw[-1] ^= 1
    (copied / "model.safetensors").write_bytes(raw)
    digests.add(base_digest(copied))
    assert len(digests) == 4
    (base / "split.json").write_text("{}")
    assert base_digest(base) in digests


def test_high_intensities_are_scaled_by_the_image(tmp_path: Path) -> None:
    """Twelve-bit images are not clipped to white: the base's preprocessing scales by the image's own range."""
    many = Cells(16, 0, factor=17.0)
    fit_base(many, many, ("down", "up"), epochs=1, seed=0, out=tmp_path / "base", measure=accuracy)
    predictor = Predictor.load(tmp_path / "base")
    assert predictor.preprocessing.scale == "minmax"
    assert predictor.prepare(many.image(1)).std() > 0.5


def test_unlabelled_cases_are_left_out(tmp_path: Path) -> None:
    """A case without a label is neither an error nor a negative."""
    some = Cells(20, 0)
    some.label = np.where(np.arange(20) < 4, -1, some.label)
    answer = fit_base(some, Cells(8, 1), ("down", "up"), epochs=1, seed=0, out=tmp_path / "base", measure=accuracy)
    assert answer["n_train"] == 16


def test_what_can_not_be_learnt_from_is_refused(tmp_path: Path) -> None:
    """One class only, a class without cases, no case to select on, and a taken folder each get one sentence."""
    some, one = Cells(8, 0), Cells(8, 0)
    one.label[:] = 1
    none = Cells(8, 0)
    none.label[:] = -1
    out = tmp_path / "base"
    for train, develop, classes, says in (
        (one, some, ("down", "up"), "at least two classes"),
        (some, some, ("down", "up", "left"), "labelled left"),
        (some, none, ("down", "up"), "best epoch"),
    ):
        with pytest.raises(ValueError, match=says):
            fit_base(train, develop, classes, epochs=1, seed=0, out=out, measure=accuracy)
    out.mkdir()
    (out / "precious").touch()
    with pytest.raises(ValueError, match="there already"):
        fit_base(some, some, ("down", "up"), epochs=1, seed=0, out=out, measure=accuracy)


def test_a_deployed_classifier_is_imported_with_its_head(tmp_path: Path) -> None:
    """A model that is in service becomes a base whose answers are the deployed model's own."""
    torch.manual_seed(0)
    backbone = load_backbone("mobilenet_v3_small")
    head = nn.Sequential(nn.Linear(576, 8), nn.Hardswish(), nn.Linear(8, 2))
    weights = backbone.module.network.state_dict() | {
        "classifier.0.weight": head[0].weight,
        "classifier.0.bias": head[0].bias,
        "classifier.3.weight": head[2].weight,
        "classifier.3.bias": head[2].bias,
    }
    file = tmp_path / "mobilenet_v3_small_deployed.safetensors"
    save_file(weights, file)
    digest = import_base(str(file), ("normal", "pneumonia"), tmp_path / "base", size=64)
    images = torch.rand(2, 3, 64, 64)
    model = load_base(tmp_path / "base")
    with torch.inference_mode():
        assert torch.equal(model(images), head(backbone.module.eval()(images)))
    assert model.classes == ("normal", "pneumonia")
    assert model.origin.preprocessing.size == 64
    assert digest == base_digest(tmp_path / "base")
    with pytest.raises(ValueError, match="2 outputs, but 3 classes"):
        import_base(str(file), ("a", "b", "c"), tmp_path / "other")
    assert "/" not in json.loads((tmp_path / "base" / "base.json").read_text())["made"]["spec"]


def test_a_folder_that_is_no_base_is_refused(base: Path, tmp_path: Path) -> None:
    """No base.json, one of a newer format, and a truncated head each get one sentence."""
    with pytest.raises(ValueError, match="is no base model"):
        load_base(tmp_path)
    newer = shutil.copytree(base, tmp_path / "newer")
    record = json.loads((newer / "base.json").read_text())
    (newer / "base.json").write_text(json.dumps(record | {"format": 99}))
    with pytest.raises(ValueError, match="format 99"):
        load_base(newer)
    broken = shutil.copytree(base, tmp_path / "broken")
    (broken / "head.safetensors").write_bytes((broken / "head.safetensors").read_bytes()[:-9])
    with pytest.raises(ValueError, match="can't be read"):
        load_base(broken)
