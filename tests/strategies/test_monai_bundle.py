"""MONAI bundles in the layout of the model zoo: tiny networks of true architectures, a configuration that is data."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import vendors
import yaml
from monai.networks import nets
from safetensors.torch import load_file, save_file
from torch import nn

from strategies.base import fit_base, import_described, load_base
from strategies.families import family_of, load_backbone
from strategies.families.bundle import read_metadata
from strategies.families.monai import DESIGNS
from strategies.predictor import Predictor
from strategies.protocols import Describing, Family

CLASSES = ("background", "tool")
SIDE = 32
UNET = {"_target_": "UNet", "spatial_dims": 2, "in_channels": 3, "out_channels": 2, "channels": [8, 16], "strides": [2]}
NETWORKS: dict[str, dict[str, Any]] = {
    "UNet": UNET,
    "SegResNet": {"spatial_dims": 2, "in_channels": 3, "out_channels": 2, "init_filters": 8, "blocks_down": [1, 1],
                  "blocks_up": [1]},
    "SwinUNETR": {"spatial_dims": 2, "in_channels": 3, "out_channels": 2, "feature_size": 12},
}  # fmt: skip


@pytest.fixture(autouse=True)
def _seeded() -> None:
    torch.set_num_threads(1)
    torch.manual_seed(0)


def network(definition: dict[str, Any]) -> nn.Module:
    arguments = {name: value for name, value in definition.items() if not name.startswith("_")}
    return getattr(nets, definition["_target_"].rpartition(".")[2])(**arguments).eval()


def metadata(**changes: Any) -> dict[str, Any]:
    """As the model zoo writes it; `changes` are of the input, or of the output by the name `pred`."""
    image = {"type": "magnitude", "format": "RGB", "modality": "regular", "num_channels": 3,
             "spatial_shape": [SIDE, SIDE], "dtype": "float32", "value_range": [0, 1], "is_patch_data": False,
             "channel_def": {"0": "R", "1": "G", "2": "B"}}  # fmt: skip
    pred = {"type": "image", "format": "segmentation", "num_channels": 2, "spatial_shape": [SIDE, SIDE],
            "dtype": "float32", "value_range": [0, 1], "is_patch_data": False,
            "channel_def": {"0": "background", "1": "tool"}}  # fmt: skip
    pred |= changes.pop("pred", {})
    return {
        "schema": "https://example.org/meta_schema.json",
        "version": "0.1.0",
        "monai_version": "1.4.0",
        "task": "Segmentation of tools",
        "network_data_format": {"inputs": {"image": image | changes}, "outputs": {"pred": pred}},
    }


def inference(definition: Any, transforms: dict[str, Any] = {}, **more: Any) -> dict[str, Any]:  # noqa: B006
    """With the expressions that every bundle of the zoo has, outside of `network_def`."""
    return {
        "imports": ["$import glob", "$import os"],
        "bundle_root": ".",
        "output_dir": "$@bundle_root + '/eval'",
        "datalist": "$list(sorted(glob.glob(@bundle_root + '/*.jpg')))",
        "device": "$torch.device('cuda:0' if torch.cuda.is_available() else 'cpu')",
        "network_def": definition,
        "network": "$@network_def.to(@device)",
        "preprocessing": {
            "_target_": "Compose",
            "transforms": [
                {"_target_": "LoadImaged", "keys": "image"},
                {"_target_": "EnsureChannelFirstd", "keys": "image", "channel_dim": -1},
                {"_target_": "CastToTyped", "dtype": "$torch.float32", "keys": "image"},
                *({"_target_": name, "keys": "image", **values} for name, values in transforms.items()),
            ],
        },
        "handlers": [{"_target_": "CheckpointLoader", "load_path": "$@bundle_root + '/models/model.pt'"}],
        "run": ["$@evaluator.run()"],
        **more,
    }


def bundle(folder: Path, definition: Any = UNET, told: dict[str, Any] | None = None, **more: Any) -> Path:
    (folder / "configs").mkdir(parents=True)
    (folder / "models").mkdir()
    (folder / "configs" / "metadata.json").write_text(json.dumps(told or metadata()))
    (folder / "configs" / "inference.json").write_text(json.dumps(inference(definition, **more)))
    return folder


def answers(module: nn.Module, images: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return module.eval()(images)


def test_every_known_network_is_built_from_its_values(tmp_path: Path) -> None:
    """The base answers as MONAI's network with these weights, adapts like every other, and reads back alike."""
    covered = set()
    for target, arguments in NETWORKS.items():
        definition = {"_target_": target} | arguments
        told, images = metadata(spatial_shape=[64, 64]), torch.rand(2, 3, 64, 64)
        folder = bundle(tmp_path / target, definition, told)
        theirs = network(definition)
        save_file(theirs.state_dict(), folder / "models" / "model.safetensors")
        family = family_of(str(folder))
        assert isinstance(family, Family) and isinstance(family, Describing) and family.name == "MONAI bundle"
        assert family.describes(str(folder)) == ("segmentation", CLASSES)
        import_described(str(folder), tmp_path / f"base {target}")
        model = load_base(tmp_path / f"base {target}")
        assert torch.allclose(answers(model, images), answers(theirs, images), atol=1e-5)
        assert not model.origin.sealed and model.origin.adaptable()
        assert (model.origin.preprocessing.size, model.origin.preprocessing.scale) == (64, "uint8")
        covered.add(target)
    assert covered == {design.network for design in DESIGNS.values()}


def test_one_channel_and_another_range_are_fed_as_declared(tmp_path: Path) -> None:
    """A grey network gets one channel, scaled by the image's own range to the values that the bundle names."""
    definition = UNET | {"in_channels": 1}
    folder = bundle(tmp_path / "grey", definition, metadata(num_channels=1, value_range=[-1, 1]))
    theirs = network(definition)
    save_file(theirs.state_dict(), folder / "models" / "model.safetensors")
    import_described(str(folder), tmp_path / "base")
    predictor, image = Predictor.load(tmp_path / "base"), torch.rand(SIDE, SIDE).numpy() * 4000
    prepared = predictor.prepare(image)
    assert (float(prepared.min()), float(prepared.max())) == pytest.approx((-1, 1), abs=1e-5)
    assert predictor.logits(prepared[None]) == pytest.approx(answers(theirs, prepared[None, :1]).numpy(), abs=1e-4)
    assert predictor.embed(prepared[None]).shape[0] == 1


def test_references_to_plain_values_are_followed(tmp_path: Path) -> None:
    """By both separators, into lists, through each other, in YAML as well; MONAI's long names are known."""
    definition = UNET | {
        "_target_": "monai.networks.nets.UNet",
        "out_channels": "@classes",
        "channels": ["@sizes::first", "@sizes#all#1"],
        "_desc_": "a small one",
    }
    folder = bundle(tmp_path / "b", definition)
    more: dict[str, Any] = {"classes": "@number", "number": 2, "sizes": {"first": 8, "all": [8, 16]}}
    (folder / "configs" / "inference.json").unlink()
    (folder / "configs" / "inference.yaml").write_text(yaml.safe_dump(inference(definition, **more)))
    save_file(network(UNET).state_dict(), folder / "models" / "model.safetensors")
    assert load_backbone(str(folder)).width == 2


@pytest.mark.parametrize(
    ("definition", "reason"),
    [
        (UNET | {"channels": "$[8, 16]"}, "network_def::channels is an expression, which is not evaluated"),
        (UNET | {"channels": [8, "$os.system('true')"]}, "network_def::channels::1 is an expression"),
        (UNET | {"out_channels": "@output_dir"}, "output_dir is an expression"),
        (UNET | {"out_channels": "%train.json::classes"}, "network_def::out_channels is a part of another file"),
        (UNET | {"out_channels": "@nothing::here"}, "refers to @nothing::here, which is not there"),
        (UNET | {"out_channels": "@network_def::out_channels"}, "refers to itself"),
        (UNET | {"act": {"_target_": "torch.nn.ReLU"}}, "network_def::act has _target_"),
        ("$monai.networks.nets.UNet(2, 3, 2, (8, 16), (2,))", "has no network_def"),
        (UNET | {"_target_": "os.system"}, "'os.system'; these are known here: UNet, SegResNet, SwinUNETR"),
        (UNET | {"_target_": "scripts.nets.UNet"}, "'scripts.nets.UNet'; these are known"),
        (UNET | {"spatial_dims": 3}, "is of volumes"),
        (UNET | {"out_channels": 4}, "3 to 4 channels, and metadata of 3 to 2"),
        (UNET | {"surprise": 1}, "builds no unet"),
    ],
)
def test_a_network_that_is_no_plain_value_is_refused(tmp_path: Path, definition: Any, reason: str) -> None:
    """The sentence names the key; nothing is evaluated or imported."""
    folder = bundle(tmp_path / "b", definition)
    save_file(network(UNET).state_dict(), folder / "models" / "model.safetensors")
    with pytest.raises(ValueError, match=reason) as refusal:
        load_backbone(str(folder))
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("transforms", "channels", "fed"),
    [
        ({}, 3, ("uint8", (0.5, 99.5))),
        ({}, 1, ("minmax", (0.5, 99.5))),
        ({"ScaleIntensityd": {}}, 3, ("minmax", (0.0, 100.0))),
        ({"ScaleIntensityRanged": {"a_min": 0, "a_max": 255}}, 1, ("uint8", (0.5, 99.5))),
        ({"ScaleIntensityRanged": {"a_min": -57, "a_max": 164}}, 1, "ScaleIntensityRanged, which is not done"),
        ({"NormalizeIntensityd": {"nonzero": True}}, 3, "NormalizeIntensityd, which is not done"),
        ({"scripts.transforms.Mined": {}}, 3, r"scripts\.transforms\.Mined, which is not done"),
    ],
)
def test_images_are_scaled_as_the_bundle_does_or_it_is_refused(
    tmp_path: Path, transforms: dict[str, Any], channels: int, fed: Any
) -> None:
    """A network that is fed otherwise than it was trained answers wrongly, and nobody would see why."""
    folder = bundle(tmp_path / "b", told=metadata(num_channels=channels), transforms=transforms)
    if isinstance(fed, str):
        with pytest.raises(ValueError, match=fed):
            read_metadata(folder)
    else:
        preprocessing = read_metadata(folder).preprocessing
        assert (preprocessing.scale, preprocessing.clip) == fed


@pytest.mark.parametrize(
    ("steps", "reason"),
    [
        ({"_target_": "Compose", "transforms": "@tf"}, "NormalizeIntensityd, which is not done"),
        ("@pp", "NormalizeIntensityd, which is not done"),
        ({"_target_": "NormalizeIntensityd", "keys": "image"}, "NormalizeIntensityd, which is not done"),
        (["@tf::0"], "NormalizeIntensityd, which is not done"),
        ("$monai.transforms.Compose(@tf)", "no list of transforms as it stands"),
        ("@nowhere", "refers to @nowhere, which is not there"),
        ("@turns", "refers to itself by @turns"),
    ],
)
def test_transforms_behind_a_reference_are_read_and_no_expression_is(tmp_path: Path, steps: Any, reason: str) -> None:
    """However it is written down, what a bundle does to its images is done or the bundle is refused."""
    tf = [{"_target_": "NormalizeIntensityd", "keys": "image"}]
    more = {"tf": tf, "pp": {"_target_": "Compose", "transforms": "@tf"}, "turns": "@turns"}
    with pytest.raises(ValueError, match=reason):
        read_metadata(bundle(tmp_path / "b", preprocessing=steps, **more))


@pytest.mark.parametrize(
    ("told", "reason"),
    [
        (metadata(num_channels=4), "takes 4 channels"),
        (metadata(spatial_shape=[96, 96, 96]), r"takes images of \[96, 96, 96\]"),
        (metadata(spatial_shape=[736, 480]), "squares of one size"),
        (metadata(value_range=[]), "value_range"),
        (metadata(is_patch_data=True), "patches of images"),
        (metadata(pred={"format": "regression"}), "answers with 'regression'"),
        (metadata(pred={"channel_def": {"0": "background"}}), "two or more classes"),
        ({"version": "0.1.0"}, "network_data_format, inputs"),
    ],
)
def test_metadata_that_say_too_little_are_refused(tmp_path: Path, told: dict[str, Any], reason: str) -> None:
    """How images are fed and what the outputs are called is read, never guessed."""
    with pytest.raises(ValueError, match=reason):
        import_described(str(bundle(tmp_path / "b", told=told)), tmp_path / "base")


def test_missing_and_odd_tensors_are_listed(tmp_path: Path) -> None:
    """A checkpoint of another network is refused with its keys."""
    folder = bundle(tmp_path / "b")
    file = folder / "models" / "model.safetensors"
    save_file(network(UNET).state_dict(), file)
    whole = load_file(file)
    first, second, *_ = sorted(whole)
    save_file({name: tensor for name, tensor in whole.items() if name not in (first, second)}, file)
    with pytest.raises(ValueError, match=f"lacks the tensors '{first}', '{second}'"):
        load_backbone(str(folder))
    save_file(whole | {"extra.weight": torch.zeros(1)}, file)
    with pytest.raises(ValueError, match=r"has the odd tensor 'extra.weight'"):
        load_backbone(str(folder))


def test_a_pickled_checkpoint_is_refused_with_the_way_to_convert_it(tmp_path: Path) -> None:
    """And the way works: the command of the sentence writes what is read."""
    folder = bundle(tmp_path / "b")
    torch.save(network(UNET).state_dict(), folder / "models" / "model.pt")
    with pytest.raises(ValueError, match=r"model.pt is a pickle.*convert it once") as refusal:
        load_backbone(str(folder))
    command = str(refusal.value).partition('python -c "')[2].partition('"')[0]
    assert "weights_only=True" in command
    exec(command.replace("'model", f"'{folder}/models/model"), {})
    assert load_backbone(str(folder)).width == 2
    with pytest.raises(ValueError, match=r"no models/model.safetensors, and no models/model.ts"):
        load_backbone(str(bundle(tmp_path / "empty")))


def test_a_bundle_of_torchscript_is_a_black_box(tmp_path: Path) -> None:
    """Whatever its network_def is; a classifier too, and whether it gives logits is told by its answers."""
    images = torch.rand(2, 3, SIDE, SIDE)
    pred = {
        "type": "probabilities",
        "format": "classes",
        "spatial_shape": [1, 2],
        "channel_def": {"0": "in", "1": "out"},
    }
    plain = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))
    for name, vendor in (("logits.ts", plain), ("chances.pt", nn.Sequential(plain, nn.Softmax(dim=1)))):
        folder = bundle(tmp_path / name, {"_target_": "SEResNet50", "spatial_dims": 2}, metadata(pred=pred))
        vendors.scripted(vendor, folder / "models" / f"model{Path(name).suffix}")
        import_described(str(folder), tmp_path / f"base {name}")
        model, predictor = load_base(tmp_path / f"base {name}"), Predictor.load(tmp_path / f"base {name}")
        assert model.origin.sealed and (model.task, model.classes) == ("classification", ("in", "out"))
        assert predictor.answer(images) == pytest.approx(torch.softmax(answers(plain, images), 1).numpy(), abs=1e-5)


def test_a_base_can_be_fitted_on_a_bundle(tmp_path: Path) -> None:
    """`fit --backbone BUNDLE` goes on from its weights, as from any other encoder's."""
    from discs import CLASSES as STRUCTURES
    from discs import Discs

    folder = bundle(tmp_path / "b")
    save_file(network(UNET).state_dict(), folder / "models" / "model.safetensors")
    some = Discs.of("home", 6)
    fit_base(some, some, STRUCTURES, task="segmentation", backbone=str(folder), epochs=1, seed=0,
             out=tmp_path / "base", measure=lambda rows, labels: 0.5)  # fmt: skip
    assert load_base(tmp_path / "base").task == "segmentation"
