"""Where in an image a version sees its answer: attribution maps, by captum.

Two ways, one for encoders that make maps and one for any; what they say of a place is comparable with other places of
the same image alone. Neither draws anything at random.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from strategies.predictor import ROWS, Expert, Predictor, one_thread
from strategies.protocols import Attribution


class Seen(NamedTuple):
    """Of b images: the probabilities [b, k] that a version answers with, and the map [b, g, g] of the class it decides
    for, of which larger means more for it."""

    probability: NDArray[np.float32]
    attribution: Tensor


class GradCam:
    """Grad-CAM (Selvaraju and others 2017): the last map of an encoder, its channels weighed by what each does for the
    class.

    Of chest films it came nearer to where radiologists mark findings than other methods did (Saporta and others 2022).
    The negative part is kept, so that a map without any evidence for the class still has an order of places.
    """

    name = "grad-cam"

    def serves(self, blocks: Sequence[nn.Module], size: int) -> bool:
        return _last_map(blocks, torch.zeros(1, 3, size, size)) is not None

    def __call__(self, blocks: Sequence[nn.Module], head: nn.Module, images: Tensor, decided: Tensor) -> Tensor:
        from captum.attr import LayerGradCam

        chain = nn.Sequential(*blocks, head, LogOdds())
        last = _last_map(blocks, images[:1])
        if last is None:
            raise ValueError("Grad-CAM reads an encoder's last map, and this one makes none: take occlusion.")
        return LayerGradCam(chain, chain[last]).attribute(images, target=decided)[:, 0]


class Occlusion:
    """What the log-odds of the class lose when a window of the image is covered (Zeiler and Fergus 2014).

    It asks nothing of the network. The window is a `share` of the side and moves by half of itself; what covers it is
    the image's own mean, so that no window is a dark or bright object.
    """

    name = "occlusion"

    def __init__(self, share: float = 0.25) -> None:
        self.share = share

    def serves(self, blocks: Sequence[nn.Module], size: int) -> bool:
        return True

    @torch.no_grad()
    def __call__(self, blocks: Sequence[nn.Module], head: nn.Module, images: Tensor, decided: Tensor) -> Tensor:
        from captum.attr import Occlusion as Covering

        side = max(2, round(images.shape[-1] * self.share))
        return Covering(nn.Sequential(*blocks, head, LogOdds())).attribute(
            images,
            sliding_window_shapes=(images.shape[1], side, side),
            strides=(images.shape[1], side // 2, side // 2),
            baselines=images.mean(dim=(2, 3), keepdim=True).expand_as(images),
            target=decided,
        )[:, 0]


class LogOdds(nn.Module):
    """Logits [b, k] -> log(p / (1 - p)) of each class, so that what speaks for all classes alike counts for none."""

    def forward(self, logits: Tensor) -> Tensor:
        own = torch.eye(logits.shape[1], dtype=torch.bool)
        return logits - logits[:, None, :].masked_fill(own, -torch.inf).logsumexp(dim=2)


ATTRIBUTIONS: tuple[type[Attribution], ...] = (GradCam, Occlusion)
"""In the order in which they are taken: the first that serves the encoder."""


def attribution_for(predictor: Predictor, name: str | None = None) -> Attribution:
    """The method of that name, or the first that serves the version's encoder.

    Raises ValueError for a task other than classification, an unknown name, or an encoder that the method can't read.
    """
    if predictor.task != "classification":
        raise ValueError(
            "A map of what spoke for a class is asked of models that decide for one class of an image; this one's task "
            f"is {predictor.task}."
        )
    if predictor.preprocessing.slices > 1:
        raise ValueError(
            f"A map of what spoke for a class is asked of images; this model reads {predictor.preprocessing.slices} "
            "slices of a volume."
        )
    if name is not None and name not in (kind.name for kind in ATTRIBUTIONS):
        raise ValueError(
            f"There is no attribution {name!r}: there are {', '.join(kind.name for kind in ATTRIBUTIONS)}."
        )
    blocks, size = _blocks(predictor.served), predictor.preprocessing.size
    for method in (kind() for kind in ATTRIBUTIONS if name in (None, kind.name)):
        if method.serves(blocks, size):
            return method
    raise ValueError(f"{name} reads an encoder's last map, and this one makes none: take occlusion.")


def attributions(predictor: Predictor, batch: Tensor, method: Attribution) -> Seen:
    """Prepared images [b, 3, s, s] -> what the version answers, and why.

    Of a bank the set of parts that answers is asked; of a mixture each, by its share in the answer and with maps of the
    same reach. The plain answer is explained where a version adapts to single images.
    """
    embedding = torch.from_numpy(predictor.embed(batch))
    probability = predictor.answer(batch)
    decided = torch.from_numpy(predictor.decide(probability))
    experts = [*predictor.experts.values(), predictor.served]
    total: Tensor | None = None
    for share, expert in zip(torch.from_numpy(predictor.shares(embedding)).float().T, experts, strict=True):
        mine = share > 0
        if not mine.any():
            continue
        maps = _maps(method, expert, batch[mine], decided[mine])
        maps = maps / maps.abs().amax(dim=(1, 2), keepdim=True).clamp_min(torch.finfo(maps.dtype).tiny)
        total = torch.zeros(len(batch), *maps.shape[1:]) if total is None else total
        total[mine] += share[mine, None, None] * maps
    assert total is not None
    return Seen(probability, total)


def stretched(attribution: Tensor, shape: Sequence[int]) -> NDArray[np.float32]:
    """A map [g, g] over an image of this height and width, [h, w]."""
    size = (shape[0], shape[1])
    return functional.interpolate(attribution[None, None], size=size, mode="bilinear", align_corners=False)[
        0, 0
    ].numpy()


def _maps(method: Attribution, expert: Expert, batch: Tensor, decided: Tensor) -> Tensor:
    """In passes of one shape and on one thread, as a predictor answers: the map of an image hangs on no other."""
    blocks, found = _blocks(expert), []
    with one_thread():
        for start in range(0, len(batch), ROWS):
            images, classes = batch[start : start + ROWS], decided[start : start + ROWS]
            padding = ROWS - len(images)
            images = torch.cat([images, images.new_zeros((padding, *images.shape[1:]))])
            maps = method(blocks, expert.head, images, functional.pad(classes, (0, padding)))
            found.append(maps.detach()[: len(classes)])
    return torch.cat(found).float()


def _blocks(expert: Expert) -> list[nn.Module]:
    encoder: nn.Module = expert.backbone
    return list(encoder.blocks())  # type: ignore[operator]


def _last_map(blocks: Sequence[nn.Module], image: Tensor) -> int | None:
    """The last block whose output is a map of more than one place; None where there is none."""
    with torch.inference_mode():
        shapes = [out.shape for out in accumulate(blocks, lambda x, block: block(x), initial=image)][1:]
    maps = [i for i, shape in enumerate(shapes) if len(shape) == 4 and shape[2] > 1]
    return maps[-1] if maps else None
