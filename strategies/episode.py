"""Test-time adaptation of one episode: a doubtful image is answered by several views of it, and nothing is kept.

A version is immutable, and an answer follows from the version and the image alone: so what is adapted is adapted to
one image, without what came before it or beside it, and is gone with its answer (MEMO: Zhang, Levine and Finn 2022;
streams that adapt from image to image, as Wang and others 2021 or Niu and others 2022 do, could not be replayed).
`test_time.json` is the part that asks for it; without one nothing here is called.
"""

from __future__ import annotations

import copy
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn
from torch.nn import functional
from torch.nn.modules.batchnorm import _BatchNorm

from strategies.families.weights import read_json

TEST_TIME = "test_time.json"
FORMAT = 1


@dataclass(frozen=True)
class Episode:
    """Which images are answered by their views, and how far the batch norms go along with them.

    bound: the entropy in nats of the plain answer above which an image is doubtful. prior: the cases that the norms'
    own statistics count as, the image being one (Schneider and others 2020).
    """

    bound: float
    prior: float

    def write(self, folder: Path) -> None:
        (folder / TEST_TIME).write_text(
            json.dumps({"format": FORMAT} | asdict(self), indent=2) + "\n", encoding="utf-8"
        )

    @classmethod
    def read(cls, folder: Path) -> Episode | None:
        """The part in a version's folder; None where it has none. Raises ValueError where it is not of this format."""
        if not (folder / TEST_TIME).is_file():
            return None
        record = read_json(folder / TEST_TIME)
        if record.pop("format", None) != FORMAT:
            raise ValueError(f"{TEST_TIME} is not of format {FORMAT}.")
        numbers = [one for one in record.values() if isinstance(one, int | float) and np.isfinite(one) and one >= 0]
        if record.keys() != {"bound", "prior"} or len(numbers) != 2:
            raise ValueError(f"{TEST_TIME} needs a bound and a prior, both a number of at least 0, and nothing else.")
        return cls(**record)

    def adapting(self, encoder: nn.Module) -> nn.Module:
        """A copy whose batch norms use, in every pass, their own statistics mixed with those of the batch."""
        adapting, share = copy.deepcopy(encoder), 1 / (1 + self.prior)

        def mix(norm: Any, args: tuple[torch.Tensor]) -> torch.Tensor:
            """x as the norm must be given it, so that its own statistics do what the mixed ones would."""
            (x,), mean, variance = args, norm.running_mean, norm.running_var
            over, shape = [0, *range(2, x.ndim)], (1, -1, *[1] * (x.ndim - 2))
            measured = x.mean(over)
            spread = (x - measured.view(shape)).square().mean(over)
            mixed = torch.lerp(mean, measured, share)
            scale = ((variance + norm.eps) / (torch.lerp(variance, spread, share) + norm.eps)).sqrt()
            return x * scale.view(shape) + (mean - scale * mixed).view(shape)

        for layer in adapting.modules():
            if isinstance(layer, _BatchNorm) and layer.running_mean is not None:
                layer.register_forward_pre_hook(mix)
        return adapting

    def doubtful(self, probabilities: torch.Tensor) -> torch.Tensor:
        """[b, k] -> bool [b]."""
        return entropy(probabilities) > self.bound


def views(image: torch.Tensor) -> torch.Tensor:
    """A prepared image [3, n s, s] -> eight fixed views, [8, 3, n s, s].

    Itself, its mirror image, four shifts by a thirty-second of its side, and contrast 15 % less and more.
    """
    height, side = image.shape[-2:]
    by = max(1, side // 32)
    wide = functional.pad(image[None], (by,) * 4, mode="replicate")[0]
    shifted = [wide[:, y : y + height, x : x + side] for y, x in ((0, by), (2 * by, by), (by, 0), (by, 2 * by))]
    middle = image.mean(dim=(1, 2), keepdim=True)
    contrasts = [torch.lerp(middle, image, strength) for strength in (0.85, 1.15)]
    return torch.stack([image, image.flip(2), *shifted, *contrasts])


def trusted(marginal: torch.Tensor, plain: torch.Tensor) -> bool:
    """Whether the mean of what the views are answered [k] is for the plain answer's class [k], or more certain."""
    return bool(marginal.argmax() == plain.argmax() or entropy(marginal) < entropy(plain))


def entropy(probabilities: torch.Tensor) -> torch.Tensor:
    """[..., k] -> nats [...], 0 to log k."""
    return torch.special.entr(probabilities).sum(dim=-1)
