"""Label maps: which class every pixel of an image is of, as a person drew it. Values are kept as they are.

Read by the formats of `images`, DICOM aside, whose segmentations are no label maps of one image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.cases.images import MOST_FILE_BYTES, Unreadable, check_size, media_type, open_nifti, short

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Map = NDArray[np.uint8]

MOST_CLASSES = 256


def read_mask(path: Path, kind: str | None = None) -> Map:
    """uint8 [h, w], 0 for background. Raises Unreadable, with one sentence that never names the file."""
    import numpy as np

    try:
        kind = media_type(path) if kind is None else kind
        if kind not in _READERS:
            raise Unreadable("the mask is none of PNG, TIFF, NPY, NIfTI: a label map keeps one number per pixel")
        if path.stat().st_size > MOST_FILE_BYTES:
            raise Unreadable(f"the mask has more than {MOST_FILE_BYTES:,} bytes")
        values = np.asarray(_READERS[kind](path))
    except (Unreadable, ImportError):
        raise
    except OSError as error:
        raise Unreadable(f"the mask can't be opened ({error.strerror or short(error)})") from None
    except MemoryError:
        raise Unreadable("the mask does not fit in memory") from None
    except Exception as error:  # as for `read_image`: decoders raise what they like
        raise Unreadable(f"the mask can't be decoded as {kind} ({short(error)})") from error
    return _as_map(values)


def against(mask: Map, shape: Sequence[int], classes: Sequence[str]) -> None:
    """Raises Unreadable where the mask is not of an image of this shape (height, width), or has another class than
    these, background among them."""
    if mask.shape != tuple(shape[:2]):
        height, width = mask.shape
        raise Unreadable(f"the mask has {height} x {width} pixels and its image {shape[0]} x {shape[1]}")
    if mask.max(initial=0) >= len(classes):
        raise Unreadable(f"the mask has the class {mask.max()}, and the model knows 0 to {len(classes) - 1}")


def to_side(mask: Map, side: int) -> Map:
    """[h, w] -> [side, side] by the nearest pixel, as the masks of a training are brought to the model's size."""
    import numpy as np

    places = np.arange(side, dtype=np.float32) + np.float32(0.5)  # in single precision, as torch does
    rows, columns = (np.minimum((places * np.float32(n / side)).astype(int), n - 1) for n in mask.shape)
    return mask[np.ix_(rows, columns)]


def _as_map(values: NDArray[Any]) -> Map:
    """Colours are taken where all three are the same; numbers where they are whole, and 0 to 255."""
    import numpy as np

    if values.ndim == 3 and values.shape[2] in (3, 4) and (values[..., :3] == values[..., :1]).all():
        values = values[..., 0]
    if values.ndim != 2:
        raise Unreadable(f"the mask has the shape {values.shape}, and one class per pixel is needed")
    check_size(*values.shape)
    if values.dtype == bool:
        return values.astype(np.uint8)
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        raise Unreadable("the mask holds something else than numbers")
    if values.min() < 0 or values.max() >= MOST_CLASSES or (values != np.round(values)).any():
        raise Unreadable("the mask holds values that are no classes: whole numbers from 0 to 255 are needed")
    return values.astype(np.uint8)


def _pillow(path: Path) -> NDArray[Any]:
    """Of a palette the indices, not the colours."""
    import numpy as np
    from PIL.PngImagePlugin import PngImageFile

    with path.open("rb") as file, PngImageFile(file) as image:
        check_size(image.height, image.width)
        return np.array(image)


def _tiff(path: Path) -> NDArray[Any]:
    from tifffile import TiffFile

    with TiffFile(path) as tiff:
        page = tiff.pages[len(tiff.pages) // 2].aspage()
        check_size(page.imagelength, page.imagewidth)
        return page.asarray()


def _npy(path: Path) -> NDArray[Any]:
    """[h, w] or the middle of a volume [d, h, w], as its image is read."""
    import numpy as np

    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return np.array(array[array.shape[0] // 2] if array.ndim == 3 and array.shape[2] > 4 else array.squeeze())


def _nifti(path: Path) -> NDArray[Any]:
    import numpy as np

    with open_nifti(path) as image:
        shape = image.shape
        if len(shape) < 2 or math.prod(shape) * image.get_data_dtype().itemsize > MOST_FILE_BYTES:
            raise Unreadable(f"the mask has the shape {shape}")
        check_size(shape[1], shape[0])
        return np.asarray(image.dataobj[(slice(None), slice(None), *(n // 2 for n in shape[2:]))]).T


_READERS: dict[str, Callable[[Path], NDArray[Any]]] = {
    "image/png": _pillow,
    "image/tiff": _tiff,
    "application/x-npy": _npy,
    "image/nifti": _nifti,
}
