"""Preprocessing, its cache, the augmentation and the training loop."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import nn

from strategies.augmentation import augment, mirror, turned, upright
from strategies.collapse import CollapseGuard, effective_rank, mean_cosine
from strategies.inputs import Images
from strategies.preprocessing import Pixels, apply, from_record, normalise, to_record
from strategies.protocols import Preprocessing
from strategies.training import Shuffled, served, train

PLAIN = Preprocessing(size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))


class Squares:
    """Grey images of two classes, dark and bright."""

    def __init__(self, n: int) -> None:
        self.label = np.arange(n) % 2
        self.patient = self.domain = np.array(["x"] * n)
        self.read = 0

    def __len__(self) -> int:
        return len(self.label)

    def image(self, i: int) -> NDArray[np.float32]:
        self.read += 1
        return np.full((10, 12), 60.0 + 120 * (i % 2) + i % 7, dtype=np.float32)


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 2))


def _recall(probability: NDArray[np.float32], label: NDArray[np.integer]) -> float:
    return float(np.mean(probability.argmax(axis=1) == label))


def test_a_cached_image_is_the_served_image() -> None:
    """Training sees bit for bit what serving sees, inside the cache's limit and beyond it."""
    examples = Squares(6)
    cached = Pixels(examples, PLAIN, limit=3 * 3 * 8 * 8)
    read = examples.read
    assert read == 3
    for i in range(6):
        assert torch.equal(normalise(PLAIN, cached[[i]])[0], apply(PLAIN, examples.image(i)))
    assert examples.read == read + 6 + 3


def test_preprocessing_round_trips_and_refuses_what_it_does_not_know() -> None:
    """A version's preprocessing reads back as it was written; a typing error in it is named."""
    assert from_record(to_record(PLAIN)) == PLAIN
    for change in ({"scale": "log"}, {"colour": 3}):
        with pytest.raises(ValueError):
            from_record(to_record(PLAIN) | change)


def test_grey_and_colour_of_the_same_intensity_agree() -> None:
    """A grey film and its copy saved in colour are one image to the network."""
    grey = np.random.default_rng(0).uniform(0, 255, (20, 30)).astype(np.float32)
    assert torch.equal(apply(PLAIN, grey), apply(PLAIN, np.repeat(grey[..., None], 3, axis=2)))


def test_augmentation_keeps_range_shape_and_seed() -> None:
    """Views stay images, differ from each other, and are the same for the same seed."""
    batch = torch.randint(0, 256, (6, 3, 16, 16), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    for view in (augment, turned, mirror):
        views = [view(batch, torch.Generator().manual_seed(seed)) for seed in (1, 1, 2)]
        assert views[0].shape == batch.shape
        assert views[0].min() >= 0 and views[0].max() <= 255
        assert torch.equal(views[0], views[1])
        assert not torch.equal(views[0], views[2])


def test_only_images_without_an_up_are_turned() -> None:
    """A film upside down is no view of a film, while a cell has no up."""
    noise = torch.randint(0, 200, (40, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    film = noise.clone()
    film[:, :, :10] += 50
    assert upright(film)
    assert not upright(noise)
    assert not upright(noise[:3])


def test_every_row_once_an_epoch_and_no_batch_of_one() -> None:
    """No case is left out of an epoch, and none is alone in a batch, which BatchNorm can't learn from."""
    for n in (5, 17, 33, 64):
        parts = list(Shuffled(n, 16, torch.Generator().manual_seed(0)))
        assert sorted(i for part in parts for i in part) == list(range(n))
        assert min(map(len, parts)) > 1


def test_training_learns_stops_early_and_keeps_the_best_epoch() -> None:
    """Two classes that differ in brightness are learnt, and epochs without a gain end the training."""
    model, examples = _model(), Squares(32)
    images = Images(Pixels(examples, PLAIN), mirror)
    told = iter([0.9, *[0.1] * 7])
    states = []

    def measure(*_: object) -> float:
        states.append(model[4].weight.detach().clone())  # type: ignore[index,operator]
        return next(told)

    made = train(
        model[:-1],
        model[-1],
        model.parameters(),
        images,
        examples.label,
        develop=(images, examples.label),
        measure=measure,
        epochs=8,
        learning_rate=1e-2,
        seed=0,
        patience=3,
    )
    assert (made.epochs, made.best_epoch) == (7, 1), "three after the first half"
    assert torch.equal(model[4].weight, states[0])  # type: ignore[index]
    made = train(
        model[:-1],
        model[-1],
        model.parameters(),
        images,
        examples.label,
        develop=(images, examples.label),
        measure=_recall,
        epochs=12,
        learning_rate=3e-2,
        seed=0,
        patience=12,
    )
    assert max(made.develop) == 1.0
    assert not any(layer.training for layer in model)
    assert _recall(served(model[:-1], model[-1], images)[1], examples.label) == 1.0


def test_who_asks_is_told_of_every_step_while_its_gradients_are_there() -> None:
    """Counted over epochs; what it changes is what is trained on."""
    model, examples = _model(), Squares(32)
    images, heard = Images(Pixels(examples, PLAIN), mirror), []

    def stepped(done: int, total: int) -> None:
        heard.append((done, total, float(model[4].weight.grad.abs().sum())))  # type: ignore[index,union-attr,operator]
        model[4].bias.data.fill_(3)  # type: ignore[index,union-attr]

    train(model[:-1], model[-1], model.parameters(), images, examples.label, develop=(images, examples.label),
          measure=_recall, epochs=2, learning_rate=1e-2, seed=0, patience=2, stepped=stepped)  # fmt: skip
    assert [one[:2] for one in heard] == [(1, 4), (2, 4), (3, 4), (4, 4)] and all(one[2] > 0 for one in heard)
    assert model[4].bias.tolist() == [3, 3]  # type: ignore[index,union-attr,operator]


@pytest.mark.parametrize("epochs", range(1, 13))
def test_a_training_may_have_any_number_of_steps(epochs: int) -> None:
    """One batch an epoch: a cycle of the learning rate has to fit into five steps as into twelve."""
    images = Pixels(Squares(8), PLAIN)
    encoder, head = (lambda model: (model[:-1], model[-1]))(_model())
    trained = train(
        encoder, head, [*encoder.parameters(), *head.parameters()], Images(images, mirror), Squares(8).label,
        develop=(Images(images, mirror), Squares(8).label), measure=_recall, epochs=epochs, learning_rate=1e-3,
        seed=0, patience=epochs,
    )  # fmt: skip
    assert trained.epochs == epochs and all(math.isfinite(loss) for loss in trained.loss)


def test_a_training_that_diverges_says_so() -> None:
    """NaN weights never become a candidate."""
    model, examples = _model(), Squares(8)
    images = Images(Pixels(examples, PLAIN), mirror)
    with pytest.raises(ValueError, match="diverged"):
        train(
            model[:-1],
            model[-1],
            model.parameters(),
            images,
            examples.label,
            develop=(images, examples.label),
            measure=_recall,
            epochs=3,
            learning_rate=math.inf,
            seed=0,
            patience=3,
        )


class Noise(Squares):
    """Images without anything in common."""

    def image(self, i: int) -> NDArray[np.float32]:
        return np.random.default_rng(i).uniform(0, 255, (8, 8)).astype(np.float32)


def test_a_training_that_collapses_says_so() -> None:
    """A loss that is least where all images look alike ends the job with a reason, though it never diverges."""
    torch.manual_seed(0)
    encoder, examples = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 8)), Noise(32)
    images = Images(Pixels(examples, PLAIN), mirror)
    with pytest.raises(ValueError, match=r"collapsed: in epoch .* point the same way"):
        train(
            encoder,
            nn.Linear(8, 2),
            encoder.parameters(),
            images,
            examples.label,
            develop=(images, examples.label),
            measure=_recall,
            epochs=40,
            learning_rate=3e-2,
            seed=0,
            patience=40,
            defended=True,
            loss=lambda step: (step.features - 1).square().mean(),
        )


def test_a_line_is_a_collapse_and_two_classes_are_none() -> None:
    """Of many directions one is left: stopped. Two tight classes, what a good training makes, go through."""
    draw = np.random.default_rng(0).normal(size=(100, 20))
    guard = CollapseGuard(draw)
    with pytest.raises(ValueError, match=r"collapsed: in epoch 3 .* effective rank of 1\."):
        guard.check(draw * ([1.0] + [1e-3] * 19), epoch=3)
    guard.check(np.sign(draw[:, :1]) * np.ones(20) + 0.1 * draw, epoch=3)


def test_effective_rank_counts_directions() -> None:
    """Equal directions count whole, a constant counts none, and scale and place don't matter."""
    draw = np.random.default_rng(0).normal(size=(2000, 5))
    assert effective_rank(draw) == pytest.approx(5, abs=0.01)
    flat = 3 + 7 * draw @ np.diag([1, 1, 0, 0, 0])
    assert effective_rank(flat) == pytest.approx(2, abs=0.01)
    assert effective_rank(np.ones((6, 4))) == 0.0
    assert mean_cosine(np.ones((6, 4))) == pytest.approx(1)
    assert mean_cosine(draw) == pytest.approx(0, abs=0.01)
