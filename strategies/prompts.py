"""Prompts for SAM, said openly: points, boxes, a grid of points, and what is drawn from a known mask.

The image embedding is computed once and answers every prompt. Places are pixels of the prepared image, s on a side:
x to the right, y down, the middle of the first pixel at (0, 0).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import nn

from strategies.families.sam import positions
from strategies.inputs import Latents
from strategies.preprocessing import Pixels
from strategies.protocols import Backbone

JITTER, FARTHEST = 0.1, 20 / 1024  # of the box's side, and of the image's (Kirillov and others 2023)


@dataclass(frozen=True)
class Prompt:
    """n prompts for one image, each for a mask of its own.

    points [n, p, 2] as (x, y) with labels [n, p], 1 of what is meant and 0 of what is not; or boxes [n, 4] as
    (left, top, right, bottom).
    """

    points: torch.Tensor | None = None
    labels: torch.Tensor | None = None
    boxes: torch.Tensor | None = None

    @property
    def ambiguous(self) -> bool:
        """A single point may mean a part or the whole: SAM answers it with several masks, and any other with one."""
        return self.points is not None and self.points.shape[1] == 1


class Masks(NamedTuple):
    """logits [n, m, h, w] at the decoder's size, a quarter of SAM's pixels a side; iou [n, m] as SAM predicts it."""

    logits: torch.Tensor
    iou: torch.Tensor


def points(places: Sequence[Sequence[float]], labels: Sequence[int] | None = None) -> Prompt:
    """One prompt of p points (x, y); all of them are meant where no labels say otherwise."""
    if not len(places) or (labels is not None and len(labels) != len(places)):
        raise ValueError(f"{len(places)} points need as many labels, at least one point, or no labels.")
    said = torch.ones(1, len(places)) if labels is None else torch.tensor([list(labels)])
    return Prompt(torch.tensor([[list(place) for place in places]], dtype=torch.float32), said.int())


def boxes(corners: Sequence[Sequence[float]]) -> Prompt:
    """One prompt per box (left, top, right, bottom). Raises ValueError for a box without an inside."""
    given = torch.tensor([list(corner) for corner in corners], dtype=torch.float32).reshape(-1, 4)
    if not len(given) or bool((given[:, :2] > given[:, 2:]).any()):
        raise ValueError("A box is (left, top, right, bottom), with left before right and top above bottom.")
    return Prompt(boxes=given)


def grid(size: int, side: int = 32) -> Prompt:
    """The automatic prompt: side x side points over an image of `size` pixels, each a prompt by itself."""
    middle = (torch.arange(side, dtype=torch.float32) + 0.5) * size / side - 0.5
    y, x = torch.meshgrid(middle, middle, indexing="ij")
    places = torch.stack([x.flatten(), y.flatten()], dim=-1)[:, None]
    return Prompt(places, torch.ones(places.shape[:2], dtype=torch.int32))


def jittered(mask: NDArray[np.integer], seed: int) -> Prompt:
    """The box around all that is not 0 in the mask, [s, s] of the prepared image, as a person might draw it.

    Each side is off by a normal error of a tenth of the box's, 20 pixels of 1,024 at most. Raises ValueError for an
    empty mask.
    """
    y, x = _places(mask)
    box = np.array([x.min(), y.min(), x.max(), y.max()], dtype=np.float64)
    spread = JITTER * np.tile(box[2:] - box[:2] + 1, 2)
    farthest = FARTHEST * max(mask.shape)
    moved = box + np.clip(np.random.default_rng(seed).normal(0, spread), -farthest, farthest)
    moved = np.clip(moved, 0, np.tile(mask.shape[::-1], 2) - 1)
    return boxes([[*np.minimum(moved[:2], moved[2:]), *np.maximum(moved[:2], moved[2:])]])


def point_within(mask: NDArray[np.integer], seed: int) -> Prompt:
    """One point drawn among the pixels of the mask that are not 0. Raises ValueError for an empty mask."""
    y, x = _places(mask)
    drawn = int(np.random.default_rng(seed).integers(len(x)))
    return points([[float(x[drawn]), float(y[drawn])]])


class Sam:
    """A SAM that answers prompts, over the backbone that its family loads."""

    def __init__(self, origin: Backbone) -> None:
        """Raises ValueError for another network than SAM's."""
        network: Any = getattr(origin.module, "network", None)
        if not origin.decoder or not hasattr(network, "prompt_encoder"):
            raise ValueError("Only SAM and MedSAM answer prompts; this is another network.")
        self.size = origin.preprocessing.size
        self.encoder: nn.Module = origin.split(origin.depth - origin.decoder)[0].eval()
        self._network = network.eval()

    @torch.inference_mode()
    def embed(self, images: torch.Tensor) -> torch.Tensor:
        """Prepared images [b, 3, s, s] -> image embeddings [b, c, g, g]."""
        return self.encoder(images)

    def embeddings(self, images: Pixels, folder: Path) -> Latents:
        """The embeddings of many images, computed once and kept in `folder` by the digest of encoder and images;
        `plain(rows)` gives them. Within half of 1/255 of a channel's range where they are larger than 80 kB."""
        return Latents(self.encoder, images, folder=folder, mirrored=False, batch=1)

    @torch.inference_mode()
    def predict(self, embedding: torch.Tensor, prompt: Prompt) -> Masks:
        """The masks that an image's embedding, [1, c, g, g] or [c, g, g], holds for each prompt."""
        maps = embedding.reshape(1, *embedding.shape[-3:])
        encoder, decoder = self._network.prompt_encoder, self._network.mask_decoder
        sparse, _ = encoder(
            input_points=self._scaled(prompt.points),
            input_labels=None if prompt.labels is None else prompt.labels[None],
            input_boxes=self._scaled(prompt.boxes),
            input_masks=None,
        )
        logits, iou = decoder(
            image_embeddings=maps,
            image_positional_embeddings=positions(encoder.shared_embedding, maps.shape[-1]),
            sparse_prompt_embeddings=sparse,
            dense_prompt_embeddings=encoder.no_mask_embed.weight.view(1, -1, 1, 1),
            multimask_output=prompt.ambiguous,
        )
        return Masks(logits[0], iou[0])

    def _scaled(self, places: torch.Tensor | None) -> torch.Tensor | None:
        """From pixels of our size to those of the size that the model was made for, a batch of one image."""
        if places is None:
            return None
        return ((places.float() + 0.5) * (self._network.prompt_encoder.input_image_size / self.size) - 0.5)[None]


def _places(mask: NDArray[np.integer]) -> tuple[NDArray[np.integer], NDArray[np.integer]]:
    y, x = np.nonzero(mask)
    if not len(x):
        raise ValueError("The mask is empty: no prompt can be drawn from it.")
    return y, x
