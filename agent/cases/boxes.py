"""Boxes: where what is looked for lies in an image, as a person drew it: JSON, in pixels of the image."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from agent.cases.images import Unreadable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

MOST_BYTES = 2**24
MOST_BOXES = 10_000
OVER_THE_EDGE = 1.0  # pixels that a corner may lie outside the image: people round, and draw to the edge


class Box(NamedTuple):
    """Corners in pixels, x to the right and y down, x0 < x1 and y0 < y1."""

    label: str
    x0: float
    y0: float
    x1: float
    y1: float


def read_boxes(path: Path) -> list[Box]:
    """[{"label": "...", "box": [x0, y0, x1, y1]}, ...]; an empty list says that there is nothing to find.

    Raises Unreadable, with one sentence that quotes nothing of the file but a box's number.
    """
    try:
        if path.stat().st_size > MOST_BYTES:
            raise Unreadable(f"the list of boxes has more than {MOST_BYTES:,} bytes")
        listed = json.loads(path.read_bytes())
    except OSError as error:
        raise Unreadable(f"the boxes can't be opened ({error.strerror})") from None
    except (ValueError, RecursionError):
        raise Unreadable("the boxes are no JSON") from None
    if not isinstance(listed, list) or len(listed) > MOST_BOXES:
        raise Unreadable(f"the boxes are no JSON list of at most {MOST_BOXES:,}")
    return [_box(number, entry) for number, entry in enumerate(listed, 1)]


def against(boxes: Sequence[Box], shape: Sequence[int], classes: Sequence[str]) -> None:
    """Raises Unreadable where a box lies outside an image of this shape (height, width), or has another class."""
    height, width = shape[:2]
    for number, box in enumerate(boxes, 1):
        least, over = -OVER_THE_EDGE, OVER_THE_EDGE
        if box.x0 < least or box.y0 < least or box.x1 > width + over or box.y1 > height + over:
            raise Unreadable(f"box {number} lies outside its image of {height} x {width} pixels")
    if classes:
        _known(boxes, classes)


def numbered(boxes: Sequence[Box], classes: Sequence[str]) -> NDArray[np.float32]:
    """[t, 5]: the class's number, and the corners. Raises Unreadable where a box has another class."""
    import numpy as np

    _known(boxes, classes)
    places = {name: place for place, name in enumerate(classes)}
    return np.array([[places[box.label], *box[1:]] for box in boxes], np.float32).reshape(-1, 5)


def _known(boxes: Sequence[Box], classes: Sequence[str]) -> None:
    for number, box in enumerate(boxes, 1):
        if box.label not in classes:
            raise Unreadable(f"box {number} has a class that is none of the model's ({', '.join(classes)})")


def _box(number: int, entry: Any) -> Box:
    if not isinstance(entry, dict) or not isinstance(entry.get("label"), str) or not entry["label"]:
        raise Unreadable(f"box {number} has no label")
    corners = entry.get("box")
    corners = corners if isinstance(corners, list) else []
    if len(corners) != 4 or not all(isinstance(one, (int, float)) and math.isfinite(one) for one in corners):
        raise Unreadable(f"box {number} has no four numbers x0, y0, x1, y1")
    x0, y0, x1, y1 = map(float, corners)
    if not (x0 < x1 and y0 < y1):
        raise Unreadable(f"box {number} has no area: x0 < x1 and y0 < y1 are needed")
    return Box(entry["label"], x0, y0, x1, y1)
