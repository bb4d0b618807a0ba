"""The comparison as one HTML file that needs nothing else: the answer, what moved, and the most unusual images.

No patient, case or file name stands on it: pictures have numbers.
"""

from __future__ import annotations

from base64 import b64encode
from html import escape
from io import BytesIO
from pathlib import Path

from agent.cases.images import read_image
from agent.comparison.compare import Comparison
from agent.comparison.words import headline, sentences
from agent.report.frame import framed

THUMBNAIL = 192  # pixels
BARS = 8  # features that are drawn
REACH = 4.0  # standard deviations at which a bar is full


def page(found: Comparison) -> str:
    """The whole page; reads the images that it shows."""
    said = "".join(f"<p>{escape(sentence)}</p>" for sentence in sentences(found))
    body = (
        '<header><p class="eyebrow">Homeostat &middot; check</p>'
        f'<h1>{escape(headline(found))}</h1></header><section class="card">{said}</section>'
        f"{_bars(found)}{_pairs(found)}"
    )
    return framed(headline(found), body)


def _bars(found: Comparison) -> str:
    if not found.moved:
        return ""
    rows = "".join(
        f'<tr><td>{escape(name.replace("_", " "))}</td><td class="number">{change:+.2f}</td>'
        f'<td><svg viewBox="0 0 200 12" width="200" height="12" role="img" aria-label="{change:+.2f}">{_bar(change)}'
        "</svg></td></tr>"
        for name, change in list(found.moved.items())[:BARS]
    )
    return (
        '<section><h2>What moved</h2><p class="soft">Change of the mean, in standard deviations of the reference.</p>'
        f'<div class="card"><table><tbody>{rows}</tbody></table></div></section>'
    )


def _bar(change: float) -> str:
    width = 100 * min(abs(change), REACH) / REACH
    left = 100 if change > 0 else 100 - width
    return (
        '<line x1="100" y1="0" x2="100" y2="12" stroke="var(--hair)"/>'
        f'<rect x="{left:.1f}" y="2" width="{width:.1f}" height="8" fill="var(--ours)"/>'
    )


def _pairs(found: Comparison) -> str:
    pairs = "".join(
        f'<div class="pictures pair"><figure class="picture">{_image(new.file, f"unusual case {number}")}'
        f"<figcaption><b>new {number}</b></figcaption></figure>"
        f'<figure class="picture">{_image(known.file, f"nearest reference case of {number}")}'
        "<figcaption>nearest of the reference</figcaption></figure></div>"
        for number, (new, known) in enumerate(found.unusual, 1)
    )
    return (
        '<section><h2>The most unusual images</h2><p class="soft">New cases that are farthest from every reference '
        f'case, beside the nearest one.</p><div class="galleries">{pairs}</div></section>'
    )


def _image(file: Path, says: str) -> str:
    from PIL import Image

    picture = Image.fromarray(read_image(file).clip(0, 255).astype("uint8"))
    picture.thumbnail((THUMBNAIL, THUMBNAIL))
    written = BytesIO()
    picture.save(written, "PNG")
    return (
        f'<img src="data:image/png;base64,{b64encode(written.getvalue()).decode()}" alt="{escape(says, quote=True)}">'
    )
