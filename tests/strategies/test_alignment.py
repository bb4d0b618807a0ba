"""Alignments without a label: what they recover, what they leave, and what they refuse."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from told import never, unasked
from torch import nn

from strategies.alignment import fold, set_statistics
from strategies.augmentation import mirror
from strategies.inputs import Images
from strategies.model import Recalibrator
from strategies.preprocessing import Pixels
from strategies.protocols import Learner, Lesson, Preprocessing
from strategies.representation import BatchStatistics, Coral, FeatureStatistics, PriorCorrection, Prototypes
from strategies.training import head_of, served, train

PLAIN = Preprocessing(size=16, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


class Stripes:
    """Strong or faint stripes; the other scanner's images have less contrast."""

    def __init__(self, domain: str, n: int, first: int = 0) -> None:
        self.number = np.arange(first, first + n)
        self.label, self.domain = self.number % 2, np.full(n, domain)
        self.patient = np.array([f"{domain}{i}" for i in self.number])

    def __len__(self) -> int:
        return len(self.number)

    def image(self, i: int) -> np.ndarray:
        draw = np.random.default_rng(int(self.number[i]))
        wave = np.sin(np.mgrid[:16, :16][0] * 2 * np.pi / draw.uniform(4, 6) + draw.uniform(0, 6))
        image = 128 + (60, 25)[self.label[i]] * wave + draw.normal(0, 8, (16, 16))
        return (0.4 * image + 90 if self.domain[i] == "new" else image).clip(0, 255).astype(np.float32)


def images(domain: str, n: int, first: int) -> tuple[Images, np.ndarray]:
    cases = Stripes(domain, n, first)
    return Images(Pixels(cases, PLAIN), mirror), cases.label


def recall(probability: np.ndarray, label: np.ndarray) -> float:
    return float(np.mean(probability.argmax(axis=1) == label))


def lesson(features: np.ndarray, logits: np.ndarray, label: np.ndarray, new: int) -> Lesson:
    """`new` labelled or unlabelled cases of the site, then those of home."""
    n = len(features)
    return Lesson(
        label=label,
        domain=np.repeat(["new", "home"], [new, n - new]),
        patient=np.arange(n).astype(str),
        new=new,
        remembered=n - new,
        features=lambda: features,
        logits=lambda: logits,
    )


def test_batch_statistics_recover_an_acquisition_shift(tmp_path: Path) -> None:
    """A scanner of less contrast costs a network its answers; images without a label bring most of them back.

    The network handed in keeps its own statistics, and a case at home keeps its answer where nothing is aligned.
    """
    torch.manual_seed(0)
    layers = (nn.Conv2d(3, 12, 5), nn.BatchNorm2d(12), nn.ReLU(), nn.Conv2d(12, 12, 3, stride=2), nn.BatchNorm2d(12))
    encoder, head = nn.Sequential(*layers, nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()), nn.Linear(12, 2)
    taught, label = images("home", 96, 0)
    shown = images("home", 32, 200)
    weights = [*encoder.parameters(), *head.parameters()]
    train(
        encoder, head, weights, taught, label, develop=shown, measure=recall,
        epochs=10, learning_rate=2e-2, seed=0, patience=10,
    )  # fmt: skip
    new, truth = images("new", 200, 1000)
    before, state = recall(served(encoder, head, new)[1], truth), copy.deepcopy(encoder.state_dict())
    site = Stripes("new", 120, 500)
    learner = Learner(encoder=encoder, head=head, moving=(), inputs=Images(Pixels(site, PLAIN), mirror))
    held = Lesson(
        label=np.full(120, -1),
        domain=site.domain,
        patient=site.patient,
        new=0,
        remembered=0,
        features=never,
        logits=never,
    )
    parts = BatchStatistics().fit(held, learner, tmp_path)
    assert all(torch.equal(tensor, state[name]) for name, tensor in encoder.state_dict().items())
    set_statistics(encoder, tmp_path / parts["statistics"])
    after = recall(served(encoder, head, new)[1], truth)
    assert before < 0.7, "there is something to recover"
    assert after > before + 0.5 * (1 - before)


def test_a_network_without_batch_norm_is_told_where_to_go(tmp_path: Path) -> None:
    """Layer norms keep no statistics: the mechanism refuses with a sentence that names the one that fits."""
    held = lesson(np.zeros((4, 2)), np.zeros((4, 2)), np.zeros(4, int), 4)
    with pytest.raises(ValueError, match=r"no batch norm .* feature_statistics"):
        BatchStatistics().fit(held, unasked(), tmp_path)


def shifted(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray, nn.Linear]:
    """300 site cases, then 300 of home: features of three classes, the site's mixed and moved; a head for home's."""
    draw = np.random.default_rng(seed)
    label = np.tile(np.arange(3), 200)
    features = 4.0 * np.eye(3, 8)[label] + draw.normal(0, 0.6, (600, 8))
    mixed = np.eye(8) + 0.25 * draw.normal(size=(8, 8))
    features[:300] = features[:300] @ mixed.T * 0.4 + np.array([3, -3, 0, 1, 2, 0, -1, -2])
    head = nn.Linear(8, 3)
    with torch.no_grad():
        head.weight.copy_(torch.eye(3, 8) * 2)
        head.bias.zero_()
    return features.astype(np.float32), label, np.where(np.arange(600) < 300, -1, label), head


@pytest.mark.parametrize(("kind", "least"), [(FeatureStatistics, 0.75), (Coral, 0.9)])
def test_aligned_features_are_read_by_the_head_of_home(kind: type, least: float, tmp_path: Path) -> None:
    """Without a label, the head is right again about most of a site whose features were scaled, mixed and moved."""
    features, truth, label, head = shifted()
    logits = head_of(head, features)
    assert recall(logits[:300], truth[:300]) < 0.6
    parts = kind().fit(lesson(features, logits, label, 300), unasked(), tmp_path)
    fold(head, tmp_path / parts["alignment"])
    assert recall(head_of(head, features[:300]), truth[:300]) > least


def test_prototypes_bring_each_class_home(tmp_path: Path) -> None:
    """With the site's labels, class means come to lie near home's, and the head is right again."""
    features, truth, _, head = shifted()
    parts = Prototypes(ridge=0.1).fit(lesson(features, head_of(head, features), truth, 300), unasked(), tmp_path)
    fold(head, tmp_path / parts["alignment"])
    assert recall(head_of(head, features[:300]), truth[:300]) > 0.9


@pytest.mark.parametrize("kind", [FeatureStatistics, Coral, Prototypes])
def test_a_site_like_home_is_left_alone(kind: type, tmp_path: Path) -> None:
    """Where there is no shift, the alignment changes next to nothing."""
    features, _, label, head = shifted()
    features[:300] = features[300:]
    before = head_of(head, features)
    parts = kind().fit(lesson(features, before, label, 300), unasked(), tmp_path)
    fold(head, tmp_path / parts["alignment"])
    assert head_of(head, features) == pytest.approx(before, abs=1e-2)


def test_folding_is_the_map_before_the_head(tmp_path: Path) -> None:
    """Serving pays nothing: the head takes the map in, and says what it would have said behind it."""
    torch.manual_seed(0)
    x, weight, bias = torch.randn(5, 6), torch.randn(6, 6), torch.randn(6)
    save_file({"weight": weight, "bias": bias}, tmp_path / "full.safetensors")
    save_file({"weight": weight[0].clone(), "bias": bias}, tmp_path / "diagonal.safetensors")
    for name, mapped in (("full", x @ weight.T + bias), ("diagonal", x * weight[0] + bias)):
        head = nn.Sequential(nn.Linear(6, 4), nn.ReLU(), nn.Linear(4, 2))
        with torch.no_grad():
            wanted = head(mapped)
            fold(head, tmp_path / f"{name}.safetensors")
            assert head(x) == pytest.approx(wanted.numpy(), abs=1e-5)
    with pytest.raises(ValueError, match="belongs to another model"):
        fold(nn.Linear(7, 2), tmp_path / "full.safetensors")
    with pytest.raises(ValueError, match="begins with a linear layer"):
        fold(nn.Sequential(nn.ReLU(), nn.Linear(6, 2)), tmp_path / "full.safetensors")


def test_the_mix_of_classes_is_found_without_a_label(tmp_path: Path) -> None:
    """Home has one class in four cases, the site three in four: the scores learn that from the images alone."""
    draw = np.random.default_rng(0)
    label = np.concatenate([draw.random(400) < 0.75, draw.random(400) < 0.25]).astype(int)
    x = draw.normal(2.0 * label - 1)
    logits = np.stack([np.zeros(800), 2 * x + np.log(0.25 / 0.75)], axis=1).astype(np.float32)
    known = np.where(np.arange(800) < 400, -1, label)
    Recalibrator(1.0, (0.0, 0.0)).write(tmp_path / "recalibrator.json")
    parts = PriorCorrection().fit(lesson(logits, logits, known, 400), unasked(), tmp_path)
    fitted = Recalibrator.read(tmp_path / parts["recalibrator"], classes=2)
    assert fitted.bias[1] - fitted.bias[0] == pytest.approx(np.log(9), abs=0.35)
    site = torch.from_numpy(logits[:400])
    assert recall(fitted(site).numpy(), label[:400]) > recall(site.numpy(), label[:400]) + 0.05


def test_an_alignment_needs_both_sides(tmp_path: Path) -> None:
    """One case of the site, or none of home, is one sentence; and another network's statistics are refused."""
    features, _, label, head = shifted()
    some = head_of(head, features)
    with pytest.raises(ValueError, match="at least 2 cases of the new site"):
        Coral().fit(lesson(features, some, label, 1), unasked(), tmp_path)
    with pytest.raises(ValueError, match="of home"):
        Coral().fit(lesson(features, some, label, 600), unasked(), tmp_path)
    save_file({"0.running_mean": torch.zeros(3), "0.running_var": torch.ones(3)}, tmp_path / "statistics.safetensors")
    assert set(load_file(tmp_path / "statistics.safetensors")) == {"0.running_mean", "0.running_var"}
    with pytest.raises(ValueError, match="belongs to another model"):
        set_statistics(nn.Sequential(nn.BatchNorm2d(4)), tmp_path / "statistics.safetensors")
