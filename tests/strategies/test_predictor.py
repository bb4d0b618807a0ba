"""A version as it serves: the same answer alone, in company, after a reload and in another process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from strategies.base import load_base, write_base
from strategies.families import load_backbone
from strategies.model import Classifier, Recalibrator, Thresholds
from strategies.predictor import Predictor, check_golden, write_golden

ANSWER = """
import sys, hashlib, torch
from pathlib import Path
from strategies.predictor import Predictor
batch = torch.rand(11, 3, 96, 96, generator=torch.Generator().manual_seed(0))
seen = Predictor.load(Path(sys.argv[1])).observe(batch)
print(hashlib.sha256(b"".join(array.tobytes() for array in seen)).hexdigest())
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base with random weights and three classes, its batch norms adapted to them so that signals don't vanish."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    origin = load_backbone("mobilenet_v3_small")
    for layer in origin.module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        origin.module.train()(_batch())
    out = tmp_path_factory.mktemp("model") / "base"
    write_base(Classifier(origin, nn.Linear(origin.width, 3), ("a", "b", "c")), out, {"how": "test"})
    return out


def _batch(n: int = 11) -> torch.Tensor:
    return torch.rand(n, 3, 96, 96, generator=torch.Generator().manual_seed(0))


def _adapter(base: Path, folder: Path) -> Path:
    """A peft folder over the base's own network, as a recipe writes it, with factors that do something."""
    from peft import LoraConfig, get_peft_model

    model = load_base(base)
    names = [name.removeprefix("network.") for name in model.origin.adaptable()]
    adapted = get_peft_model(model.backbone.network, LoraConfig(r=2, target_modules=names))  # type: ignore[arg-type]
    torch.manual_seed(1)
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.05)
    adapted.save_pretrained(folder, save_embedding_layers=False)
    return folder


def test_an_answer_depends_on_no_company(base: Path) -> None:
    """A case gets the same bytes alone, in any order and in any batch: observing twice can't disagree."""
    predictor, batch = Predictor.load(base), _batch()
    together = predictor.observe(batch)
    order = torch.randperm(len(batch), generator=torch.Generator().manual_seed(1))
    shuffled = predictor.observe(batch[order])
    for whole, some in zip(together, shuffled, strict=True):
        assert np.array_equal(whole[order.numpy()], some)
    alone = predictor.observe(batch[4:5])
    assert all(np.array_equal(whole[4:5], one) for whole, one in zip(together, alone, strict=True))
    assert np.allclose(together.probabilities.sum(axis=1), 1)
    assert together.probabilities.dtype == together.embedding.dtype == np.float32


def test_another_process_answers_byte_for_byte(base: Path) -> None:
    """A rolled-back version gives the bytes it gave first, whatever the number of threads of the process."""
    answers = {
        subprocess.run(
            [sys.executable, "-c", ANSWER, str(base)],
            env=os.environ | {"OMP_NUM_THREADS": threads, "PYTHONPATH": os.getcwd()},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2")
    }
    assert len(answers) == 1


def test_the_sensor_is_pinned(base: Path, tmp_path: Path) -> None:
    """An update changes what is said, never what drift is sensed with."""
    before = Predictor.load(base).observe(_batch())
    adapted = Predictor.load(base, _adapter(base, tmp_path))
    after = adapted.observe(_batch())
    assert not np.allclose(before.logits, after.logits)
    assert np.array_equal(before.embedding, after.embedding)
    assert np.array_equal(adapted.embed(_batch()), before.embedding)


@pytest.mark.parametrize("fault", ["missing", "unknown", "shape", "rank"])
def test_an_adapter_of_another_model_is_refused(base: Path, tmp_path: Path, fault: str) -> None:
    """peft would pass over missing and unknown tensors in silence; a version made of them never serves."""
    _adapter(base, tmp_path)
    file = tmp_path / "adapter_model.safetensors"
    weights = load_file(file)
    name = min(weights)
    if fault == "missing":
        weights.pop(name)
    if fault == "unknown":
        weights["base_model.model.other.lora_A.weight"] = torch.zeros(1)
    if fault == "shape":
        weights[name] = torch.zeros(3, 3)
    if fault == "rank":
        config = json.loads((tmp_path / "adapter_config.json").read_text())
        (tmp_path / "adapter_config.json").write_text(json.dumps(config | {"r": 4}))
    save_file(weights, file)
    with pytest.raises(ValueError, match="another model"):
        Predictor.load(base, tmp_path)


def test_full_weights_and_head_replace_the_base(base: Path, tmp_path: Path) -> None:
    """A fully fine-tuned version serves its own weights, statistics of the batch norms among them."""
    model = load_base(base)
    with torch.no_grad():
        for tensor in model.backbone.state_dict().values():
            tensor.copy_(tensor * 1.01)
        model.head.bias.add_(1)  # type: ignore[operator]
    save_file(model.backbone.state_dict(), tmp_path / "weights.safetensors")
    save_file(model.head.state_dict(), tmp_path / "head.safetensors")
    predictor = Predictor.load(base, tmp_path)
    with torch.inference_mode():
        wanted = model(_batch(8)).numpy()
    assert np.array_equal(predictor.observe(_batch(8)).logits, wanted)
    weights = load_file(tmp_path / "head.safetensors")
    save_file({"weight": weights["weight"]}, tmp_path / "head.safetensors")
    with pytest.raises(ValueError, match="lacks the tensor 'bias'"):
        Predictor.load(base, tmp_path)


def test_recalibrator_and_thresholds_act_on_the_outputs_alone(base: Path, tmp_path: Path) -> None:
    """Temperature and bias move probabilities, thresholds move decisions, and neither touches logits or sensor."""
    before = Predictor.load(base).observe(_batch())
    Recalibrator(2.0, (0.0, 0.0, 5.0)).write(tmp_path / "recalibrator.json")
    Thresholds((0.001, 1.0, 1.0)).write(tmp_path / "thresholds.json")
    predictor = Predictor.load(base, tmp_path)
    after = predictor.observe(_batch())
    assert np.array_equal(before.logits, after.logits)
    assert np.array_equal(before.embedding, after.embedding)
    scaled = np.exp(before.logits / 2 + np.array([0, 0, 5]))
    assert np.allclose(after.probabilities, scaled / scaled.sum(axis=1, keepdims=True), atol=1e-6)
    assert set(after.probabilities.argmax(axis=1)) == {2}
    assert set(predictor.decide(after.probabilities)) == {0}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("recalibrator.json", '{"temperature": 0}'),
        ("recalibrator.json", '{"temperature": 1, "bias": [1, 2]}'),
        ("recalibrator.json", "{"),
        ("thresholds.json", '{"per_class": [0.5]}'),
        ("preprocessing.json", '{"size": 96}'),
    ],
)
def test_a_broken_part_is_refused(base: Path, tmp_path: Path, name: str, content: str) -> None:
    """A part that says nothing sensible is refused when the version is loaded, not when it answers."""
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError):
        Predictor.load(base, tmp_path)


def test_golden_outputs_bind_a_version_to_its_base(base: Path, tmp_path: Path) -> None:
    """The golden outputs hold after a reload, and fail with other weights by more than the low bits."""
    write_golden(Predictor.load(base), tmp_path)
    check_golden(Predictor.load(base), tmp_path)
    parts = _adapter(base, tmp_path / "parts")
    with pytest.raises(ValueError, match="golden outputs differ"):
        check_golden(Predictor.load(base, parts), tmp_path)


def test_unreadable_pixels_are_refused(base: Path) -> None:
    """NaN pixels, no pixels and odd shapes are refused; one pixel and a huge range are images."""
    predictor = Predictor.load(base)
    for bad in (np.full((4, 4), np.nan), np.zeros((0, 4)), np.zeros((4, 4, 2)), np.zeros(4)):
        with pytest.raises(ValueError, match="image"):
            predictor.prepare(bad.astype(np.float32))
    for good in (np.full((1, 1), 7.0), np.full((3, 500, 3), 1e30)):
        assert torch.isfinite(predictor.prepare(good.astype(np.float32))).all()
