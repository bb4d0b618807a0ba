"""What an image looks like, in a few numbers with names that a physicist uses. No model is needed for them."""

from __future__ import annotations

import numpy as np

from monitors.protocols import Float

NAMES = (
    "brightness", "contrast", "saturation", "hue_red", "hue_blue", "entropy", "sharpness", "noise",
    "field_of_view", "dark", "bright", "aspect", "size",
    *(f"place_{row}_{column}" for row in range(4) for column in range(4)),
)  # fmt: skip
GRID = 4
BINS = 64
IMMERKAER = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]], dtype=np.float64)
EMPTY = 0.04  # of the range: darker is background


def quality(image: Float) -> Float:
    """[h, w] or [h, w, 3], 0..255 -> [len(NAMES)], one number per name, none of them NaN.

    brightness and contrast: mean and standard deviation of the grey values; saturation: mean of max - min over the
    channels; hue_red, hue_blue: share of the channel in the sum; entropy: of the grey histogram, bits; sharpness: log
    variance of the Laplacian; noise: log of Immerkaer's estimate (1996) of the noise's standard deviation;
    field_of_view: share of the image that is not background; dark, bright: shares at the ends of the range; aspect and
    size: logs; place_i_j: brightness of a 4 x 4 grid, less the mean. Raises ValueError below 3 x 3 pixels.
    """
    from scipy.ndimage import convolve, laplace

    if min(image.shape[:2]) < 3:
        raise ValueError(f"an image of {image.shape[0]} x {image.shape[1]} pixels is too small to be described")
    colour = np.asarray(image, dtype=np.float64) / 255.0
    colour = colour if colour.ndim == 3 else np.repeat(colour[..., None], 3, axis=2)
    grey = colour.mean(axis=2)
    height, width = grey.shape
    total = colour.sum(axis=(0, 1)) + 1e-6
    counts = np.histogram(grey, BINS, (0.0, 1.0))[0] / grey.size
    sigma = np.abs(convolve(grey, IMMERKAER)).mean() * np.sqrt(np.pi / 2) / 6
    rows, columns = (np.array_split(np.arange(n), min(GRID, n)) for n in (height, width))
    places = np.zeros((GRID, GRID))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            places[i, j] = grey[row[0] : row[-1] + 1, column[0] : column[-1] + 1].mean()
    return np.array(
        [
            grey.mean(),
            grey.std(),
            (colour.max(axis=2) - colour.min(axis=2)).mean(),
            total[0] / total.sum(),
            total[2] / total.sum(),
            -(counts[counts > 0] * np.log2(counts[counts > 0])).sum(),
            np.log(laplace(grey).var() + 1e-8),
            np.log(sigma + 1e-5),
            (grey > EMPTY).mean(),
            (grey <= EMPTY / 2).mean(),
            (grey >= 1 - EMPTY / 2).mean(),
            np.log(width / height),
            np.log(height * width),
            *(places - grey.mean()).ravel(),
        ]
    )
