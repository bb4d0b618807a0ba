"""What an image looks like, in a few numbers with names that a physicist uses. No model is needed for them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from monitors.protocols import Float

NAMES = (
    "brightness", "contrast", "saturation", "hue_red", "hue_blue", "entropy", "sharpness", "noise", "text",
    "field_of_view", "dark", "bright", "aspect", "size",
    *(f"place_{row}_{column}" for row in range(4) for column in range(4)),
)  # fmt: skip
GRID = 4
BINS = 64
EMPTY = 0.04  # of the range: darker is background
COARSE, FINE = 256, 512  # pixels of the longer side that light and letters are looked at with
BAND = 16  # rows side by side, for what needs neighbours
EDGE, INK = 0.8, 0.95  # of the range: what is burned in is at least the former up to its edge, and the latter within
DOT, WORD = 6, 1 / 100  # fewest pixels of a letter, and largest share of the image


def quality(image: Float) -> Float:
    """[h, w] or [h, w, 3], 0..255 -> [len(NAMES)], one number per name, none of them NaN.

    brightness and contrast: mean and standard deviation of the grey values; saturation: mean of max - min over the
    channels; hue_red, hue_blue: share of the channel in the sum; entropy: of the grey histogram, bits; sharpness: log
    variance of the Laplacian; noise: log of Immerkaer's estimate (1996) of the noise's standard deviation; text: log of
    one plus the number of letters and markers burned in (see letters); field_of_view: share of the image that is not
    background; dark, bright: shares at the ends of the range; aspect and size: logs; place_i_j: brightness of a 4 x 4
    grid, less the mean. Of large images light is measured on a grid of pixels and detail on bands of rows. Raises
    ValueError below 3 x 3 pixels.
    """
    height, width = image.shape[:2]
    if min(height, width) < 3:
        raise ValueError(f"an image of {height} x {width} pixels is too small to be described")
    step = -(-max(height, width) // COARSE) if min(height, width) >= COARSE else 1
    channels = [_scaled(channel) for channel in _channels(image[::step, ::step])]
    grey = _mean(channels)
    apart = np.maximum.reduce(channels) - np.minimum.reduce(channels)
    total = np.resize([channel.sum() for channel in channels], 3) + 1e-6
    counts = np.bincount(np.clip(grey * BINS, 0, BINS - 1).astype(np.int64).ravel()) / grey.size
    sharpness, noise = detail(image)
    rows, columns = (np.array_split(np.arange(n), min(GRID, n)) for n in grey.shape)
    places = np.zeros((GRID, GRID))
    for i, row in enumerate(rows):
        for j, column in enumerate(columns):
            places[i, j] = grey[row[0] : row[-1] + 1, column[0] : column[-1] + 1].mean()
    return np.array(
        [
            grey.mean(),
            grey.std(),
            apart.mean(),
            total[0] / total.sum(),
            total[2] / total.sum(),
            -(counts[counts > 0] * np.log2(counts[counts > 0])).sum(),
            np.log(sharpness + 1e-8),
            np.log(noise + 1e-5),
            np.log1p(letters(image)),
            (grey > EMPTY).mean(),
            (grey <= EMPTY / 2).mean(),
            (grey >= 1 - EMPTY / 2).mean(),
            np.log(width / height),
            np.log(height * width),
            *(places - grey.mean()).ravel(),
        ],
        dtype=np.float64,
    )


def detail(image: Float) -> tuple[float, float]:
    """(variance of the Laplacian, standard deviation of the noise by Immerkaer) of an image's grey values, 0..1.

    Immerkaer's mask is the second difference along rows of that along columns: structure with straight edges falls out.
    """
    grey = np.stack([_mean([_scaled(channel) for channel in _channels(band)]) for band in _bands(image)])
    across = grey[..., 2:] - 2 * grey[..., 1:-1] + grey[..., :-2]
    down = grey[:, 2:] - 2 * grey[:, 1:-1] + grey[:, :-2]
    both = across[:, 2:] - 2 * across[:, 1:-1] + across[:, :-2]
    laplacian = across[:, 1:-1] + down[..., 1:-1]
    return float(laplacian.var()), float(np.abs(both).mean() * np.sqrt(np.pi / 2) / 6)


def letters(image: Float) -> int:
    """How many letters, words or markers are burned into an image, 0..255, white on something darker.

    They are small bright islands, a third of them white at least: a spot in the picture itself fades
    out, and is mostly rim. Black on white isn't looked for.
    """
    from scipy.ndimage import label

    peak = np.maximum.reduce(_channels(image))
    block = -(-max(peak.shape) // FINE) if min(peak.shape) >= FINE else 1
    if block > 1:  # the brightest of each block: every second pixel would break thin strokes
        height, width = (n // block * block for n in peak.shape)
        parts = [peak[i:height:block, j:width:block] for i in range(block) for j in range(block)]
        peak = np.maximum.reduce(parts)
    islands, found = label(peak >= EDGE * 255, np.ones((3, 3)))
    areas = np.bincount(islands.ravel(), minlength=found + 1)[1:]
    ink = np.bincount(islands[peak >= INK * 255], minlength=found + 1)[1:]
    return int(((areas >= DOT) & (areas <= WORD * peak.size) & (3 * ink >= areas)).sum())


def _bands(image: Float) -> Iterator[Float]:
    """The image, or as many bands of BAND rows, evenly spread, as have FINE x FINE pixels together."""
    height, width = image.shape[:2]
    count = max(1, FINE * FINE // (BAND * width))
    if height <= count * BAND:
        yield image
        return
    for start in np.linspace(0, height - BAND, count).astype(int):
        yield image[start : start + BAND]


def _scaled(image: Float) -> Float:
    return np.asarray(image, dtype=np.float32) / np.float32(255)


def _channels(image: Float) -> list[Float]:
    """Red, green and blue, or grey alone: numpy is slow along an axis of three."""
    return [image] if image.ndim == 2 else [image[..., channel] for channel in range(3)]


def _mean(channels: Sequence[Float]) -> Float:
    return sum(channels[1:], channels[0]) / np.float32(len(channels))
