"""Versions side by side as one HTML file: the figures, and the images in which the last looks elsewhere than the first.

No patient, case or file name stands on it: pictures have numbers.
"""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Sequence
from html import escape
from io import BytesIO
from typing import TYPE_CHECKING, Any

from agent.cases.datafolder import Row
from agent.report.frame import framed
from agent.saliency.look import Found, marked

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from agent.saliency.look import Marked

THUMBNAIL = 192  # pixels of the longer side
SHOWN = 8  # images
HEAT, OUTLINE = (220, 40, 30), (40, 220, 90)
COLUMNS = ("version", "pointing_game", "iou", "balanced_accuracy", "auroc")


def page(rows: Sequence[Row], versions: Sequence[Found], values: Sequence[dict[str, Any]]) -> str:
    """The whole page; reads the images that it shows. values: what the command answers, a row per version."""
    said = "".join(f"<p>{escape(value['says'])}</p>" for value in values)
    title = f"Where {', '.join(found.version for found in versions)} look"
    body = (
        f'<header><p class="eyebrow">Homeostat &middot; saliency</p><h1>{escape(title)}</h1></header>'
        f'<section class="card">{said}</section>{_table(values)}{_pictures(rows, versions)}'
    )
    return framed(title, body)


def _table(values: Sequence[dict[str, Any]]) -> str:
    head = "".join(f'<th class="number">{column.replace("_", " ")}</th>' for column in COLUMNS)
    lines = "".join(
        "<tr>" + "".join(f'<td class="number">{_cell(value, column)}</td>' for column in COLUMNS) + "</tr>"
        for value in values
    )
    table = f"<table><thead><tr>{head}</tr></thead><tbody>{lines}</tbody></table>"
    return f'<section><div class="card">{table}</div></section>'


def _cell(value: dict[str, Any], column: str) -> str:
    if not isinstance(value[column], float):
        return escape(str("-" if value[column] is None else value[column]))
    low, high = value["intervals"].get(column, (None, None))
    return f"{value[column]:.3f}" + ("" if low is None else f" ({low:.3f} to {high:.3f})")


def _pictures(rows: Sequence[Row], versions: Sequence[Found]) -> str:
    first, last = versions[0].localised, versions[-1].localised
    lost = [before.iou - after.iou for before, after in zip(first, last, strict=True)]
    order = sorted(range(len(lost)), key=lambda i: (-lost[i], last[i].iou, i))[:SHOWN]
    pairs = ""
    for number, i in enumerate(order, 1):
        one = marked(rows[versions[0].places[i]])
        figures = [(f"image {number}", _drawn(one, None))]
        figures += [
            (f"{found.version}: IoU {found.localised[i].iou:.2f}", _drawn(one, found.maps[i])) for found in versions
        ]
        pairs += '<div class="pictures pair">' + "".join(
            f'<figure class="picture"><img src="data:image/png;base64,{b64encode(png).decode()}" alt="{escape(says)}">'
            f"<figcaption>{escape(says)}</figcaption></figure>"
            for says, png in figures
        ) + "</div>"  # fmt: skip
    return (
        '<section><h2>Where they differ</h2><p class="soft">The images of which the last version meets the marks less '
        "than the first, most of all; where there is no difference, those that it meets least. What people marked is "
        f'outlined, what speaks for the class decided for is red.</p><div class="galleries">{pairs}</div></section>'
    )


def _drawn(one: Marked, attribution: NDArray[np.float32] | None) -> bytes:
    """A PNG of the image, small, with the outline of what is marked and the map over it."""
    import numpy as np
    import torch
    from PIL import Image
    from scipy.ndimage import binary_erosion

    from strategies.saliency import stretched

    assert one.mask is not None
    picture = Image.fromarray(one.image.clip(0, 255).astype(np.uint8)).convert("RGB")
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    pixels = np.asarray(picture, np.float32)
    if attribution is not None:
        heat = stretched(torch.from_numpy(attribution), pixels.shape).clip(0)
        pixels = _over(pixels, HEAT, heat * np.float32(0.6 / max(float(heat.max()), 1e-12)))
    mask = np.asarray(Image.fromarray(one.mask).resize(picture.size, Image.Resampling.NEAREST))
    pixels = _over(pixels, OUTLINE, (mask & ~binary_erosion(mask)).astype(np.float32))
    written = BytesIO()
    Image.fromarray(pixels.round().astype(np.uint8)).save(written, "PNG")
    return written.getvalue()


def _over(pixels: NDArray[np.float32], colour: tuple[int, int, int], alpha: NDArray[np.float32]) -> NDArray[np.float32]:
    import numpy as np

    return pixels * (1 - alpha[..., None]) + np.array(colour, np.float32) * alpha[..., None]
