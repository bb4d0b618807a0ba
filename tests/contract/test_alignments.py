"""What every mechanism of representation and architecture keeps to, those on trial too; and that none was missed."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from strategies import architecture, representation
from strategies.base import write_base
from strategies.families import load_backbone
from strategies.lessons import Joined
from strategies.model import Classifier
from strategies.predictor import Predictor
from strategies.protocols import ArchitectureMechanism, Recipe, RepresentationMechanism, Stage
from strategies.recipes import run
from strategies.representation import FeatureStatistics

ALIGNMENTS = [*(getattr(representation, name) for name in representation.__all__), *representation.EXPERIMENTAL]
BANKS = [*(getattr(architecture, name) for name in architecture.__all__), *architecture.EXPERIMENTAL]
CASES = [*ALIGNMENTS, *BANKS]

ANSWER = """
import sys, hashlib, torch
from pathlib import Path
from strategies.predictor import Predictor
torch.manual_seed(0)
batch = torch.randn(5, 3, 32, 32)
for folder in sys.argv[2:]:
    seen = Predictor.load(Path(sys.argv[1]), Path(folder)).observe(batch)
    print(hashlib.sha256(b"".join(array.tobytes() for array in seen)).hexdigest())
"""


class Noise:
    """Images of a domain's own brightness, of two classes."""

    def __init__(self, domain: str, n: int, labelled: bool = True) -> None:
        self.label = np.arange(n) % 2 if labelled else np.full(n, -1)
        self.domain, self.patient = np.full(n, domain), np.array([f"{domain}{labelled}{i}" for i in range(n)])

    def __len__(self) -> int:
        return len(self.label)

    def image(self, i: int) -> np.ndarray:
        mean = 160 if self.domain[i] == "home" else 80
        return np.random.default_rng(i).normal(mean, 40, (32, 32)).clip(0, 255).astype(np.float32)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, bytes], dict[type, Path]]:
    """A base, its bytes before, and a candidate of each mechanism."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("made")
    origin = load_backbone("mobilenet_v3_small")
    origin = origin.fed(replace(origin.preprocessing, size=32))
    for layer in origin.module.modules():
        if isinstance(layer, nn.BatchNorm2d):
            layer.momentum = 1.0  # statistics of these very weights, so that signals don't vanish
    with torch.no_grad():
        origin.module.train()(torch.randn(64, 3, 32, 32))
    write_base(Classifier(origin, nn.Linear(origin.width, 2), ("a", "b")), root / "base", {"how": "test"})
    before = {file.name: file.read_bytes() for file in (root / "base").iterdir()}
    folders = {}
    for kind in CASES:
        bank = kind in BANKS
        stages = (
            Stage(representation=FeatureStatistics() if bank else kind()),
            *([Stage(architecture=kind())] if bank else []),
        )
        candidate = run(
            Recipe(name=kind.__name__, stages=stages, risk=1),
            base=root / "base",
            live_parts=None,
            new=Noise("new", 8),
            memory=Noise("home", 8),
            develop=Joined(Noise("home", 10), Noise("new", 4)),
            unlabelled=Noise("new", 8, labelled=False),
            out=root / kind.__name__,
            seed=0,
            measure=lambda probabilities, labels: 0.0,
        )
        folders[kind] = candidate.folder
        written = sorted(file.name for file in candidate.folder.iterdir())
        assert sorted(candidate.parts.values()) == written, "what is written is what was declared"
    return root / "base", before, folders


def test_every_mechanism_fits_its_slot() -> None:
    """Each class is made without arguments, has its slot's methods, and is the only one of its name."""
    for kinds, protocol, count in ((ALIGNMENTS, RepresentationMechanism, 7), (BANKS, ArchitectureMechanism, 2)):
        mechanisms = [kind() for kind in kinds]
        assert len(mechanisms) == count == len({mechanism.name for mechanism in mechanisms})
        assert all(isinstance(mechanism, protocol) for mechanism in mechanisms)


def test_no_weight_of_the_base_moves(made: tuple) -> None:
    """The base's files keep their bytes, and the sensor sees what it saw."""
    base, before, folders = made
    assert {file.name: file.read_bytes() for file in base.iterdir()} == before
    batch = torch.randn(3, 3, 32, 32)
    wanted = Predictor.load(base).embed(batch)
    for kind in CASES:
        assert np.array_equal(Predictor.load(base, folders[kind]).embed(batch), wanted), kind


def test_each_does_something(made: tuple) -> None:
    """For images of the new site, every mechanism changes the answer."""
    base, _, folders = made
    plain = Predictor.load(base)
    batch = torch.stack([plain.prepare(Noise("new", 24).image(i)) for i in range(24)])
    for kind in CASES:
        assert not np.array_equal(Predictor.load(base, folders[kind]).answer(batch), plain.answer(batch)), kind


def test_a_fresh_process_answers_byte_for_byte(made: tuple) -> None:
    """What each mechanism wrote is all that an answer needs."""
    base, _, folders = made
    torch.manual_seed(0)
    batch = torch.randn(5, 3, 32, 32)
    from hashlib import sha256

    here = [
        sha256(b"".join(one.tobytes() for one in Predictor.load(base, folders[kind]).observe(batch))).hexdigest()
        for kind in CASES
    ]
    done = subprocess.run(
        [sys.executable, "-c", ANSWER, str(base), *(str(folders[kind]) for kind in CASES)],
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.getcwd()},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == here
