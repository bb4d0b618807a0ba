"""How far an update went into the network, and how it bears worse images: what only the network itself can tell."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torchvision.transforms.v2 import functional as pixelwise

from strategies.base import load_base
from strategies.model import Classifier
from strategies.predictor import Predictor, apply_parts
from strategies.preprocessing import Pixels, normalise
from strategies.slices import Whole, apart, fewer, slices_in
from strategies.tasks import task_of

CORRUPTIONS: Mapping[str, Callable[[Tensor], Tensor]] = {
    "noise": lambda images: (images + _noise(images)).clamp(0, 255).to(torch.uint8),
    "blur": lambda images: pixelwise.gaussian_blur(images, [7, 7], [1.5, 1.5]),
    "jpeg": lambda images: torch.stack([_jpeg(image, 15) for image in images]),
    "contrast": lambda images: pixelwise.adjust_contrast(images, 0.5),
    "brightness": lambda images: pixelwise.adjust_brightness(images, 1.4),
}
"""uint8 [b, 3, s, s] -> the same, worse: the kinds of Hendrycks and Dietterich (2019) that acquisition brings about, at
one middling strength each."""

BATCH = 32


@dataclass(frozen=True, kw_only=True)
class Depth:
    """touched: numbers that differ, of all `of` of encoder and head. earliest: the first block, counted from 1 at the
    image, with one of them; None where only the head moved. change [blocks]: 1 - CKA of each block's output."""

    touched: int
    of: int
    earliest: int | None
    change: tuple[float, ...]


def depth(base: Path, before: Path | None, after: Path, images: Pixels) -> Depth:
    """How deep the parts `after` reach beside the parts `before`, both on `base`; None is the base alone.

    Raises ValueError where a part does not belong to the base.
    """
    old, new = _version(base, before), _version(base, after)
    blocks = [_moved(*pair) for pair in zip(_blocks(old), _blocks(new), strict=True)]
    first = next((number for number, (moved, _) in enumerate(blocks, 1) if moved), None)
    both = [*blocks, _moved(old.head, new.head)]
    change = [0.0] * len(blocks) if first is None else [1 - cka(x, y) for x, y in _outputs(old, new, images)]
    return Depth(
        touched=sum(moved for moved, _ in both), of=sum(of for _, of in both), earliest=first, change=tuple(change)
    )


def corrupted(
    base: Path, parts: Path | None, images: Pixels, truth: Tensor | None = None
) -> Iterator[tuple[str, NDArray[np.float32]]]:
    """(kind of corruption, the task's rows) of a version for its images made worse: probabilities [n, k], or, of a
    segmentation, what they come to beside the `truth`, the task's target of the images."""
    predictor = Predictor.load(base, parts)
    task = task_of(predictor.task)
    beside = torch.empty(len(images), 0) if truth is None else truth
    for name, worse in CORRUPTIONS.items():
        answers = (predictor.answer(normalise(images.preprocessing, worse(batch))) for batch in _each(images))
        pairs = zip(answers, beside.split(fewer(BATCH, images.preprocessing.slices)), strict=True)
        yield name, np.concatenate([task.rows(said, some) for said, some in pairs])


def cka(x: NDArray[np.floating], y: NDArray[np.floating]) -> float:
    """[n, d], [n, e] -> 0..1: linear centred kernel alignment (Kornblith and others 2019); 1 up to rotation and scale.

    With few cases for many features it is too high: compare only what was taken on the same cases.
    """
    x, y = x - x.mean(axis=0, dtype=np.float64), y - y.mean(axis=0, dtype=np.float64)
    shared, own = ((x.T @ y) ** 2).sum(), ((x.T @ x) ** 2).sum() * ((y.T @ y) ** 2).sum()
    return float(min(shared / np.sqrt(own), 1.0)) if own > 0 else float(x.any() == y.any())


def _version(base: Path, parts: Path | None) -> Classifier:
    classifier = load_base(base)
    if parts is not None:
        apply_parts(classifier, parts)
    return classifier.eval()


def _blocks(model: Classifier) -> list[nn.Module]:
    return list(model.origin.split(model.origin.depth)[0].children())


def _moved(old: nn.Module, new: nn.Module) -> tuple[int, int]:
    """(numbers that differ, numbers); weights that only one of the two has differ whole."""
    was, now = old.state_dict(), new.state_dict()
    same = {name for name in was.keys() & now.keys() if was[name].shape == now[name].shape}
    moved = sum(int((was[name] != now[name]).sum()) for name in same)
    return moved + sum(now[name].numel() for name in now.keys() - same), sum(one.numel() for one in now.values())


def _outputs(old: Classifier, new: Classifier, images: Pixels) -> Iterator[tuple[NDArray, NDArray]]:
    """Of each block of both: its output per image, its places averaged, [n, d]."""
    seen: list[list[list[Tensor]]] = [[], []]
    with torch.inference_mode():
        for batch in _each(images):
            prepared = normalise(images.preprocessing, batch)
            if isinstance(new.origin.split(new.origin.depth)[0], Whole):
                prepared = apart(prepared, slices_in(batch))
            for side, model in zip(seen, (old, new), strict=True):
                x, outputs = prepared, []
                for block in _blocks(model):
                    x = block(x)
                    outputs.append(_averaged(x))
                side.append(outputs)
    for number in range(len(seen[0][0])):
        before, after = (torch.cat([outputs[number] for outputs in side]).numpy() for side in seen)
        yield before, after


def _averaged(output: Tensor) -> Tensor:
    """[b, c, h, w] -> [b, c]; tokens [b, t, d] -> [b, d]; features [b, d] as they are."""
    places = {4: (2, 3), 3: (1,)}.get(output.ndim)
    return output if places is None else output.mean(dim=places)


def _each(images: Pixels) -> Iterator[Tensor]:
    size = fewer(BATCH, images.preprocessing.slices)
    for start in range(0, len(images), size):
        yield images[range(start, min(start + size, len(images)))]


def _jpeg(image: Tensor, quality: int) -> Tensor:
    """uint8 [3, s, s] -> the same, stored and read again."""
    stream = BytesIO()
    Image.fromarray(image.permute(1, 2, 0).numpy()).save(stream, "JPEG", quality=quality)
    return torch.from_numpy(np.array(Image.open(stream))).permute(2, 0, 1)


def _noise(images: Tensor) -> Tensor:
    """Of an eighth of the range, the same for the same number of images."""
    return torch.randn(images.shape, generator=torch.Generator().manual_seed(0)) * 20
