"""Random views of training images, of a kind that a medical image survives: pose, framing and light."""

from __future__ import annotations

import torch
from torch.nn import functional


def augment(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """uint8 [b, 3, s, s] -> float32 [b, 3, s, s] in 0..255, another view of each image.

    Rotation within 15 degrees, scale 0.9 to 1.1, shift of 5 %, horizontal flip, brightness and contrast within 15 %.
    """
    count = len(batch)
    angle = torch.empty(count).uniform_(-0.26, 0.26, generator=generator)
    scale = torch.empty(count).uniform_(0.9, 1.1, generator=generator)
    mirror = torch.randint(0, 2, (count,), generator=generator) * 2.0 - 1.0
    shift = torch.empty(count, 2).uniform_(-0.1, 0.1, generator=generator)
    cosine, sine = torch.cos(angle) * scale, torch.sin(angle) * scale
    rows = [torch.stack([cosine * mirror, -sine, shift[:, 0]], 1), torch.stack([sine * mirror, cosine, shift[:, 1]], 1)]
    grid = functional.affine_grid(torch.stack(rows, 1), list(batch.shape), align_corners=False)
    views = functional.grid_sample(batch.float(), grid, mode="bilinear", padding_mode="reflection", align_corners=False)
    contrast = torch.empty(count, 1, 1, 1).uniform_(0.85, 1.15, generator=generator)
    brightness = torch.empty(count, 1, 1, 1).uniform_(-0.15, 0.15, generator=generator) * 255
    middle = views.mean(dim=(1, 2, 3), keepdim=True)
    return ((views - middle) * contrast + middle + brightness).clamp_(0, 255)


def turned(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """`augment` after one of the eight symmetries of the square: for images without an up (see `upright`)."""
    return augment(_symmetric(batch, generator), generator)


def _symmetric(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """[b, c, s, s] -> the same, upside down, on its side, or both."""
    batch = batch.clone()
    for view in (lambda images: images.flip(2), lambda images: images.transpose(2, 3)):
        chosen = torch.rand(len(batch), generator=generator) < 0.5
        batch[chosen] = view(batch[chosen])
    return batch


def lit(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """uint8 [b, 3 or 4, s, s] -> float32 of the same shape, every other image mirrored, in another light.

    A fourth channel holds a mask: it moves with its image, and knows no light. Brightness and contrast within 15 %.
    """
    views = mirror(batch, generator)
    count, images = len(batch), views[:, :3]
    contrast = torch.empty(count, 1, 1, 1).uniform_(0.85, 1.15, generator=generator)
    brightness = torch.empty(count, 1, 1, 1).uniform_(-0.15, 0.15, generator=generator) * 255
    middle = images.mean(dim=(1, 2, 3), keepdim=True)
    views[:, :3] = ((images - middle) * contrast + middle + brightness).clamp_(0, 255)
    return views


def lit_and_turned(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """`lit`, under one of the eight symmetries of the square: for images without an up (see `upright`)."""
    return _symmetric(lit(batch, generator), generator)


def mirror(batch: torch.Tensor, generator: torch.Generator) -> torch.Tensor:
    """uint8 [b, c, s, s] -> float32 [b, c, s, s] in 0..255, every other image mirrored, whatever its channels are.

    For short adaptations: in a dozen epochs there is no time to learn the other invariances again, and home suffers.
    """
    mirrored = torch.rand(len(batch), generator=generator).view(-1, 1, 1, 1) < 0.5
    return torch.where(mirrored, batch.flip(3), batch).float()


def hidden(batch: torch.Tensor, generator: torch.Generator, share: float, side: int = 8) -> torch.Tensor:
    """float32 [b, 3, s, s] -> the same, with `share` of its `side` x `side` squares in the image's mean colour."""
    squares = torch.rand(len(batch), 1, side, side, generator=generator) < share
    mask = functional.interpolate(squares.float(), size=batch.shape[-2:], mode="nearest") > 0
    return torch.where(mask, batch.mean(dim=(2, 3), keepdim=True), batch)


def upright(batch: torch.Tensor) -> bool:
    """Whether images [b, 3, s, s] have an up, as a chest film has and a cell under the microscope has not.

    An image minus itself upside down, or on its side, is its asymmetry. Where the images have an up, their asymmetries
    agree: the mean's share of their energy is 0.25 to 0.75 for chest films and ultrasound, below 0.06 for cells.
    """
    small = functional.interpolate(batch.float().mean(dim=1, keepdim=True), size=(32, 32), mode="area")
    shares = []
    for turned in (small.flip(2), small.transpose(2, 3)):
        asymmetry = (small - turned).flatten(1)
        energy = asymmetry.square().sum(dim=1).mean()
        # A few images agree by chance: b of them share 1 / b.
        shares.append(asymmetry.mean(dim=0).square().sum() / energy.clamp_min(1e-9) - 1 / len(batch))
    return bool(max(shares) > 0.2)
