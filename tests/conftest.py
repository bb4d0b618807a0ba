"""A small deployment that tests share: generated smears of one laboratory and a base fitted on them."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("OMP_NUM_THREADS", "1")  # two threads on a busy machine can be ten times slower

import pytest
import smears

if TYPE_CHECKING:
    from chapters import Chapters


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Labelled smears of 240 patients of the home laboratory."""
    return smears.write(tmp_path_factory.mktemp("home"), smears.HOME, 240, 1)


@pytest.fixture(scope="session")
def base(home: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A base of the smallest residual network, fitted on the home laboratory."""
    from agent.deploy import fit

    out = tmp_path_factory.mktemp("model") / "base"
    fit(home, out, where=(), backbone="test_resnet", epochs=24, seed=0, progress=lambda what, done, of: None)
    return out


@pytest.fixture(scope="session")
def founded(home: Path, base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A workspace fresh from `init`, for copying: no test writes to it."""
    from agent.deploy import init

    root = tmp_path_factory.mktemp("founded") / "site"
    init(root, base, home, where=(), config=None, progress=lambda what, done, of: None)
    return root


@pytest.fixture(scope="session")
def chapters(founded: Path, tmp_path_factory: pytest.TempPathFactory) -> Chapters:
    """The story, told as far as a test needs it."""
    from chapters import Chapters

    return Chapters(founded, tmp_path_factory.mktemp("chapters"))
