"""Attribution maps: every method finds what a network goes by, and asks without changing anything."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from strategies.families import load_backbone
from strategies.families.backbone import ChainedBackbone, Encoder
from strategies.model import Classifier, Recalibrator, Thresholds
from strategies.predictor import Expert, Predictor
from strategies.protocols import Attribution, Preprocessing
from strategies.saliency import ATTRIBUTIONS, GradCam, Occlusion, attribution_for, attributions, stretched

SIDE = 64
RED, BLUE = (slice(8, 24), slice(40, 56)), (slice(40, 56), slice(8, 24))


class Colours(nn.Module):
    """Maps of how red and how blue each place is: class 0 is red, class 1 blue."""

    def __init__(self) -> None:
        super().__init__()
        self.mix = nn.Conv2d(3, 2, 1, bias=False)
        self.mix.weight.data = torch.tensor([[1.0, -1, -1], [-1, -1, 1.0]]).reshape(2, 3, 1, 1)


def chain(network: Any) -> list[nn.Module]:
    return [
        nn.Sequential(network.mix, nn.ReLU(), nn.AvgPool2d(8)),
        nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
    ]


def of(backbone: Any, k: int = 2, router: Any = None, experts: Any = (), task: str = "classification") -> Predictor:
    """A predictor around an encoder, with a head of its own width that says of each feature what it is."""
    torch.manual_seed(0)
    head = nn.Linear(backbone.width, k)
    if backbone.width == k:
        head.load_state_dict({"weight": 20 * torch.eye(k), "bias": torch.zeros(k)})
    model = Classifier(backbone, head, [f"class {i}" for i in range(k)], task).eval()
    served = Expert(model.backbone, model.head, Recalibrator())
    return Predictor(model, backbone.preprocessing, served, Thresholds(), router, experts)


def colours() -> ChainedBackbone:
    preprocessing = Preprocessing(size=SIDE, mean=(0.0,) * 3, std=(1.0,) * 3)
    return ChainedBackbone(Encoder(Colours(), chain), 2, preprocessing, lambda *_: None)


def image(red: float, blue: float) -> np.ndarray:
    """A red and a blue square of these brightnesses, on black."""
    drawn = np.zeros((SIDE, SIDE, 3), np.float32)
    drawn[(*RED, 0)], drawn[(*BLUE, 2)] = red, blue
    return drawn


def batch(predictor: Predictor, *images: np.ndarray) -> torch.Tensor:
    return torch.stack([predictor.prepare(one) for one in images])


def blocks(predictor: Predictor) -> list[nn.Module]:
    encoder: Any = predictor.served.backbone
    return encoder.blocks()


def points(attribution: torch.Tensor) -> tuple[int, int]:
    """The middle of a map's highest pixels."""
    spread = stretched(attribution, (SIDE, SIDE))
    row, column = np.argwhere(spread >= spread.max() - 1e-6).mean(axis=0)
    return int(row), int(column)


def within(place: tuple[int, int], square: tuple[slice, slice]) -> bool:
    return all(side.start <= at < side.stop for at, side in zip(place, square, strict=True))


@pytest.mark.parametrize("kind", ATTRIBUTIONS)
def test_a_map_points_at_what_the_class_is_decided_by(kind: type[Attribution]) -> None:
    """Both colours are in the image; the one that decides is pointed at, and not the one that speaks against it."""
    predictor, method = of(colours()), kind()
    seen = attributions(predictor, batch(predictor, image(255, 120), image(120, 255)), method)
    assert seen.probability.argmax(axis=1).tolist() == [0, 1]
    assert within(points(seen.attribution[0]), RED) and within(points(seen.attribution[1]), BLUE)


FAMILIES = {"mobilenet_v3_small": "grad-cam", "test_resnet": "grad-cam", "test_vit": "occlusion"}


QUICK: dict[type[Attribution], Attribution] = {GradCam: GradCam(), Occlusion: Occlusion(share=0.5)}


def untrained(spec: str) -> Predictor:
    """Random weights behind norms that have seen images, without which a deep network gives all images one answer."""
    torch.manual_seed(0)
    backbone = load_backbone(spec, pretrained=False)
    side = backbone.preprocessing.size
    for layer in backbone.module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None  # the statistics are those of what it sees now, whole
    backbone.module.train()(torch.randn(4, 3, side, side))
    return of(backbone, k=3)


@pytest.mark.parametrize("kind", ATTRIBUTIONS)
@pytest.mark.parametrize("spec", FAMILIES)
def test_every_method_asks_every_encoder_that_it_serves(spec: str, kind: type[Attribution]) -> None:
    """Finite maps of one size; the same for an image whatever it came with; and the version answers as before."""
    predictor, method = untrained(spec), QUICK[kind]
    side = predictor.preprocessing.size
    if not method.serves(blocks(predictor), side):
        assert (kind, FAMILIES[spec]) == (GradCam, "occlusion")
        with pytest.raises(ValueError, match="take occlusion"):
            attribution_for(predictor, kind.name)
        return
    draw = np.random.default_rng(0)
    images = batch(predictor, *draw.integers(0, 256, (3, 12, 12, 3)).astype(np.float32))
    before = predictor.answer(images)
    seen, alone = (attributions(predictor, some, method) for some in (images, images[2:]))
    assert seen.attribution.shape[0] == 3 and seen.attribution.shape[1] == seen.attribution.shape[2] > 1
    assert torch.isfinite(seen.attribution).all() and (seen.attribution.std(dim=(1, 2)) > 0).all()
    assert torch.equal(seen.attribution[2:], alone.attribution)
    np.testing.assert_array_equal(seen.probability, before)
    np.testing.assert_array_equal(predictor.answer(images), before)


@pytest.mark.parametrize(("spec", "name"), FAMILIES.items())
def test_the_first_method_that_serves_is_taken(spec: str, name: str) -> None:
    """Grad-CAM where there are maps; a transformer's tokens are asked by covering parts of the image."""
    assert attribution_for(of(load_backbone(spec, pretrained=False))).name == name


def test_every_method_was_asked() -> None:
    """So that one that is added is held to the same."""
    assert set(QUICK) == set(ATTRIBUTIONS) and len(ATTRIBUTIONS) == 2


def test_what_can_not_be_asked_is_refused() -> None:
    """Masks and boxes say themselves where they look; an unknown method is named."""
    with pytest.raises(ValueError, match="segmentation"):
        attribution_for(of(colours(), task="segmentation"))
    deep = colours()
    with pytest.raises(ValueError, match="reads 4 slices of a volume"):
        attribution_for(of(deep.fed(replace(deep.preprocessing, slices=4))))
    with pytest.raises(ValueError, match="grad-cam, occlusion"):
        attribution_for(of(colours()), "tea-leaves")


class Between(nn.Module):
    """A router that gives these shares to one expert and to what is served."""

    def __init__(self, *shares: float) -> None:
        super().__init__()
        self._shares = shares

    def experts(self) -> list[str]:
        return ["expert1"]

    def forward(self, embedding: torch.Tensor) -> torch.Tensor:
        return embedding

    def shares(self, routed: np.ndarray) -> np.ndarray:
        return np.tile(self._shares, (len(routed), 1)).astype(np.float64)


def test_of_a_bank_the_parts_that_answer_are_asked() -> None:
    """An expert with the colours' meaning swapped: whoever answers decides where the map points."""
    swapped = nn.Linear(2, 2)
    swapped.load_state_dict({"weight": 20 * torch.eye(2).flip(0), "bias": torch.zeros(2)})
    found = {}
    for shares in ((1.0, 0.0), (0.0, 1.0), (0.9, 0.1)):
        backbone = colours()
        expert = Expert(backbone.module.eval(), swapped, Recalibrator())
        predictor = of(backbone, router=Between(*shares), experts=[expert])
        found[shares] = attributions(predictor, batch(predictor, image(255, 120)), GradCam())
    by_expert, by_served, mixed = (seen.attribution[0] for seen in found.values())
    assert [int(seen.probability.argmax()) for seen in found.values()] == [1, 0, 1]
    assert within(points(by_expert), RED) and within(points(by_served), RED)
    torch.testing.assert_close(mixed, 0.9 * by_expert + 0.1 * _towards(1).attribution[0])


def _towards(wanted: int) -> Any:
    """What the plain parts say of the other class."""
    predictor = of(colours())
    images = batch(predictor, image(255, 120))
    maps = GradCam()(blocks(predictor), predictor.served.head, images, torch.tensor([wanted]))
    return SimpleNamespace(attribution=(maps / maps.abs().amax()).detach())
