"""The suffix that is computed with no more than its training needs is the suffix that peft saves."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from strategies import suffix as module
from strategies.families import load_backbone
from strategies.model import Classifier
from strategies.parameter import LoRA
from strategies.predictor import merged
from strategies.suffix import lean


@pytest.fixture
def exact(monkeypatch: pytest.MonkeyPatch) -> None:
    """Float32, as on a processor without instructions for bfloat16."""
    monkeypatch.setattr(module, "_fast_in_bfloat16", lambda: False)


def adapted(name: str) -> tuple[Classifier, list[nn.Parameter], nn.Module, nn.Module]:
    """A network with a low-rank adapter that says something, split behind four fifths of its blocks."""
    torch.manual_seed(0)
    origin = load_backbone(name, pretrained=False)
    model = Classifier(origin, nn.Linear(origin.width, 2), ("a", "b")).eval()
    mechanism = LoRA(frozen=0.8)
    moving = mechanism.attach(model)
    for weight in moving:
        nn.init.normal_(weight, std=0.05)
    return model, moving, *origin.split(int(0.8 * origin.depth))


def tokens(prefix: nn.Module, model: Classifier) -> torch.Tensor:
    size = model.origin.preprocessing.size
    with torch.no_grad():
        return prefix(torch.rand(3, 3, size, size, generator=torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("name", ["dinov2-tiny", "vit_tiny_patch16_224", "vit_tiny_patch16_224.avg"])
def test_features_and_gradients_are_those_of_the_network(name: str, exact: None) -> None:
    """With the class token pooled, in either library, and with the mean of all tokens."""
    model, moving, prefix, suffix = adapted(name.partition(".")[0])
    if name.endswith(".avg"):
        model.backbone.network.base_model.model.global_pool = "avg"
        prefix, suffix = model.origin.split(int(0.8 * model.origin.depth))
    quick, seen = lean(suffix, moving), tokens(prefix, model)
    assert quick is not suffix
    found = []
    for encoder in (suffix, quick):
        features = encoder(seen)
        loss = model.head(features).square().sum()
        found.append((features.detach(), torch.autograd.grad(loss, moving)))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=1e-4, atol=1e-4)
    for one, other in zip(found[0][1], found[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4 * float(one.abs().max()))


def test_in_bfloat16_features_and_gradients_are_close(monkeypatch: pytest.MonkeyPatch) -> None:
    """Within one percent in all, whether or not this processor is quick at it; what moves stays in float32."""
    monkeypatch.setattr(module, "_fast_in_bfloat16", lambda: True)
    model, moving, prefix, suffix = adapted("dinov2-tiny")
    quick, seen = lean(suffix, moving), tokens(prefix, model)
    one, other = (torch.autograd.grad(model.head(encoder(seen)).sum(), moving) for encoder in (suffix, quick))
    flat = [torch.cat([part.flatten() for part in parts]) for parts in (one, other)]
    assert torch.dist(*flat) < 0.02 * flat[0].norm()
    assert {weight.dtype for weight in moving} == {torch.float32}
    assert torch.dist(quick(seen), suffix(seen)) < 0.01 * suffix(seen).norm()


def test_what_it_learns_is_what_is_saved(tmp_path: Path, exact: None) -> None:
    """Steps on it move peft's weights: the saved adapter, merged into a fresh base, answers as it does."""
    model, moving, prefix, suffix = adapted("dinov2-tiny")
    torch.manual_seed(0)
    fresh = load_backbone("dinov2-tiny", pretrained=False)
    quick, seen = lean(suffix, moving), tokens(prefix, model)
    before = {name: weight.clone() for name, weight in model.backbone.state_dict().items() if "lora" not in name}
    optimiser = torch.optim.AdamW(moving, lr=1e-2)
    for _ in range(2):
        optimiser.zero_grad()
        model.head(quick(seen)).square().sum().backward()
        optimiser.step()
    LoRA().write(model, tmp_path)
    fresh.module.network = merged(fresh.module.network, tmp_path)
    with torch.no_grad():
        torch.testing.assert_close(fresh.split(6)[1](seen), quick(seen), rtol=1e-3, atol=1e-3)
    assert int(0.8 * model.origin.depth) == 6
    for name, weight in model.backbone.state_dict().items():
        if "lora" not in name:
            assert torch.equal(weight, before[name])


@pytest.mark.parametrize("name", ["mobilenet_v3_small", "dinov2-tiny"])
def test_what_it_does_not_know_is_left_as_it_is(name: str) -> None:
    """Convolutions; and a block in which a weight of its own moves beside the adapter."""
    _, moving, _, suffix = adapted(name)
    if name == "dinov2-tiny":
        weight = suffix[0].norm1.weight
        moving = [*moving, weight.requires_grad_(True)]
    assert lean(suffix, moving) is suffix
    assert lean(suffix, []) is suffix
