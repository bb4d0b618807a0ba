"""Test-time adaptation: of one image, for one answer, where the plain answer is in doubt."""

from __future__ import annotations

import copy
import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from told import unasked
from torch import nn

from strategies.base import write_base
from strategies.episode import Episode, entropy, trusted, views
from strategies.families import load_backbone
from strategies.model import Classifier, Recalibrator
from strategies.predictor import ROWS, Predictor, check_golden, write_golden
from strategies.protocols import Lesson
from strategies.representation import Episodic


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Random weights at 32 px, batch norms adapted to them and a head of three classes."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    origin = load_backbone("mobilenet_v3_small")
    origin = origin.fed(replace(origin.preprocessing, size=32))
    for layer in origin.module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0
    with torch.no_grad():
        origin.module.train()(torch.randn(64, 3, 32, 32))
    out = tmp_path_factory.mktemp("made") / "base"
    write_base(Classifier(origin, nn.Linear(origin.width, 3), ("a", "b", "c")), out, {"how": "test"})
    return out


@pytest.fixture(scope="module")
def batch() -> torch.Tensor:
    return torch.randn(32, 3, 32, 32, generator=torch.Generator().manual_seed(1))


@pytest.fixture(scope="module")
def version(base: Path, batch: torch.Tensor, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A recalibrated version for which half of the batch is in doubt."""
    parts = tmp_path_factory.mktemp("version")
    Recalibrator(0.2, (0.1, 0.0, -0.1)).write(parts / "recalibrator.json")
    Episode(float(_entropies(Predictor.load(base, parts).answer(batch)).median()), 16).write(parts)
    return parts


def _entropies(probabilities: np.ndarray) -> torch.Tensor:
    return entropy(torch.from_numpy(probabilities))


def plain_of(base: Path, version: Path, tmp_path: Path) -> Predictor:
    """The same version without the part."""
    (tmp_path / "recalibrator.json").write_bytes((version / "recalibrator.json").read_bytes())
    return Predictor.load(base, tmp_path)


def test_only_doubtful_images_are_answered_by_their_views(
    base: Path, version: Path, batch: torch.Tensor, tmp_path: Path
) -> None:
    """They get the mean of their views' calibrated answers, or the plain one; the rest keep theirs byte for byte."""
    plain, adapted = plain_of(base, version, tmp_path).observe(batch), Predictor.load(base, version).observe(batch)
    episode = Episode.read(version)
    assert episode is not None
    doubtful = _entropies(plain.probabilities) > episode.bound
    assert doubtful.sum() == 16
    assert np.array_equal(plain.probabilities[~doubtful], adapted.probabilities[~doubtful])
    assert np.array_equal(plain.logits[~doubtful], adapted.logits[~doubtful])
    assert np.array_equal(plain.embedding, adapted.embedding), "the sensor is pinned"
    moved = (plain.probabilities != adapted.probabilities).any(axis=1)
    assert 8 <= moved.sum() < 16, "some views agree, not all"
    served = Predictor.load(base, version).served
    encoder = episode.adapting(served.backbone)
    for i in moved.nonzero()[0]:
        with torch.inference_mode():
            wanted = served.recalibrator(served.head(encoder(views(batch[i])))).mean(dim=0)
        assert adapted.probabilities[i] == pytest.approx(wanted.numpy(), abs=1e-6)
        assert adapted.logits[i] == pytest.approx(wanted.log().numpy(), abs=1e-5)


def test_nothing_is_carried_from_image_to_image(base: Path, version: Path, batch: torch.Tensor) -> None:
    """In any company and order, again and in a version loaded anew, an image gets the same bytes."""
    predictor = Predictor.load(base, version)
    together = predictor.answer(batch)
    assert np.array_equal(predictor.answer(batch.flip(0))[::-1], together)
    assert all(np.array_equal(predictor.answer(batch[i : i + 1])[0], together[i]) for i in range(0, len(batch), 3))
    assert np.array_equal(Predictor.load(base, version).answer(batch), together)
    assert len(views(batch[0])) == ROWS, "other rows would be measured too"


def test_golden_outputs_are_answered_by_views_too(base: Path, version: Path, tmp_path: Path) -> None:
    """A part whose numbers were changed does not pass for the one that was judged."""
    parts = tmp_path
    Episode(0.0, 16).write(parts)
    write_golden(Predictor.load(base, parts), parts)
    check_golden(Predictor.load(base, parts), parts)
    Episode(0.0, 2).write(parts)
    with pytest.raises(ValueError, match="golden outputs differ"):
        check_golden(Predictor.load(base, parts), parts)


def test_norms_go_part_of_the_way() -> None:
    """Without a prior they are those of training, with a huge one those of serving, else each counts its share."""
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 5, 3), nn.BatchNorm2d(5), nn.ReLU(), nn.Flatten(), nn.Linear(180, 4), nn.BatchNorm1d(4))
    encoder, batch = nn.Sequential(*layers), torch.randn(8, 3, 8, 8) * 2 + 1
    nn.init.uniform_(encoder[1].weight, 0.5, 2)
    with torch.no_grad():
        encoder(torch.randn(8, 3, 8, 8))
        encoder.eval()
        before = copy.deepcopy(encoder.state_dict())
        training = copy.deepcopy(encoder).train()(batch)
        assert Episode(0, 0).adapting(encoder)(batch) == pytest.approx(training, abs=1e-5)
        assert Episode(0, 1e9).adapting(encoder)(batch) == pytest.approx(encoder(batch), abs=1e-5)
        x = encoder[0](batch)
        mean = 0.75 * encoder[1].running_mean + 0.25 * x.mean((0, 2, 3))
        variance = 0.75 * encoder[1].running_var + 0.25 * x.var((0, 2, 3), correction=0)
        wanted = nn.functional.batch_norm(x, mean, variance, encoder[1].weight, encoder[1].bias)
        assert Episode(0, 3).adapting(encoder[:2])(batch) == pytest.approx(wanted, abs=1e-5)
    after = encoder.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before), "what was handed in stays"


def test_the_marginal_must_agree_or_be_more_certain() -> None:
    """Views that together say something else, and are no surer of it, are not believed."""
    plain = torch.tensor([0.6, 0.3, 0.1])
    assert trusted(torch.tensor([0.4, 0.3, 0.3]), plain)
    assert trusted(torch.tensor([0.1, 0.9, 0.0]), plain)
    assert not trusted(torch.tensor([0.3, 0.4, 0.3]), plain)


def test_the_bound_is_how_uncertain_home_usually_is(tmp_path: Path) -> None:
    """A quantile of the calibrated entropies of home's held cases; the new site's don't count, and home is needed."""
    logits = np.random.default_rng(0).normal(size=(60, 3)).astype(np.float32)
    logits[:20] = 0.0
    Recalibrator(0.5).write(tmp_path / "recalibrator.json")
    lesson = Lesson(
        label=np.full(60, -1),
        domain=np.repeat(["new", "home"], [20, 40]),
        patient=np.arange(60).astype(str),
        new=20,
        remembered=40,
        features=lambda: logits,
        logits=lambda: logits,
    )
    assert Episodic(usual=0.75).fit(lesson, unasked(), tmp_path) == {"test_time": "test_time.json"}
    episode = Episode.read(tmp_path)
    assert episode is not None
    assert (_entropies(torch.softmax(torch.from_numpy(logits[20:]) / 0.5, dim=1).numpy()) > episode.bound).sum() == 10
    with pytest.raises(ValueError, match="no held case of home"):
        Episodic().fit(replace(lesson, new=60, remembered=0), unasked(), tmp_path)


@pytest.mark.parametrize(
    ("record", "why"),
    [
        ({"format": 2, "bound": 0.5, "prior": 16}, "is not of format 1"),
        ({"format": 1, "bound": 0.5}, "needs a bound and a prior"),
        ({"format": 1, "bound": 0.5, "prior": 16, "steps": 3}, "needs a bound and a prior"),
        ({"format": 1, "bound": float("nan"), "prior": 16}, "needs a bound and a prior"),
        ({"format": 1, "bound": 0.5, "prior": -1}, "needs a bound and a prior"),
        ({"format": 1, "bound": "0.5", "prior": 16}, "needs a bound and a prior"),
    ],
)
def test_a_part_that_is_not_understood_is_refused(base: Path, tmp_path: Path, record: dict, why: str) -> None:
    """With one sentence, as the version is loaded."""
    (tmp_path / "test_time.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match=why):
        Predictor.load(base, tmp_path)
