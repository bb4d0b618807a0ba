"""The chart over image quality: a lens out of focus, another gain, another size; quiet while images look as before."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from scipy.ndimage import gaussian_filter
from streams import batch

from monitors import QUALITY, Batch, QualityStream, Reference, quality


def scan(rng: np.random.Generator, sigma: float = 0.0, gain: float = 1.0, side: int = 48) -> np.ndarray:
    """A noisy image with structure, of a patient of its own brightness and contrast."""
    soft = gaussian_filter(rng.standard_normal((side, side)), 2)
    image = rng.normal(110, 12) + rng.uniform(30, 50) * soft / soft.std() + 4 * rng.standard_normal(soft.shape)
    return np.clip(gain * (gaussian_filter(image, sigma) if sigma else image), 0, 255)


def cases(n: int, seed: int, start: int, **change: float) -> Batch:
    rng = np.random.default_rng(seed)
    seen = np.stack([quality(scan(rng, **change)) for _ in range(n)])
    return replace(batch(np.zeros((n, 1)), np.ones((n, 1)), start=start), quality=seen)


def fitted(calibrate: int = 160) -> QualityStream:
    monitor = QualityStream(365.0)
    monitor.fit(Reference(transform=cases(200, 1, -2000), calibrate=cases(calibrate, 2, -1000)))
    return monitor


def alarmed(monitor: QualityStream, ticks: int, **change: float) -> tuple[int | None, str]:
    """(the tick of the alarm, the measure that drives it)."""
    for t in range(ticks):
        signal = monitor.update(cases(10, 100 + t, 1 + 10 * t, **change))
        if signal.log_e >= signal.threshold:
            return t, str(signal.evidence["measure"])
    return None, ""


def test_images_that_look_as_before_are_quiet() -> None:
    """Forty days of the reference's own kind."""
    assert alarmed(fitted(), 40) == (None, "")


@pytest.mark.parametrize(
    ("change", "measures"),
    [
        ({"sigma": 0.6}, {"sharpness", "noise"}),
        ({"gain": 0.7}, {"brightness", "contrast", "entropy", "sharpness", "noise"}),
        ({"side": 64}, {"size"}),
    ],
    ids=["a soft focus", "another gain", "another size, which never varied"],
)
def test_each_change_is_found_and_what_moved_is_named(change: dict, measures: set) -> None:
    """Within three days of ten cases."""
    found, driver = alarmed(fitted(), 6, **change)
    assert found is not None and found <= 2
    assert driver in measures


def test_one_odd_image_is_no_alarm() -> None:
    """A single image of another size and all white is unusual, and not infinitely so."""
    monitor = fitted()
    for t in range(5):
        monitor.update(cases(10, 100 + t, 1 + 10 * t))
    tick = cases(10, 200, 51)
    tick.quality[3] = quality(np.full((300, 20), 255.0))
    assert monitor.update(tick).log_e < np.log(365)


def test_a_small_reference_has_few_columns() -> None:
    """One component for every eight patients, and how far off their plane an image lies."""
    monitor = fitted(calibrate=24)
    assert monitor.chart.known.shape[1] == 4
    assert monitor.chart.known.shape[1] < len(QUALITY)


def test_a_reference_without_image_quality_is_refused() -> None:
    """Nothing to compare with, or another program's numbers, are said and not guessed."""
    bare = replace(cases(30, 1, 1), quality=np.empty((30, 0)))
    with pytest.raises(ValueError, match="no image quality"):
        QualityStream().fit(Reference(transform=bare, calibrate=bare))
    with pytest.raises(ValueError, match="numbers of image quality"):
        fitted().update(replace(cases(10, 1, 1), quality=np.zeros((10, 3))))
