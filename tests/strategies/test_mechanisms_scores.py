"""The loss's class balance, and the recalibration of scores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from told import unasked

from strategies.domains import domain_shares
from strategies.model import Recalibrator
from strategies.objective import CrossEntropy
from strategies.protocols import Lesson
from strategies.representation import Recalibrate


def nll(logits: np.ndarray, target: np.ndarray, fitted: Recalibrator) -> float:
    probability = fitted(torch.tensor(logits)).numpy()
    return float(-np.log(probability[np.arange(len(target)), target]).mean())


def drawn(n: int, *, sharpness: float = 1.0, bias: tuple[float, ...] = (0.0, 0.0, 0.0), seed: int = 0) -> tuple:
    """Logits whose calibrated form is logits / sharpness + bias, and labels drawn from it."""
    generator = np.random.default_rng(seed)
    true = generator.normal(0, 2, (n, 3))
    p = np.exp(true) / np.exp(true).sum(1, keepdims=True)
    target = np.array([generator.choice(3, p=row) for row in p])
    return (true - np.array(bias)) * sharpness, target


def test_recalibration_finds_temperature_and_bias() -> None:
    """Scores three times too sure and biased against one class are set right with enough labels."""
    logits, target = drawn(3000, sharpness=3.0, bias=(1.0, -0.5, -0.5))
    fitted = Recalibrate().mode(logits, target, np.full(3000, "home"))
    assert fitted.temperature == pytest.approx(3.0, rel=0.1)
    assert fitted.bias == pytest.approx([1.0, -0.5, -0.5], abs=0.15)


def test_recalibration_without_cases_is_the_identity() -> None:
    """No labels, no change: the prior is all there is."""
    fitted = Recalibrate().mode(np.zeros((5, 3)), np.full(5, -1), np.full(5, "home"))
    assert fitted == Recalibrator(1.0, (0.0, 0.0, 0.0))


def test_a_domain_speaks_by_the_root_of_its_cases() -> None:
    """Two cases of a new site don't set the temperature of a hospital; three thousand don't silence three hundred."""
    assert domain_shares(np.array(["a"] * 16 + ["b"] * 4 + ["c"])) == pytest.approx(
        {"a": 4 / 7, "b": 2 / 7, "c": 1 / 7}
    )
    assert domain_shares(np.array([], np.str_)) == {}
    logits, target = drawn(1000)
    odd = np.array([[9.0, 0.0, 0.0]] * 2)
    both = np.concatenate([logits, odd]), np.concatenate([target, [1, 2]])
    fitted = Recalibrate(bias=False).mode(*both, np.array(["home"] * 1000 + ["new"] * 2))
    assert 1.0 < fitted.temperature < 2.2, "with equal votes it is beyond 50"


def test_few_cases_do_not_run_away() -> None:
    """Six cases, all of them right, would take an unguarded temperature to zero; the scores stay within bounds."""
    logits = np.eye(3)[[0, 1, 2, 0, 1, 2]] * 4.0
    fitted = Recalibrate().mode(logits, np.array([0, 1, 2, 0, 1, 2]), np.full(6, "home"))
    assert 0.5 < fitted.temperature <= 1.0


def test_few_cases_seldom_worsen_a_calibrated_model() -> None:
    """Thirty labels of a model that is calibrated already cost less than 0.03 nats on unseen cases, on average."""
    fresh, truth = drawn(4000, seed=99)
    identity = Recalibrator()
    costs = []
    for seed in range(10):
        fitted = Recalibrate().mode(*drawn(30, seed=seed), np.full(30, "home"))
        costs.append(nll(fresh, truth, fitted) - nll(fresh, truth, identity))
    assert np.mean(costs) < 0.03


def test_a_large_domain_does_not_outvote_a_small_one() -> None:
    """A thousand over-sure cases of home and a hundred of the new site count as much as each other."""
    home, new = drawn(1000, sharpness=1.0), drawn(100, sharpness=4.0, seed=1)
    logits, target = (np.concatenate(pair) for pair in zip(home, new, strict=True))
    fitted = Recalibrate().mode(logits, target, np.array(["home"] * 1000 + ["new"] * 100))
    unweighted = Recalibrate().mode(logits, target, np.full(1100, "one"))
    assert fitted.temperature > unweighted.temperature * 1.1


def test_recalibrator_file_is_the_one_the_predictor_reads(tmp_path: Path) -> None:
    """What is fitted is what is served: the part reads back as the same temperature and biases."""
    logits, target = drawn(50)
    home, patient = np.full(50, "home"), np.arange(50).astype(str)
    held = Lesson(
        label=target, domain=home, patient=patient, new=50, remembered=0, logits=lambda: logits, features=lambda: logits
    )
    parts = Recalibrate().fit(held, unasked(), tmp_path)
    read = Recalibrator.read(tmp_path / parts["recalibrator"], classes=3)
    assert read == Recalibrate().mode(logits, target, np.full(50, "home"))


def test_scores_that_are_not_finite_are_refused() -> None:
    """NaN in the scores is an error of one sentence, not a fit to nonsense."""
    with pytest.raises(ValueError, match="NaN"):
        Recalibrate().mode(np.full((4, 2), np.nan), np.zeros(4, int), np.full(4, "home"))


def test_classes_weigh_the_same_in_each_domain() -> None:
    """A site of nine neutrophils to one lymphocyte doesn't teach that its images are neutrophils."""
    label = np.array([0] * 9 + [1] * 3 + [0, 1] * 5)
    domain = np.array(["new"] * 12 + ["home"] * 10)
    weight = CrossEntropy().weights(label, domain)
    new = domain == "new"
    assert weight[new & (label == 0)].sum() == pytest.approx(weight[new & (label == 1)].sum())
    assert weight[~new] == pytest.approx(1.0)
    assert weight[new].mean() == pytest.approx(1.0)


def test_one_odd_case_can_not_steer_the_training() -> None:
    """A class with one case weighs at most `at_most` times the commonest."""
    weight = CrossEntropy(at_most=5.0).weights(np.array([0] * 100 + [1]), np.full(101, "new"))
    assert weight[-1] / weight[0] == pytest.approx(5.0)


def test_cases_without_a_label_are_not_learnt_from() -> None:
    """An unlabelled case is an error here, never a negative."""
    with pytest.raises(ValueError, match="no label"):
        CrossEntropy().weights(np.array([0, -1]), np.array(["new", "new"]))
