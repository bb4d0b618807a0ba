"""What every mechanism of adaptation keeps to, whichever package's `__all__` it stands in; and that none was missed."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from strategies import data, objective, parameter, representation
from strategies.base import write_base
from strategies.families import load_backbone
from strategies.model import Classifier
from strategies.predictor import Predictor
from strategies.protocols import DataMechanism, ObjectiveMechanism, ParameterMechanism, RepresentationMechanism

SLOTS = {
    parameter: (ParameterMechanism, 3),
    representation: (RepresentationMechanism, 1),
    objective: (ObjectiveMechanism, 8),
    data: (DataMechanism, 3),
}
PARAMETERS = [getattr(parameter, name) for name in parameter.__all__]


def classifier() -> Classifier:
    torch.manual_seed(0)
    origin = load_backbone("mobilenet_v3_small")
    return Classifier(origin, nn.Linear(origin.width, 3), ("a", "b", "c")).eval()


def test_every_registered_mechanism_fits_its_slot() -> None:
    """Each class is made without arguments, has its slot's methods, and is the only one of its name."""
    for package, (protocol, count) in SLOTS.items():
        registered = [getattr(package, name) for name in package.__all__]
        mechanisms = [kind() for kind in (*registered, *getattr(package, "EXPERIMENTAL", ()))]
        assert len(mechanisms) == count == len({mechanism.name for mechanism in mechanisms})
        assert all(isinstance(mechanism, protocol) for mechanism in mechanisms)


@pytest.mark.parametrize("kind", PARAMETERS)
def test_attaching_changes_no_answer(kind: type) -> None:
    """Until it is trained, the readied model answers as before, and what moves is just what was announced."""
    model, images = classifier(), torch.rand(2, 3, 64, 64)
    with torch.inference_mode():
        before = model(images)
    moving = kind().attach(model)
    with torch.inference_mode():
        assert torch.equal(model.eval()(images), before)
    assert {id(weight) for weight in moving} == {id(weight) for weight in model.parameters() if weight.requires_grad}


@pytest.mark.parametrize("kind", PARAMETERS)
def test_what_moved_is_what_is_written(kind: type, tmp_path: Path) -> None:
    """A training step, then the parts on a fresh base: the served version answers as the trained model did."""
    model = classifier()
    write_base(model, tmp_path / "base", {})
    mechanism = kind()
    moving = mechanism.attach(model)
    mechanism.training(model)
    images = torch.rand(8, 3, 64, 64)
    optimiser = torch.optim.SGD(moving, lr=0.5)
    for _ in range(2):
        optimiser.zero_grad()
        nn.functional.cross_entropy(model(images), torch.arange(8) % 3).backward()
        optimiser.step()
    (tmp_path / "parts").mkdir()
    parts = mechanism.write(model.eval(), tmp_path / "parts")
    assert sorted(parts.values()) == sorted(file.name for file in (tmp_path / "parts").iterdir())
    with torch.inference_mode():
        trained = model(images).numpy()
    served = Predictor.load(tmp_path / "base", tmp_path / "parts").observe(images).logits
    assert served == pytest.approx(trained, abs=1e-3)
    assert served != pytest.approx(Predictor.load(tmp_path / "base").observe(images).logits, abs=1e-3)
