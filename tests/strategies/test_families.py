"""Every family, with tiny models of true architectures that the tests write to disk; the network is off."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import timm
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torchvision import models
from transformers import (
    Dinov2Config,
    Dinov2ForImageClassification,
    Dinov2Model,
    ViTConfig,
    ViTForImageClassification,
    ViTImageProcessor,
)

from strategies import families
from strategies.families import family_of, load_backbone
from strategies.protocols import Family

TINY = {
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 32,
    "patch_size": 8,
    "image_size": 32,
}


@pytest.fixture(autouse=True)
def _offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    torch.set_num_threads(1)
    torch.manual_seed(0)


def torchvision_weights(folder: Path) -> str:
    """A weights file of torchvision's MobileNetV3-small with a head of its own."""
    network = models.mobilenet_v3_small()
    weights = {name: tensor.numpy() for name, tensor in network.features.state_dict(prefix="features.").items()}
    weights |= {"classifier.0.weight": np.ones((8, 576), np.float32), "classifier.0.bias": np.zeros(8, np.float32)}
    weights |= {"classifier.3.weight": np.ones((2, 8), np.float32), "classifier.3.bias": np.zeros(2, np.float32)}
    np.savez(folder / "mobilenetv3_small_deployed.npz", **weights)
    return str(folder / "mobilenetv3_small_deployed.npz")


def timm_folder(folder: Path) -> str:
    """A tiny vision transformer with a head of three classes, saved by timm itself."""
    network = timm.create_model("test_vit", num_classes=3, img_size=32)
    timm.models.save_for_hf(network, str(folder), safe_serialization=True)
    return str(folder)


def transformers_folder(folder: Path) -> str:
    """A tiny DINOv2 encoder with its processor, saved by transformers itself."""
    Dinov2Model(Dinov2Config(**TINY)).save_pretrained(folder)
    processor = ViTImageProcessor(size={"height": 32, "width": 32}, image_mean=[0.5] * 3, image_std=[0.25] * 3)
    processor.save_pretrained(folder)
    return str(folder)


LOCAL: dict[str, Callable[[Path], str]] = {
    "torchvision": torchvision_weights,
    "timm": timm_folder,
    "transformers": transformers_folder,
}
NAMED = {"torchvision": ["mobilenet_v3_small", "resnet18"], "timm": ["test_vit", "timm/resnet10t", "test_convnext"]}


def specs(folder: Path) -> list[tuple[str, str]]:
    """(family, spec) of everything that the contract is tested on."""
    local = [(name, make(_new(folder / name))) for name, make in LOCAL.items()]
    return [*local, *((name, spec) for name, some in NAMED.items() for spec in some), ("transformers", "dinov2-tiny")]


def _new(folder: Path) -> Path:
    folder.mkdir()
    return folder


def _answers(module: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return module.eval()(images)


def test_contract_of_every_family(tmp_path: Path) -> None:
    """Every family's backbones split without a change, save in a form that reads back alike, and name real layers."""
    covered = set()
    for i, (name, spec) in enumerate(specs(tmp_path)):
        family = family_of(spec)
        assert isinstance(family, Family)
        assert family.name == name, spec
        backbone = load_backbone(spec)
        size = backbone.preprocessing.size
        images = torch.rand(3, 3, size, size)
        wanted = _answers(backbone.module, images)
        assert wanted.shape == (3, backbone.width)
        for cut in range(len(backbone.module.blocks()) + 1):
            prefix, suffix = backbone.split(cut)
            assert torch.equal(_answers(suffix, _answers(prefix, images)), wanted), (spec, cut)
        layers = dict(backbone.module.named_modules())
        assert backbone.adaptable()
        assert all(isinstance(layers[layer], nn.Linear | nn.Conv2d) for layer in backbone.adaptable())
        backbone.save(tmp_path / f"saved{i}")
        again = load_backbone(str(tmp_path / f"saved{i}"))
        assert again.preprocessing == backbone.preprocessing
        assert torch.equal(_answers(again.module, images), wanted), spec
        covered.add(type(family).__name__)
    # Those that answer for every pixel, or by boxes, have contract tests of their own: test_segmentation, test_sam,
    # test_lwnet, test_published_detectors.
    # Those of which no weight moves, and those that only read another's folder: test_black_box, test_monai_bundle.
    elsewhere = {
        "MonaiFamily",
        "SamFamily",
        "LwnetFamily",
        "BlackBoxFamily",
        "BundleFamily",
        "RetinanetFamily",
        "YolosFamily",
    }
    assert covered == set(families.__all__) - elsewhere
    assert len(covered) == 3


def test_split_halves_share_no_weights(tmp_path: Path) -> None:
    """Freezing the prefix freezes nothing of the suffix, in every family."""
    for _, spec in specs(tmp_path):
        prefix, suffix = load_backbone(spec).split(1)
        assert not {id(p) for p in prefix.parameters()} & {id(p) for p in suffix.parameters()}, spec


def test_a_cut_beyond_the_last_block_is_refused() -> None:
    """A plan that freezes more blocks than there are is told how many there are."""
    with pytest.raises(ValueError, match="15 blocks"):
        load_backbone("mobilenet_v3_small").split(16)


def test_ecosystems_read_what_is_saved(tmp_path: Path) -> None:
    """A base is worth as much without us: timm and transformers load the saved folders by their own functions."""
    images = torch.rand(2, 3, 32, 32)
    for name, load in (
        ("timm", lambda folder: timm.create_model(f"local-dir:{folder}", pretrained=True)),
        ("transformers", lambda folder: Dinov2Model.from_pretrained(folder)),
    ):
        backbone = load_backbone(LOCAL[name](_new(tmp_path / name)))
        backbone.save(tmp_path / f"{name}-saved")
        theirs: Any = _answers(load(tmp_path / f"{name}-saved"), images)
        theirs = theirs if isinstance(theirs, torch.Tensor) else theirs.pooler_output
        assert torch.equal(theirs, _answers(backbone.module, images))


def test_processor_of_a_transformers_folder_is_kept(tmp_path: Path) -> None:
    """A foreign model is fed as its authors fed it, not with our defaults."""
    preprocessing = load_backbone(transformers_folder(tmp_path)).preprocessing
    assert preprocessing.size == 32
    assert preprocessing.mean == (0.5, 0.5, 0.5)
    assert preprocessing.std == (0.25, 0.25, 0.25)


def test_architecture_is_found_by_the_shapes_in_a_weights_file(tmp_path: Path) -> None:
    """A weights file needs no telling name, and its features are the ones that run."""
    file = Path(torchvision_weights(tmp_path)).rename(tmp_path / "model.npz")
    backbone = load_backbone(str(file))
    assert type(backbone.module.network) is models.MobileNetV3
    with np.load(file, allow_pickle=False) as arrays:
        assert np.array_equal(
            backbone.module.network.features[0][0].weight.detach().numpy(), arrays["features.0.0.weight"]
        )


def test_batch_norm_follows_within_a_few_hundred_steps() -> None:
    """torchvision's MobileNetV3 sets momentum 0.01, with which evaluation lags behind training."""
    norms = [m for m in load_backbone("mobilenet_v3_small").module.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms
    assert {norm.momentum for norm in norms} == {0.1}


@pytest.mark.parametrize("kind", [ViTForImageClassification, Dinov2ForImageClassification])
def test_head_of_a_transformers_classifier(tmp_path: Path, kind: Any) -> None:
    """A deployed transformers classifier keeps its answers when its encoder and its head are taken apart."""
    config = ViTConfig if kind is ViTForImageClassification else Dinov2Config
    deployed = kind(config(**TINY, num_labels=3))
    deployed.save_pretrained(tmp_path)
    images = torch.rand(2, 3, 32, 32)
    backbone, head = load_backbone(str(tmp_path)), family_of(str(tmp_path)).head(str(tmp_path))
    assert torch.allclose(
        _answers(head, _answers(backbone.module, images)), _answers(deployed, images).logits, atol=1e-6
    )


def test_head_of_a_timm_classifier(tmp_path: Path) -> None:
    """A deployed timm classifier keeps its answers when its encoder and its head are taken apart."""
    spec = timm_folder(tmp_path)
    deployed = timm.create_model(f"local-dir:{spec}", pretrained=True)
    images = torch.rand(2, 3, 32, 32)
    ours = _answers(family_of(spec).head(spec), _answers(load_backbone(spec).module, images))
    assert torch.allclose(ours, _answers(deployed, images), atol=1e-6)


def test_the_side_that_a_timm_folder_was_trained_at_is_kept(tmp_path: Path) -> None:
    """A convolutional network takes any size, so the one it was trained at has to come with its folder."""
    backbone = load_backbone("timm/resnet10t")
    backbone.fed(replace(backbone.preprocessing, size=80)).save(tmp_path)
    assert load_backbone(str(tmp_path)).preprocessing.size == 80


def test_weights_of_a_timm_name_from_a_file(tmp_path: Path) -> None:
    """NAME:WEIGHTS gives a timm architecture the weights of a file beside it."""
    network = timm.create_model("resnet10t", num_classes=2)
    save_file(network.state_dict(), tmp_path / "mine.safetensors")
    spec = f"timm/resnet10t:{tmp_path / 'mine.safetensors'}"
    ours, images = load_backbone(spec), torch.rand(2, 3, 64, 64)
    logits = _answers(family_of(spec).head(spec), _answers(ours.module, images))
    assert torch.allclose(logits, _answers(network, images), atol=1e-5)


def _drop_one(file: Path) -> None:
    weights = load_file(file)
    weights.pop(max(name for name in weights if "norm" in name))
    save_file(weights, file)


def _truncate(file: Path) -> None:
    file.write_bytes(file.read_bytes()[:-100])


@pytest.mark.parametrize("name", ["timm", "transformers", "torchvision"])
@pytest.mark.parametrize("harm", [_drop_one, _truncate, Path.unlink])
def test_broken_folders_are_refused_in_one_sentence(tmp_path: Path, name: str, harm: Callable[[Path], None]) -> None:
    """A missing tensor, a truncated or a missing file never becomes a model with random weights in it."""
    folder = tmp_path / name
    if name == "torchvision":
        load_backbone("mobilenet_v2").save(folder)
    else:
        LOCAL[name](_new(folder))
    if harm is _drop_one and name == "torchvision":
        weights = load_file(folder / "model.safetensors")
        weights.pop("features.1.conv.0.0.weight")
        save_file(weights, folder / "model.safetensors")
    else:
        harm(folder / "model.safetensors")
    with pytest.raises(ValueError) as refusal:
        load_backbone(str(folder))
    assert len(str(refusal.value)) < 300
    assert "\n" not in str(refusal.value)


def test_pickled_weights_are_never_read(tmp_path: Path) -> None:
    """Weights that could run code are refused by their kind, also where a folder holds nothing else."""
    torch.save({}, tmp_path / "weights.pth")
    with pytest.raises(ValueError, match="is a pickle"):
        load_backbone(str(tmp_path / "weights.pth"))
    with pytest.raises(ValueError, match="is a pickle"):
        load_backbone(f"resnet18:{tmp_path / 'weights.pth'}")
    np.savez(tmp_path / "objects.npz", a=np.array([{}], dtype=object))
    with pytest.raises(ValueError, match="can't be read"):
        load_backbone(f"resnet18:{tmp_path / 'objects.npz'}")
    for name in ("timm", "transformers"):
        folder = Path(LOCAL[name](_new(tmp_path / name)))
        torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
        (folder / "model.safetensors").unlink()
        with pytest.raises(ValueError):
            load_backbone(str(folder))


def test_unknown_names_and_foreign_kinds_are_named(tmp_path: Path) -> None:
    """A misspelt name, another file and a model that can't be taken apart each get their own sentence."""
    with pytest.raises(ValueError, match="No model family knows 'mobilnet'"):
        load_backbone("mobilnet")
    with pytest.raises(ValueError, match="can't be taken apart"):
        load_backbone("alexnet")
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "bert", "architectures": ["BertModel"]}))
    with pytest.raises(ValueError, match="'bert'"):
        load_backbone(str(tmp_path))
    save_file({"something": torch.zeros(2)}, tmp_path / "w.safetensors")
    with pytest.raises(ValueError, match="fits no known architecture"):
        load_backbone(str(tmp_path / "w.safetensors"))


def test_hub_ids_go_to_transformers() -> None:
    """A hub id is left to transformers, which without a network says that it is not there."""
    assert family_of("facebook/dinov2-small").name == "transformers"
    with pytest.raises(ValueError, match="dinov2-small can't be loaded"):
        load_backbone("facebook/dinov2-small")
