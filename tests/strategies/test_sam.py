"""SAM and MedSAM by a tiny model of the true architecture: both layouts, and what segmentation reads of it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sams
import torch
from safetensors.torch import load_file, save_file

from strategies.families import family_of, load_backbone
from strategies.families.sam import Projection
from strategies.families.sam_layout import config_of, converted
from strategies.protocols import Backbone

IMAGES = torch.randn(2, 3, sams.SIDE, sams.SIDE, generator=torch.Generator().manual_seed(1))


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network is off, and one thread computes."""
    monkeypatch.setattr("socket.socket.connect", _refused)
    torch.set_num_threads(1)


def _refused(*_: object) -> None:
    raise AssertionError("the network was asked")


@torch.inference_mode()
def answers(origin: Backbone, images: torch.Tensor = IMAGES) -> torch.Tensor:
    return origin.module.eval()(images)


def test_features_are_those_that_sam_reads_its_masks_from(tmp_path: Path) -> None:
    """Behind eight-fold narrower features stand the masks of transformers' own forward pass without a prompt."""
    origin = load_backbone(str(sams.folder(tmp_path / "sam")))
    with torch.inference_mode():
        masks = sams.tiny()(pixel_values=IMAGES, multimask_output=True).pred_masks[:, 0]
        first = sams.tiny()(pixel_values=IMAGES, multimask_output=False).pred_masks[:, 0]
    said = answers(origin)
    assert said.shape == (2, origin.width, 16, 16) == (2, 4 + 4, 16, 16)
    assert origin.stride == 2
    assert torch.allclose(said[:, 4:] * 2, torch.cat([first, masks], 1), atol=1e-5)
    assert masks.std() > 0.05
    assert torch.allclose(origin.sensor(IMAGES), sams.tiny().get_image_embeddings(IMAGES).mean((2, 3)), atol=1e-5)


@pytest.mark.parametrize("suffix", [".safetensors", ".npz"])
def test_both_layouts_answer_alike(tmp_path: Path, suffix: str) -> None:
    """A checkpoint as the authors publish it is the model that transformers' folder is, with the sizes told by it."""
    folder, file = sams.folder(tmp_path / "sam"), tmp_path / f"vit_tiny{suffix}"
    tensors = sams.original(sams.tiny())
    if suffix == ".npz":
        np.savez(file, **{name: tensor.numpy() for name, tensor in tensors.items()})
    else:
        save_file(tensors, file)
    wanted, found = load_backbone(str(folder)), load_backbone(str(file))
    assert torch.equal(answers(found), answers(wanted))
    assert found.preprocessing == wanted.preprocessing
    assert found.preprocessing.size == sams.SIDE
    medsam = load_backbone(f"medsam:{file}")
    assert (medsam.preprocessing.mean, medsam.preprocessing.std) == ((0, 0, 0), (1, 1, 1))
    assert torch.equal(answers(medsam), answers(wanted))


@pytest.mark.parametrize(
    ("layers", "width", "heads", "everywhere"),
    [(12, 768, 12, [2, 5, 8, 11]), (24, 1024, 16, [5, 11, 17, 23]), (32, 1280, 16, [7, 15, 23, 31])],
)
def test_the_published_sizes_are_told_from_the_shapes(layers: int, width: int, heads: int, everywhere: list) -> None:
    """vit_b, vit_l and vit_h, without a weight: shapes alone, in and back out of the original layout."""
    from transformers import SamConfig, SamModel

    told = {"hidden_size": width, "num_hidden_layers": layers, "num_attention_heads": heads}
    with torch.device("meta"):
        network: Any = SamModel(SamConfig(vision_config=told | {"global_attn_indexes": everywhere}))
    tensors = sams.original(network)
    config = config_of(tensors)
    with torch.device("meta"):
        again: Any = SamModel(SamConfig(**config))
    shapes = {name: tensor.shape for name, tensor in network.state_dict().items()}
    assert {name: tensor.shape for name, tensor in again.state_dict().items()} == shapes
    assert config["vision_config"] | told == config["vision_config"]
    assert config["vision_config"]["global_attn_indexes"] == everywhere
    assert config["vision_config"]["image_size"] == 1024 and config["vision_config"]["window_size"] == 14
    assert shapes.keys() - converted(tensors).keys() == {"shared_image_embedding.positional_embedding"}
    assert "image_encoder.blocks.0.attn.rel_pos_h" in tensors
    assert "mask_decoder.output_hypernetworks_mlps.3.layers.2.bias" in tensors


def test_what_is_saved_is_plain_transformers(tmp_path: Path) -> None:
    """Queries, keys and values were taken apart; the folder has them joint, and transformers reads it as it was."""
    from transformers import SamModel

    origin = load_backbone(str(sams.folder(tmp_path / "sam")))
    origin.save(tmp_path / "saved")
    again, found = SamModel.from_pretrained(tmp_path / "saved", output_loading_info=True)
    assert not any(found.values())
    wanted = sams.tiny().state_dict()
    assert {name for name, one in again.state_dict().items() if torch.equal(one, wanted[name])} == wanted.keys()
    read = load_backbone(str(tmp_path / "saved"))
    assert torch.equal(answers(read), answers(origin))
    assert read.preprocessing == origin.preprocessing
    assert {file.suffix for file in (tmp_path / "saved").iterdir()} == {".json", ".safetensors"}


def test_blocks_split_anywhere_and_adapters_touch_queries_and_values(tmp_path: Path) -> None:
    """Maps of [b, d, g, g] pass between blocks; q and v of each layer of the image encoder, and not the decoder's."""
    origin = load_backbone(str(sams.folder(tmp_path / "sam")))
    assert (origin.depth, origin.decoder) == (1 + 2 + 1 + 2, 2)
    shapes = []
    for cut in range(origin.depth + 1):
        prefix, suffix = origin.split(cut)
        with torch.inference_mode():
            shapes.append(tuple(prefix(IMAGES).shape[1:]))
            assert torch.equal(suffix(prefix(IMAGES)), answers(origin))
    assert shapes == [(3, 32, 32), *[(16, 4, 4)] * 3, *[(32, 4, 4)] * 2, (8, 16, 16)]
    assert origin.adaptable() == [
        f"network.vision_encoder.layers.{i}.attn.qkv.{one}" for i in range(2) for one in ("q", "v")
    ]
    assert origin.adaptable(2) == [f"network.vision_encoder.layers.1.attn.qkv.{one}" for one in ("q", "v")]
    assert sum(isinstance(layer, Projection) for layer in origin.module.modules()) == 4


def test_another_size_interpolates_the_positions(tmp_path: Path) -> None:
    """As SAMed does; at the model's own size nothing is."""
    origin = load_backbone(str(sams.folder(tmp_path / "sam")))
    assert answers(origin, torch.randn(1, 3, 48, 48)).shape == (1, 8, 24, 24)
    assert torch.isfinite(answers(origin, torch.randn(1, 3, 64, 64))).all()


def test_a_pickle_is_refused_with_the_way_to_convert_it(tmp_path: Path) -> None:
    """The command that the sentence names makes the file that is read."""
    import shlex
    import subprocess

    torch.save(sams.original(sams.tiny()), tmp_path / "sam_vit_b.pth")
    with pytest.raises(ValueError, match="is a pickle, which can run code, and is not read: convert it") as error:
        load_backbone(str(tmp_path / "sam_vit_b.pth"))
    assert str(tmp_path) not in str(error.value)
    command = shlex.split(str(error.value).partition("once with ")[2].partition(", and name")[0])
    import sys

    subprocess.run([sys.executable, *command[1:]], cwd=tmp_path, check=True)
    converted_ = load_backbone(str(tmp_path / "sam_vit_b.safetensors"))
    assert torch.equal(answers(converted_), answers(load_backbone(str(sams.folder(tmp_path / "sam")))))
    with pytest.raises(ValueError, match="is a pickle"):
        load_backbone(f"medsam:{tmp_path / 'sam_vit_b.pth'}")


def test_missing_and_extra_tensors_are_listed(tmp_path: Path) -> None:
    """In both layouts, and by name; another checkpoint is no SAM."""
    tensors = sams.original(sams.tiny())
    file = tmp_path / "odd.safetensors"
    missing = "mask_decoder.mask_tokens.weight"

    def refused(changed: dict[str, torch.Tensor], reason: str, spec: Path = file) -> None:
        save_file(changed, file)
        with pytest.raises(ValueError, match=reason):
            load_backbone(f"sam:{spec}")

    refused({n: t for n, t in tensors.items() if n != missing}, f"lacks the tensor '{missing}'")
    lost = "image_encoder.blocks.1.attn.proj.bias"
    odd = {n: t for n, t in tensors.items() if n != lost} | {"optimiser.step": torch.zeros(1)}
    refused(odd, r"lacks vision_encoder.layers.1.attn.proj.bias and has besides optimiser.step")
    refused(tensors | {lost: torch.zeros(3)}, "of other shapes than SAM's: vision_encoder.layers.1.attn.proj.bias")
    refused({"a": torch.zeros(1)}, "is no checkpoint of SAM or MedSAM")
    folder = sams.folder(tmp_path / "sam")
    weights = load_file(folder / "model.safetensors")
    del weights["vision_encoder.neck.conv1.weight"]
    save_file(weights | {"more": torch.zeros(1)}, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(ValueError, match=r"lacks vision_encoder.neck.conv1.weight and has besides more"):
        load_backbone(str(folder))


def test_the_family_is_found_and_no_other_is_robbed(tmp_path: Path) -> None:
    """A folder by its type, a file by its keys; torchvision's and the other folders stay theirs."""
    folder, file = sams.folder(tmp_path / "sam"), sams.checkpoint(tmp_path / "any_name.safetensors")
    assert {family_of(str(spec)).name for spec in (folder, file, f"medsam:{file}", "a.pth")} == {"sam"}
    assert family_of("facebook/sam-vit-base").name == "sam"
    save_file({"features.0.weight": torch.zeros(1)}, tmp_path / "other.safetensors")
    assert family_of(str(tmp_path / "other.safetensors")).name == "torchvision"
    assert family_of("facebook/dinov2-small").name == "transformers"
    (tmp_path / "vit").mkdir()
    (tmp_path / "vit" / "config.json").write_text(json.dumps({"model_type": "vit"}))
    assert family_of(str(tmp_path / "vit")).name == "transformers"
    with pytest.raises(ValueError, match="answers prompts and has no classes"):
        family_of(str(file)).head(str(file))
