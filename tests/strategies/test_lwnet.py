"""The W-Net for vessels, with weights drawn at random in the authors' form."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from strategies.base import import_base
from strategies.families import family_of, load_backbone
from strategies.families.lwnet import WNet
from strategies.predictor import Predictor


def published(file: Path) -> tuple[nn.Module, nn.Conv2d]:
    """A weights file as the authors' network would write it; its body and its last layer."""
    torch.manual_seed(0)
    body, last = WNet(), nn.Conv2d(8, 1, 1)
    tensors = body.state_dict() | {f"unet2.final.{name}": tensor for name, tensor in last.state_dict().items()}
    np.savez(file, **{name: tensor.numpy() for name, tensor in tensors.items()})
    return body.eval(), last


def test_an_imported_w_net_answers_as_its_sigmoid(tmp_path: Path) -> None:
    """The vessel's probability is the sigmoid of the last layer; what is written reads back the same."""
    torch.set_num_threads(1)
    file, images = tmp_path / "wnet.npz", torch.rand(2, 3, 32, 32)
    body, last = published(file)
    assert family_of(str(file)).name == "lwnet"
    import_base(str(file), ("background", "vessel"), tmp_path / "base", size=32, task="segmentation")
    with torch.inference_mode():
        wanted = torch.sigmoid(last(body.unet2(body.unet1(images))))[:, 0].numpy()  # type: ignore[operator]
    said = Predictor.load(tmp_path / "base").answer(images)
    assert said[:, 1] == pytest.approx(wanted, abs=1e-5)
    assert Predictor.load(tmp_path / "base").embed(images).shape == (2, 32)
    assert load_backbone(str(file)).preprocessing.size == 512


def test_other_tensors_are_refused(tmp_path: Path) -> None:
    """By name; and a file without the last layer has no head."""
    published(tmp_path / "wnet.npz")
    arrays = dict(np.load(tmp_path / "wnet.npz"))
    for lost, ask, reason in (
        ("unet2.up_path.1.conv_layer.block.0.bias", lambda f: load_backbone(f), "lacks the tensor"),
        ("unet2.final.bias", lambda f: family_of(f).head(f), "without its last layer"),
    ):
        np.savez(tmp_path / "odd.npz", **{name: array for name, array in arrays.items() if name != lost})
        with pytest.raises(ValueError, match=reason):
            ask(str(tmp_path / "odd.npz"))
