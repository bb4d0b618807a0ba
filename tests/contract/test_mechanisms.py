"""What every mechanism of adaptation keeps to, whichever package's `__all__` it stands in; and that none was missed."""

from __future__ import annotations

import hashlib
import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import sams
import torch
from safetensors.torch import save_file
from torch import nn

from strategies import data, objective, parameter, representation
from strategies.base import write_base
from strategies.collapse import pooled
from strategies.families import load_backbone
from strategies.families.backbone import ChainedBackbone, Encoder
from strategies.families.dense import decoder
from strategies.families.sam import sam_backbone
from strategies.model import Classifier
from strategies.predictor import Predictor
from strategies.protocols import (
    DataMechanism,
    ObjectiveMechanism,
    ParameterMechanism,
    Penalised,
    Preprocessing,
    RepresentationMechanism,
    Stepwise,
)

SLOTS = {
    parameter: (ParameterMechanism, 16),
    representation: (RepresentationMechanism, 7),
    objective: (ObjectiveMechanism, 11),
    data: (DataMechanism, 4),
}
SIZES = {"mobilenet_v3_small": 32, "dinov2-tiny": 48, "sam": sams.SIDE}  # images' side in tests


def kinds(package: ModuleType) -> list[type]:
    """Every mechanism of a slot, those on trial too."""
    return [*(getattr(package, name) for name in package.__all__), *getattr(package, "EXPERIMENTAL", ())]


# Every parameter mechanism on every network that it serves: tokens to attend to are for transformers alone.
SERVED = [
    (kind, network)
    for kind in kinds(parameter)
    for network in SIZES
    if (kind.__name__, network) != ("PrefixTokens", "mobilenet_v3_small")
    and ("segmentation" if network == "sam" else "classification") in getattr(kind, "tasks", ("classification",))
]


def settle(encoder: nn.Module) -> None:
    """Batch norms that know the network's values: drawn weights alone would fade to features of zero."""
    for layer in encoder.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = None
    with torch.inference_mode():
        encoder.train()(torch.rand(16, 3, 48, 48))


def classifier(network: str) -> Classifier:
    torch.manual_seed(0)
    if network == "sam":
        sam = sam_backbone(sams.tiny(), Preprocessing(size=sams.SIDE, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5)))
        return Classifier(sam, decoder(sam, 3), ("a", "b", "c"), "segmentation").eval()
    origin = load_backbone(network)
    settle(origin.module)
    origin = origin.fed(replace(origin.preprocessing, size=SIZES[network]))
    return Classifier(origin, nn.Linear(origin.width, 3), ("a", "b", "c")).eval()


def pictures(network: str, n: int = 8) -> torch.Tensor:
    return torch.rand(n, 3, SIZES[network], SIZES[network])


def step(
    mechanism: ParameterMechanism,
    model: Classifier,
    moving: Sequence[nn.Parameter],
    images: torch.Tensor,
    steps: int = 8,
) -> None:
    """As recipes train it: by AdamW at its own learning rate."""
    optimiser = torch.optim.AdamW(moving, lr=mechanism.learning_rate)
    for done in range(1, steps + 1):
        optimiser.zero_grad()
        logits = model(images)
        target = (torch.arange(len(images)) % 3).view(-1, *[1] * (logits.ndim - 2)).expand(-1, *logits.shape[2:])
        loss = nn.functional.cross_entropy(logits, target)
        (loss + mechanism.penalty(model) if isinstance(mechanism, Penalised) else loss).backward()
        optimiser.step()
        if isinstance(mechanism, Stepwise):
            mechanism.stepped(model, done, steps)


def written(mechanism: ParameterMechanism, model: Classifier, folder: Path) -> dict[str, str]:
    folder.mkdir()
    return mechanism.write(model.eval(), folder)


def test_every_registered_mechanism_fits_its_slot() -> None:
    """Each class is made without arguments, has its slot's methods, and is the only one of its name."""
    for package, (protocol, count) in SLOTS.items():
        mechanisms = [kind() for kind in kinds(package)]
        assert len(mechanisms) == count == len({mechanism.name for mechanism in mechanisms})
        assert all(isinstance(mechanism, protocol) for mechanism in mechanisms)
    assert len(SERVED) == 31


@pytest.mark.parametrize(("kind", "network"), SERVED)
def test_attaching_changes_no_answer(kind: type, network: str) -> None:
    """Until it is trained, the readied model answers as before, and what moves is just what was announced."""
    model, images = classifier(network), pictures(network, 2)
    with torch.inference_mode():
        before = model(images)
    moving = kind().attach(model)
    with torch.inference_mode():
        assert torch.equal(model.eval()(images), before)
    assert {id(weight) for weight in moving} == {id(weight) for weight in model.parameters() if weight.requires_grad}


@pytest.mark.parametrize(("kind", "network"), SERVED)
def test_zero_steps_are_served_as_the_base(kind: type, network: str, tmp_path: Path) -> None:
    """Written before any step, the parts answer as the base does; the base's own files stay byte for byte."""
    model, images = classifier(network), pictures(network)
    write_base(model, tmp_path / "base", {})
    before = {file.name: file.read_bytes() for file in (tmp_path / "base").iterdir()}
    mechanism = kind()
    mechanism.attach(model)
    written(mechanism, model, tmp_path / "parts")
    served = Predictor.load(tmp_path / "base", tmp_path / "parts").observe(images).logits
    assert served == pytest.approx(Predictor.load(tmp_path / "base").observe(images).logits, abs=1e-5)
    assert {file.name: file.read_bytes() for file in (tmp_path / "base").iterdir()} == before


@pytest.mark.parametrize(("kind", "network"), SERVED)
def test_what_moved_is_what_is_written(kind: type, network: str, tmp_path: Path) -> None:
    """After some steps only what was announced has moved, and the parts on a fresh base answer as the trained model."""
    model, images = classifier(network), pictures(network)
    write_base(model, tmp_path / "base", {})
    mechanism = kind()
    moving = mechanism.attach(model)
    mechanism.training(model)
    still = {n: w.clone() for n, w in model.state_dict(keep_vars=True).items() if not w.requires_grad}
    step(mechanism, model, moving, images)
    if not mechanism.whole:  # a whole file holds statistics of norms too, which move without a gradient
        assert all(torch.equal(model.state_dict()[name], weight) for name, weight in still.items())
    parts = written(mechanism, model, tmp_path / "parts")
    assert sorted(parts.values()) == sorted(file.name for file in (tmp_path / "parts").iterdir())
    with torch.inference_mode():
        trained, features = model(images).numpy(), pooled(model.features(images)).numpy()
    served = Predictor.load(tmp_path / "base", tmp_path / "parts")
    base = Predictor.load(tmp_path / "base")
    assert served.observe(images).logits == pytest.approx(trained, abs=1e-3)
    assert served.features(images) == pytest.approx(features, abs=1e-3)
    assert served.observe(images).logits != pytest.approx(base.observe(images).logits, abs=1e-2)
    assert (served.features(images) == pytest.approx(base.features(images), abs=1e-2)) == (mechanism.frozen == 1)
    assert served.embed(images) == pytest.approx(base.embed(images), abs=1e-5)  # the sensor is the base's
    assert network == "sam" or base.embed(images) == pytest.approx(base.features(images), abs=1e-5)


def test_a_fresh_process_answers_alike(tmp_path: Path) -> None:
    """What each mechanism wrote is served by another process to the last bit."""
    wanted = {}
    for kind, network in SERVED:
        model, images, place = classifier(network), pictures(network), tmp_path / f"{kind.__name__}.{network}"
        write_base(model, place / "base", {})
        mechanism = kind()
        moving = mechanism.attach(model)
        mechanism.training(model)
        step(mechanism, model, moving, images, steps=1)
        written(mechanism, model, place / "parts")
        save_file({"images": images}, place / "images.safetensors")
        wanted[place.name] = digest(Predictor.load(place / "base", place / "parts").observe(images).logits)
    out = subprocess.run([sys.executable, "-c", ANSWERS, str(tmp_path)], capture_output=True, text=True, check=True)
    assert json.loads(out.stdout) == wanted
    assert len(wanted) == len(SERVED)


def digest(answers: np.ndarray) -> str:
    return hashlib.sha256(answers.tobytes()).hexdigest()


ANSWERS = """
import hashlib, json, pathlib, sys
from safetensors.torch import load_file
from strategies.predictor import Predictor

def answer(place):
    images = load_file(place / "images.safetensors")["images"]
    logits = Predictor.load(place / "base", place / "parts").observe(images).logits
    return hashlib.sha256(logits.tobytes()).hexdigest()

print(json.dumps({place.name: answer(place) for place in pathlib.Path(sys.argv[1]).iterdir()}))
"""


class Bare(nn.Module):
    """A network of two convolutions without biases or norms."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList([nn.Conv2d(3, 4, 1, bias=False), nn.Conv2d(4, 4, 1, bias=False)])


@pytest.mark.parametrize(
    ("kind", "reason"),
    [(parameter.BitFit, "has none"), (parameter.Norms, "no norm with"), (parameter.PrefixTokens, "no tokens")],
)
def test_a_network_that_it_cannot_serve_is_refused_in_a_sentence(kind: type, reason: str) -> None:
    """And what was refused answers as before, with nothing attached."""
    encoder = Encoder(Bare(), lambda network: [*network.layers, nn.AdaptiveAvgPool2d(1), nn.Flatten()])
    preprocessing = Preprocessing(size=8, mean=(0.5, 0.5, 0.5), std=(0.5, 0.5, 0.5))
    origin = ChainedBackbone(encoder, 4, preprocessing, lambda network, preprocessing, folder: None)
    model = Classifier(origin, nn.Linear(4, 3), ("a", "b", "c"))
    names = list(model.state_dict())
    with pytest.raises(ValueError, match=reason):
        kind().attach(model)
    assert list(model.state_dict()) == names
