"""Image quality in numbers: each moves with what it is named for, and none breaks on odd images."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image, ImageDraw, ImageFont
from scipy.ndimage import convolve, gaussian_filter, label

from monitors import QUALITY, quality
from monitors.quality import detail, letters


def picture(seed: int = 0) -> np.ndarray:
    """A smooth grey image with structure, 0..255."""
    rng = np.random.default_rng(seed)
    smooth = gaussian_filter(rng.standard_normal((64, 80)), 3)
    return np.clip(120 + 200 * smooth, 0, 255)


def of(image: np.ndarray, name: str) -> float:
    return float(quality(image)[QUALITY.index(name)])


def test_each_number_moves_with_its_cause() -> None:
    """Blur lowers sharpness, noise raises noise, a darker lamp lowers brightness, a tint its hue, a frame the field."""
    image, rng = picture(), np.random.default_rng(1)
    tinted = np.stack([image, image, 0.6 * image], axis=2)
    framed = np.pad(image, 20)

    assert of(gaussian_filter(image, 2), "sharpness") < of(image, "sharpness") - 1
    assert of(image + 10 * rng.standard_normal(image.shape), "noise") > of(image, "noise") + 1
    assert of(0.7 * image, "brightness") == pytest.approx(0.7 * of(image, "brightness"))
    assert of(tinted, "hue_blue") < of(image, "hue_blue") - 0.05
    assert of(tinted, "saturation") > of(image, "saturation") + 0.05
    assert of(framed, "field_of_view") < of(image, "field_of_view") - 0.2
    assert of(np.tile(image, (2, 1)), "size") == pytest.approx(of(image, "size") + np.log(2))


def test_immerkaers_estimate_is_the_noise() -> None:
    """Noise of 5 of 255 on a flat image is estimated within a tenth."""
    flat = 128 + 5 * np.random.default_rng(0).standard_normal((200, 200))
    assert np.exp(of(flat, "noise")) * 255 == pytest.approx(5, rel=0.1)


@given(st.integers(3, 40), st.integers(3, 40), st.sampled_from([0.0, 255.0, 17.0]), st.booleans())
@settings(max_examples=40, deadline=None)
def test_constant_and_tiny_images_have_numbers_too(height: int, width: int, value: float, colour: bool) -> None:
    """All black, all white, three pixels high: finite, and as many numbers as names."""
    found = quality(np.full((height, width, 3) if colour else (height, width), value))
    assert found.shape == (len(QUALITY),)
    assert np.isfinite(found).all()


def test_what_is_no_image_is_refused() -> None:
    """Two pixels have no neighbourhood."""
    with pytest.raises(ValueError, match="too small"):
        quality(np.zeros((2, 9)))


def test_letters_burned_in_are_counted_and_highlights_are_not() -> None:
    """A name and a side marker written into a scan are text; soft bright spots, noise and a white field are none."""
    rng = np.random.default_rng(0)
    soft = gaussian_filter(rng.standard_normal((256, 256)), 6)
    scan = np.clip(90 + 50 * soft / soft.std(), 0, 255)
    page = Image.fromarray(scan.astype(np.uint8))
    ImageDraw.Draw(page).text((8, 8), "AP  L  23.4", fill=255, font=ImageFont.load_default(14))
    written, bare = np.asarray(page, np.float64), of(scan, "text")
    large = np.kron(written, np.ones((4, 4)))

    assert of(written, "text") > bare + 1
    assert of(large, "text") > of(np.kron(scan, np.ones((4, 4))), "text") + 1
    assert of(np.clip(scan + 10 * rng.standard_normal(scan.shape), 0, 255), "text") < np.log1p(2)
    assert of(np.full((256, 256), 255.0), "text") == 0


def test_large_images_are_described_as_small_ones_are() -> None:
    """Looking at a part of a large image's pixels moves no number by more than a little."""
    rng = np.random.default_rng(0)
    large = np.clip(120 + 400 * gaussian_filter(rng.standard_normal((1400, 1200)), 3), 0, 255)
    large += rng.standard_normal(large.shape)
    whole, part = quality(large), quality(large[:700, :600])

    for name in ("brightness", "contrast", "entropy", "sharpness", "noise", "field_of_view"):
        assert whole[QUALITY.index(name)] == pytest.approx(part[QUALITY.index(name)], abs=0.05)


@given(st.integers(0, 10_000), st.integers(3, 90), st.integers(3, 90), st.floats(0, 0.6))
@settings(max_examples=60, deadline=None)
def test_letters_are_those_of_the_whole_image(seed: int, height: int, width: int, share: float) -> None:
    """Dark rows and columns are left out before islands are looked for; islands that these parted stay apart."""
    rng = np.random.default_rng(seed)
    image = np.kron(
        255 * (rng.random((height, width)) < share) * rng.choice([0.82, 1.0], (height, width)), np.ones((3, 3))
    )
    image[rng.random(len(image)) < 0.5] = 0
    image[:, rng.random(image.shape[1]) < 0.5] = 0
    islands, found = label(image >= 0.8 * 255, np.ones((3, 3)))
    areas, ink = (np.array([np.sum(which & (islands == i)) for i in range(1, found + 1)])
                  for which in (islands > 0, image >= 0.95 * 255))  # fmt: skip
    assert letters(image) == np.sum((areas >= 6) & (areas <= image.size / 100) & (3 * ink >= areas))


def test_detail_is_that_of_the_whole_image() -> None:
    """It is read in bands of rows, and no row between two bands is lost or counted twice."""
    rng = np.random.default_rng(0)
    image = np.cumsum(rng.integers(0, 9, (131, 40)), axis=0).astype(float)  # steeper where rows repeat
    mask = np.array([[1, -2, 1], [-2, 4, -2], [1, -2, 1]])
    laplacian = convolve(image, np.array([[0, 1, 0], [1, -4, 1], [0, 1, 0]]))[1:-1, 1:-1] / 255
    noise = np.abs(convolve(image, mask)[1:-1, 1:-1]).mean() * np.sqrt(np.pi / 2) / 6 / 255
    assert detail(image) == pytest.approx((laplacian.var(), noise), rel=1e-5)
