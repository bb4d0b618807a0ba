"""What an image looks like, in a few numbers with names that a physicist uses. No model is needed for them."""

from __future__ import annotations

from collections.abc import Iterator
from functools import reduce

import numpy as np
from numpy.typing import NDArray

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
BAND, AT_ONCE = 16, 64  # rows side by side, for what needs neighbours: of a large image, and of one that is read whole
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
    sharpness, noise = detail(image)
    text = letters(image)
    step = -(-max(height, width) // COARSE) if min(height, width) >= COARSE else 1
    planes = np.stack(_channels(image[::step, ::step])) / np.float32(255)
    grey, apart = planes.mean(axis=0), np.ptp(planes, axis=0)
    total = np.resize(planes.sum(axis=(1, 2)), 3) + 1e-6
    counts = np.bincount(np.clip(grey * BINS, 0, BINS - 1).astype(np.intp).ravel()) / grey.size
    places = _parts(grey.shape[0]) @ grey @ _parts(grey.shape[1]).T
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
            np.log1p(text),
            np.count_nonzero(grey > EMPTY) / grey.size,
            np.count_nonzero(grey <= EMPTY / 2) / grey.size,
            np.count_nonzero(grey >= 1 - EMPTY / 2) / grey.size,
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
    squares = total = absolute = 0.0
    n = 0
    for band in _bands(image):  # one after the other: what is in the way between two steps then stays in the cache
        grey = _grey(band)
        slope = grey[:, 1:] - grey[:, :-1]
        across = slope[:, 1:] - slope[:, :-1]
        slope = grey[1:, 1:-1] - grey[:-1, 1:-1]
        down = slope[1:] - slope[:-1]
        slope = across[1:] - across[:-1]
        both = slope[1:] - slope[:-1]
        laplacian = np.add(across[1:-1], down, out=down).ravel()
        squares += float(laplacian @ laplacian)
        total += float(laplacian.sum())
        absolute += float(np.abs(both, out=both).sum())
        n += both.size
    variance = max(0.0, squares / n - (total / n) ** 2)
    return variance / 255**2, absolute / n * np.sqrt(np.pi / 2) / 6 / 255


def letters(image: Float) -> int:
    """How many letters, words or markers are burned into an image, 0..255, white on something darker.

    They are small bright islands, a third of them white at least: a spot in the picture itself fades
    out, and is mostly rim. Black on white isn't looked for.
    """
    from scipy.ndimage import label

    level = _level(image)
    most = WORD * level.size
    for axis in (0, 1):  # most images are dark nearly everywhere: of empty lines side by side one keeps islands apart
        lit = np.append(False, level.any(axis=1 - axis))
        level = level.take(np.flatnonzero(lit[1:] | lit[:-1]), axis)
    at = np.flatnonzero(level)
    islands = label(level, np.ones((3, 3)))[0].take(at)  # of each bright pixel, from 1 on
    counts = np.bincount(2 * islands + (level.take(at) == 2), minlength=2 * islands.max(initial=0) + 2)
    ink = counts[1::2]
    areas = counts[::2] + ink
    return int(((areas >= DOT) & (areas <= most) & (3 * ink >= areas)).sum())


def _level(image: Float) -> NDArray[np.uint8]:
    """[h, w] 2 where an image, made small enough to look for letters in, is white, 1 where it is nearly so, else 0."""
    peak = reduce(np.maximum, _channels(image))
    block = -(-max(peak.shape) // FINE) if min(peak.shape) >= FINE else 1
    if block > 1:  # the brightest of each block: every second pixel would break thin strokes
        height, width = (n // block * block for n in peak.shape)
        peak = reduce(np.maximum, (peak[i:height:block] for i in range(block)))
        peak = reduce(np.maximum, (peak[:, i:width:block] for i in range(block)))
    return (peak >= EDGE * 255).view(np.uint8) + (peak >= INK * 255)


def _parts(n: int) -> Float:
    """[GRID, n]: times what n lines hold it is the mean of each of GRID parts of them; 0 where lines are fewer."""
    sizes = [len(part) for part in np.array_split(np.arange(n), min(GRID, n))]
    return np.repeat(np.eye(GRID, len(sizes), dtype=np.float32) / sizes, sizes, axis=1).astype(np.float32)


def _bands(image: Float) -> Iterator[Float]:
    """Rows side by side: all of the image, in bands that share two rows with the next; or of an image of more than FINE
    x FINE pixels as many bands of BAND rows, evenly spread, as have so many pixels together."""
    height, width = image.shape[:2]
    count = max(1, FINE * FINE // (BAND * width))
    if height > count * BAND:
        for start in np.linspace(0, height - BAND, count).astype(int):
            yield image[start : start + BAND]
    else:
        for start in range(0, height - 2, AT_ONCE):
            yield image[start : start + AT_ONCE + 2]


def _channels(image: Float) -> list[Float]:
    """Red, green and blue, or grey alone: numpy is slow along an axis of three."""
    image = np.asarray(image, dtype=np.float32)
    return [image] if image.ndim == 2 else [image[..., channel] for channel in range(3)]


def _grey(image: Float) -> Float:
    """[h, w] the mean over channels."""
    image = np.asarray(image, dtype=np.float32)
    return image if image.ndim == 2 else image @ np.full(3, 1 / 3, np.float32)
