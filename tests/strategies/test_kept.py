"""What a frozen prefix made, kept on disk: the same answers, never out of date, within bounds."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from test_inputs import PLAIN, Counted, Slopes
from torch import nn

from strategies.inputs import Latents
from strategies.kept import PER_CASE, Coding, Floats, Levels, coding_for
from strategies.preprocessing import Pixels


class Tokens(nn.Module):
    """Tokens as vision transformers have them, 197 of 192 numbers: ordinary ones, and a channel that is huge."""

    def __init__(self, tokens: int = 197, width: int = 192) -> None:
        super().__init__()
        draw = torch.Generator().manual_seed(0)
        self.weight = nn.Parameter(torch.randn(32, tokens * width, generator=draw))
        self.shape, self.seen = (tokens, width), 0

    def forward(self, images: torch.Tensor) -> torch.Tensor:
        self.seen += len(images)
        tokens = (images.mean(dim=(1, 2)) @ self.weight).unflatten(1, self.shape)
        return tokens + 300 * (torch.arange(self.shape[1]) == 7)


def latents(folder: Path, prefix: nn.Module, n: int = 6, **options: object) -> Latents:
    return Latents(prefix, Pixels(Slopes(n), PLAIN), folder=folder, mirrored=True, **options)  # type: ignore[arg-type]


def spent(prefix: Counted | Tokens, folder: Path, n: int = 6) -> int:
    """Images that a new training sends through the prefix, beside the one that tells the size."""
    before = prefix.seen
    latents(folder, prefix, n)
    return prefix.seen - before - 1


def test_both_views_of_a_vision_transformer_fit_and_are_right(tmp_path: Path) -> None:
    """80 kB a case at ViT-tiny's shape, 160 kB at ViT-small's; the huge channel takes nothing from the others."""
    prefix = Tokens()
    kept = latents(tmp_path, prefix)
    assert kept.case_bytes <= PER_CASE == 80_000
    assert 2 * Levels().width(torch.Size((197, 384))) <= 160_000
    assert sum(file.stat().st_size for file in tmp_path.glob("*.rows")) == 6 * kept.case_bytes
    with torch.no_grad():
        wanted = prefix(torch.stack([kept.pixels[[i]][0] for i in range(6)]).float() / 127.5 - 1)
    spread = wanted.amax(dim=1) - wanted.amin(dim=1)
    assert ((kept.plain(range(6)) - wanted).abs().amax(dim=1) <= spread / 509).all()


def test_little_is_kept_exactly() -> None:
    """Pooled features and small feature maps lose nothing, middling ones half of their digits."""
    shapes = [(384,), (40, 16, 16), (24, 28, 28), (197, 192)]
    assert [coding_for(torch.Size(shape), 2).name for shape in shapes] == [
        "torch.float32",
        "torch.float16",
        "torch.float16",
        "256 levels a channel",
    ]


@pytest.mark.parametrize("shape", [(7,), (197, 6), (3, 5, 4)])
@pytest.mark.parametrize("coding", [Floats(torch.float32), Floats(torch.float16), Levels()], ids=lambda one: one.name)
def test_every_coding_takes_every_shape(coding: Coding, shape: tuple[int, ...]) -> None:
    """Features, tokens and feature maps; all alike, tiny, ordinary and large."""
    values = torch.randn(5, *shape, generator=torch.Generator().manual_seed(0))
    values *= torch.tensor([0, 1e-3, 1, 1e2, 1e4]).view(5, *(1 for _ in shape))
    coded = coding.encode(values)
    assert coded.shape == (5, coding.width(values.shape[1:]))
    back = coding.decode(coded, values.shape[1:])
    assert torch.equal(back[0], values[0])
    assert ((back - values).flatten(1).abs().amax(dim=1) <= 0.004 * values.flatten(1).abs().amax(dim=1)).all()


def test_another_training_on_the_same_cases_computes_nothing(tmp_path: Path) -> None:
    """And gives the same bytes as the first."""
    prefix = Tokens()
    first = latents(tmp_path, prefix).plain([2, 0])
    assert spent(prefix, tmp_path) == 0
    assert torch.equal(latents(tmp_path, prefix).plain([2, 0]), first)


def test_it_is_computed_again_when_anything_it_was_computed_from_changes(tmp_path: Path) -> None:
    """A weight, a statistic, the preprocessing, an image."""
    prefix = Counted()
    assert spent(prefix, tmp_path) == 12
    assert spent(prefix, tmp_path) == 0
    with torch.no_grad():
        prefix.convolution.weight[0, 0, 0, 0] += 1e-6
    assert spent(prefix, tmp_path) == 12
    prefix.register_buffer("mean", torch.zeros(1))
    assert spent(prefix, tmp_path) == 12

    cases = Slopes(6)
    cases._images[3] = cases._images[3] + 1
    before = prefix.seen
    Latents(prefix, Pixels(cases, PLAIN), folder=tmp_path, mirrored=True)
    Latents(prefix, Pixels(cases, replace(PLAIN, mean=(0.4, 0.5, 0.5))), folder=tmp_path, mirrored=True)
    assert prefix.seen - before == 2 * 13


@pytest.mark.parametrize("harm", ["byte", "cut", "unfinished"])
def test_a_broken_file_is_computed_again(tmp_path: Path, harm: str) -> None:
    """One byte turned, an end that is missing, a training that was killed while it filled the file."""
    prefix = Tokens()
    right = latents(tmp_path, prefix).plain(range(6))
    (file,) = tmp_path.glob("*.rows")
    raw = bytearray(file.read_bytes())
    if harm == "byte":
        raw[1000] ^= 1
    file.write_bytes(raw[:-1] if harm == "cut" else raw)
    if harm == "unfinished":
        file.with_suffix(".sha256").unlink()
    assert torch.equal(latents(tmp_path, prefix).plain(range(6)), right)
    assert spent(prefix, tmp_path) == 0


def test_the_oldest_makes_room(tmp_path: Path) -> None:
    """The folder stays within its limit; the one used last stays, and one that is read meanwhile goes on to answer."""
    prefix = Counted()
    limit = 2 * latents(tmp_path, prefix).case_bytes * 6
    (oldest,) = tmp_path.glob("*.rows")
    with torch.no_grad():
        prefix.convolution.bias += 1
    second = latents(tmp_path, prefix, limit=limit)
    (used,) = set(tmp_path.glob("*.rows")) - {oldest}
    answers = second.plain(range(6))
    with torch.no_grad():
        prefix.convolution.bias += 1
    latents(tmp_path, prefix, limit=limit)
    assert used.is_file()
    assert not oldest.is_file()
    assert len(list(tmp_path.glob("*.rows"))) == 2
    assert sum(file.stat().st_size for file in tmp_path.iterdir() if file.suffix == ".rows") <= limit
    latents(tmp_path, prefix, n=4, limit=limit // 2)
    assert torch.equal(second.plain(range(6)), answers)


def test_nobody_else_may_read_it(tmp_path: Path) -> None:
    """Patients' images can be guessed from it."""
    latents(tmp_path / "kept", Counted())
    assert (tmp_path / "kept").stat().st_mode & 0o077 == 0
    assert all(file.stat().st_mode & 0o077 == 0 for file in (tmp_path / "kept").glob("*.rows"))
