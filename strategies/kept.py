"""Arrays kept on disk for one training: how finely, in which file, and how long.

A file is named by the digest of everything that its rows were computed from, so it is never out of date, only unused.
"""

from __future__ import annotations

import hashlib
import math
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Protocol

import torch
from torch import nn

PER_CASE = 80_000  # bytes

# Where the positions of a batch stand, by its number of dimensions: features, tokens, feature maps.
POSITIONS = {2: (1,), 3: (1,), 4: (2, 3)}


class Coding(Protocol):
    """float32 [b, *shape] as uint8 [b, width(shape)] and back, up to rounding."""

    name: str

    def width(self, shape: torch.Size) -> int: ...

    def encode(self, values: torch.Tensor) -> torch.Tensor: ...

    def decode(self, raw: torch.Tensor, shape: torch.Size) -> torch.Tensor: ...


class Floats:
    """Numbers as they are in float32 or float16."""

    def __init__(self, dtype: torch.dtype) -> None:
        self.dtype, self.name = dtype, str(dtype)

    def width(self, shape: torch.Size) -> int:
        return shape.numel() * self.dtype.itemsize

    def encode(self, values: torch.Tensor) -> torch.Tensor:
        return values.flatten(1).to(self.dtype).view(torch.uint8)

    def decode(self, raw: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        return raw.view(self.dtype).float().view(-1, *shape)


class Levels:
    """256 evenly spaced levels from the least to the largest value that a channel has at a case's positions.

    Within half a level, 1/510 of that range. A channel has levels of its own because transformers have a few channels
    that are a hundred times larger than the others (Dettmers and others 2022, LLM.int8; Sun and others 2024).
    """

    name = "256 levels a channel"

    def width(self, shape: torch.Size) -> int:
        return shape.numel() + 8 * math.prod(_beside(shape))

    def encode(self, values: torch.Tensor) -> torch.Tensor:
        positions = POSITIONS[values.ndim]
        least = values.amin(positions, keepdim=True)
        step = ((values.amax(positions, keepdim=True) - least) / 255).clamp_min(torch.finfo(torch.float32).tiny)
        levels = ((values - least) / step).round_().clamp_(0, 255).to(torch.uint8)
        scales = torch.stack([least.flatten(1), step.flatten(1)], dim=1)
        return torch.cat([levels.flatten(1), scales.flatten(1).view(torch.uint8)], dim=1)

    def decode(self, raw: torch.Tensor, shape: torch.Size) -> torch.Tensor:
        levels = raw[:, : shape.numel()].view(-1, *shape).float()
        scales = raw[:, shape.numel() :].contiguous().view(torch.float32)
        least, step = scales.view(-1, 2, *_beside(shape)).unbind(1)
        return levels.mul_(step).add_(least)


def coding_for(shape: torch.Size, views: int) -> Coding:
    """The finest that keeps `views` arrays of a shape in PER_CASE bytes, or the coarsest where none does."""
    finest: tuple[Coding, ...] = (Floats(torch.float32), Floats(torch.float16))
    return next((one for one in finest if views * one.width(shape) <= PER_CASE), Levels())


def _beside(shape: torch.Size) -> list[int]:
    """The shape of one number per channel beside a case's array."""
    return [1 if axis in POSITIONS[len(shape) + 1] else n for axis, n in enumerate(shape, start=1)]


def rows_on_disk(
    folder: Path, key: str, shape: tuple[int, int], computed: Iterable[torch.Tensor], limit: int
) -> torch.Tensor:
    """uint8 [rows, width] mapped from the file `key` of `folder`, filled from `computed`, parts of it in order.

    A file that is there and whole is taken as it is, and `computed` is not asked. Of other files the ones that were
    not used for longest are deleted until all of them fit in `limit` bytes. Readable by this user alone.
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    file = folder / f"{key}.rows"
    if _whole(file, shape[0] * shape[1]):
        os.utime(file)
    else:
        _make_room(folder, limit - shape[0] * shape[1])
        partial, digest = file.with_suffix(".partial"), hashlib.sha256()
        partial.touch(mode=0o600)
        with partial.open("wb") as stream:
            for part in computed:
                stream.write(part.contiguous().numpy().data)
                digest.update(part.contiguous().numpy().data)
        partial.replace(file)
        file.with_suffix(".sha256").write_text(digest.hexdigest(), encoding="ascii")
    return torch.from_file(str(file), shared=False, size=shape[0] * shape[1], dtype=torch.uint8).view(shape)


def digest_of(module: nn.Module) -> str:
    """sha256 over the architecture and every weight and statistic."""
    digest = hashlib.sha256(repr(module).encode())
    for name, tensor in sorted(module.state_dict().items()):
        digest.update(f"\0{name} {tuple(tensor.shape)} {tensor.dtype}\0".encode())
        digest.update(tensor.detach().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def _whole(file: Path, size: int) -> bool:
    note = file.with_suffix(".sha256")
    if not (file.is_file() and note.is_file()) or file.stat().st_size != size:
        return False
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest() == note.read_text(encoding="ascii")


def _make_room(folder: Path, limit: int) -> None:
    """A file that is still read somewhere lives on until it is closed."""
    files = sorted(folder.glob("*.rows"), key=lambda file: file.stat().st_mtime_ns)
    total = sum(file.stat().st_size for file in files)
    for file in files:
        if total <= limit:
            return
        total -= file.stat().st_size
        file.unlink()
        file.with_suffix(".sha256").unlink(missing_ok=True)
