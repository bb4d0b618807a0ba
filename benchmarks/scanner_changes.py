"""What a service of the scanner or another export may do to images, so little that a reader would hardly notice."""

from __future__ import annotations

import io
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

Image = Any  # float32 [h, w] or [h, w, 3], 0..255
Alter = Callable[[Image, int], Image]  # of an image, and a seed


def blur(image: Image, seed: int) -> Image:
    """A point becomes a Gaussian of one pixel's standard deviation."""
    from scipy.ndimage import gaussian_filter

    return gaussian_filter(image, (1, 1, 0)[: image.ndim])


def compressed(image: Image, seed: int) -> Image:
    """JPEG of quality 60."""
    from PIL import Image as Pillow

    stream = io.BytesIO()
    Pillow.fromarray(np.clip(image, 0, 255).astype(np.uint8)).save(stream, "JPEG", quality=60)
    return np.asarray(Pillow.open(stream), dtype=np.float32)


def gamma(image: Image, seed: int) -> Image:
    """Mid-tones a little brighter."""
    return (255 * (np.clip(image, 0, 255) / 255) ** 0.9).astype(np.float32)


def noise(image: Image, seed: int) -> Image:
    """Gaussian, 2 % of the range."""
    drawn = np.random.default_rng(seed).standard_normal(image.shape)
    return np.clip(image + 5 * drawn, 0, 255).astype(np.float32)


def written(image: Image, seed: int) -> Image:
    """A side marker and a number in the upper left corner, an eighth of the image high."""
    from PIL import Image as Pillow
    from PIL import ImageDraw, ImageFont

    page = Pillow.fromarray(np.clip(image, 0, 255).astype(np.uint8))
    font = ImageFont.load_default(max(8, image.shape[0] // 8))
    ImageDraw.Draw(page).text((4, 4), f"L {seed % 100}", fill="white" if image.ndim == 3 else 255, font=font)
    return np.asarray(page, dtype=np.float32)


CHANGES: Mapping[str, Alter] = {"blur": blur, "jpeg": compressed, "gamma": gamma, "noise": noise, "text": written}
