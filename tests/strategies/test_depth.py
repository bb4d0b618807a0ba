"""How deep an update went and how it bears worse images, on a tiny network of the true architecture."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from shapes import Shapes
from torch import nn

from strategies.axes import CORRUPTIONS, cka, corrupted, depth
from strategies.base import write_base
from strategies.families import load_backbone
from strategies.model import Classifier
from strategies.parameter import Full, LinearProbe, LoRA
from strategies.preprocessing import Pixels


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    origin = load_backbone("mobilenet_v3_small")
    folder = tmp_path_factory.mktemp("axes") / "base"
    write_base(Classifier(origin, nn.Linear(origin.width, 2), ("round", "square")), folder, {})
    return folder


def moved(base: Path, mechanism: LinearProbe | LoRA | Full, folder: Path, by: float) -> Path:
    """The parts of a version whose moving weights are all `by` off."""
    from strategies.base import load_base

    model = load_base(base)
    torch.manual_seed(1)
    with torch.no_grad():
        for weight in mechanism.attach(model):
            weight += by * torch.randn_like(weight)
    folder.mkdir()
    mechanism.write(model.eval(), folder)
    return folder


def images(base: Path, n: int = 6) -> Pixels:
    from strategies.base import load_base

    return Pixels(Shapes.of("home", n), load_base(base).origin.preprocessing)


def test_depth_tells_the_head_from_late_blocks_and_all(base: Path, tmp_path: Path) -> None:
    """A probe changes no block; an adapter leaves the first third alone; fine-tuning reaches the image."""
    seen = images(base)
    probe, lora, full = (
        depth(base, None, moved(base, mechanism, tmp_path / mechanism.name, 0.05), seen)
        for mechanism in (LinearProbe(), LoRA(), Full())
    )

    assert probe.earliest is None
    assert set(probe.change) == {0.0}
    assert lora.earliest > int(0.3 * len(lora.change))
    assert lora.change[:2] == pytest.approx([0.0, 0.0], abs=1e-6)
    assert full.earliest == 1
    assert full.change[-1] > 0.01
    assert 0 < probe.touched < lora.touched < full.touched <= full.of


def test_a_version_is_compared_with_the_one_that_is_live(base: Path, tmp_path: Path) -> None:
    """Beside itself nothing was touched."""
    parts = moved(base, Full(), tmp_path / "one", 0.05)
    same = depth(base, parts, parts, images(base))

    assert (same.touched, same.earliest) == (0, None)


def test_cka_knows_no_rotation_and_no_scale() -> None:
    """Turned and scaled features are the same representation; other ones are not."""
    rng = np.random.default_rng(0)
    x = rng.standard_normal((200, 8)).astype(np.float32)
    turned = 3 * x @ np.linalg.qr(rng.standard_normal((8, 8)))[0]

    assert cka(x, turned) == pytest.approx(1.0)
    assert cka(x, rng.standard_normal((200, 8))) < 0.2
    assert (cka(np.zeros((5, 2)), np.zeros((5, 2))), cka(np.zeros((200, 2)), x[:, :2])) == (1.0, 0.0)


def test_corruptions_make_images_worse_and_are_the_same_each_time(base: Path) -> None:
    """Each kind changes the picture, within its range, and the answers are answers."""
    seen = images(base)
    for name, worse in CORRUPTIONS.items():
        once, again = worse(seen[range(6)]), worse(seen[range(6)])
        assert torch.equal(once, again), name
        assert once.dtype == torch.uint8
        assert once.shape == seen[range(6)].shape
        assert (once != seen[range(6)]).float().mean() > 0.1, name
    answers = dict(corrupted(base, None, seen))
    assert answers.keys() == CORRUPTIONS.keys()
    assert all(np.allclose(p.sum(axis=1), 1, atol=1e-5) and p.shape == (6, 2) for p in answers.values())
