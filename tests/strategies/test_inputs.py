"""Inputs of a training: that what is computed once is what would have been computed each time."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from strategies import kept
from strategies import suffix as suffix_module
from strategies.augmentation import mirror
from strategies.base import Chosen
from strategies.families import load_backbone
from strategies.inputs import Images, Latents
from strategies.model import Classifier
from strategies.parameter import LoRA
from strategies.preprocessing import Pixels
from strategies.protocols import Preprocessing
from strategies.suffix import lean
from strategies.training import train

PLAIN = Preprocessing(size=32, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


class Slopes:
    """Images that are brighter on the left or on the right, with noise."""

    def __init__(self, n: int) -> None:
        draw = np.random.default_rng(0)
        self.label = np.arange(n) % 2
        self.patient = self.domain = np.array(["x"] * n)
        self._images = [draw.uniform(0, 200, (32, 32, 3)).astype(np.float32) for _ in range(n)]

    def __len__(self) -> int:
        return len(self.label)

    def image(self, i: int) -> NDArray[np.float32]:
        return self._images[i]


class Counted(nn.Module):
    """A convolution that counts the images that passed it."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.convolution, self.seen = nn.Conv2d(3, 4, 3, stride=2), 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += len(images)
        return self.convolution(images)


@pytest.mark.parametrize("limit", [2**20, 8 * 4 * 15 * 15 * 4, 0])
def test_latents_are_what_the_prefix_makes_of_the_same_views(limit: int, tmp_path: Path) -> None:
    """Within the limit, beyond it, and across it."""
    pixels, prefix = Pixels(Slopes(6), PLAIN), Counted()
    images, latents = Images(pixels, mirror), Latents(prefix, pixels, folder=tmp_path, mirrored=True, limit=limit)
    rows = [5, 0, 3, 3, 1]
    with torch.no_grad():
        for seed in range(4):
            wanted = prefix(images.drawn(rows, torch.Generator().manual_seed(seed)))
            got = latents.drawn(rows, torch.Generator().manual_seed(seed))
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(latents.plain(rows), prefix(images.plain(rows)), rtol=1e-4, atol=1e-5)


def test_the_prefix_runs_once_per_view(tmp_path: Path) -> None:
    """Ten epochs cost no more of it than one."""
    pixels, prefix = Pixels(Slopes(6), PLAIN), Counted()
    latents = Latents(prefix, pixels, folder=tmp_path, mirrored=True)
    before = prefix.seen
    for seed in range(10):
        latents.drawn(range(6), torch.Generator().manual_seed(seed))
    assert prefix.seen == before == 2 * 6 + 1  # one image first, to know the size


def test_training_on_latents_is_training_on_images(tmp_path: Path) -> None:
    """An adapter in the last blocks gets the same weights both ways, up to rounding."""
    learnt = []
    for cached in (False, True):
        torch.manual_seed(0)
        origin = load_backbone("mobilenet_v3_small")
        model = Classifier(origin.fed(PLAIN), nn.Linear(origin.width, 2), ("a", "b")).eval()
        mechanism = LoRA(frozen=0.6)
        torch.manual_seed(1)
        weights = mechanism.attach(model)
        examples = Slopes(12)
        pixels, held = Pixels(examples, PLAIN), Pixels(Chosen(examples, np.arange(4)), PLAIN)
        prefix, suffix = origin.split(int(0.6 * origin.depth))
        encoder = suffix if cached else model.backbone
        inputs = Latents(prefix, pixels, folder=tmp_path, mirrored=True) if cached else Images(pixels, mirror)
        shown = Latents(prefix, held, folder=tmp_path, mirrored=False) if cached else Images(held, mirror)
        made = train(encoder, model.head, weights, inputs, examples.label, develop=(shown, examples.label[:4]),
                     measure=lambda *_: 0.0, epochs=2, learning_rate=1e-3, seed=0, patience=2, batch_size=6,
                     mode=mechanism.training)  # fmt: skip
        learnt.append((made.loss, [weight.detach().clone() for weight in weights]))
    np.testing.assert_allclose(learnt[0][0], learnt[1][0], rtol=1e-3)
    for one, other in zip(learnt[0][1], learnt[1][1], strict=True):
        torch.testing.assert_close(one, other, rtol=1e-2, atol=1e-4)


def test_a_transformer_learns_from_kept_tokens_what_it_learns_from_images(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """At the coarsest coding and in bfloat16 the loss goes the same way, within three percent."""
    monkeypatch.setattr(kept, "PER_CASE", 0)
    monkeypatch.setattr(suffix_module, "_fast_in_bfloat16", lambda: True)
    small = replace(PLAIN, size=128)
    losses = []
    for quick in (False, True):
        torch.manual_seed(0)
        origin = load_backbone("vit_tiny_patch16_224", pretrained=False).fed(small)
        model = Classifier(origin, nn.Linear(origin.width, 2), ("a", "b")).eval()
        mechanism = LoRA(frozen=0.8)
        weights = mechanism.attach(model)
        examples = Slopes(12)
        examples._images = [0.5 * image + 100 * (i % 2) for i, image in enumerate(examples._images)]
        pixels, cut = Pixels(examples, small), int(0.8 * origin.depth)
        prefix, suffix = origin.split(cut)
        encoder = lean(suffix, weights) if quick else model.backbone
        inputs = Latents(prefix, pixels, folder=tmp_path, mirrored=True) if quick else Images(pixels, mirror)
        made = train(encoder, model.head, weights, inputs, examples.label, develop=(inputs, examples.label),
                     measure=lambda *_: 0.0, epochs=4, learning_rate=3e-3, seed=0, patience=4, batch_size=6,
                     mode=mechanism.training)  # fmt: skip
        losses.append(made.loss)
    assert encoder is not suffix
    assert losses[0][-1] < 0.9 * losses[0][0]
    np.testing.assert_allclose(losses[0], losses[1], rtol=0.03)
