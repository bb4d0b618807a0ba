"""Label maps: which class every pixel of an image is of, as a person drew it. Values are kept as they are.

Read by the formats of `images`, DICOM aside, whose segmentations are no label maps of one image. The mask of a volume
is a volume, and gives the slices that are read of its image.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.cases.images import (
    MOST_FILE_BYTES,
    Unreadable,
    check_size,
    depth_of,
    media_type,
    open_nifti,
    short,
    sides,
    slices_of_nifti,
    stack,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Map = NDArray[np.uint8]

MOST_CLASSES = 256


def read_mask(path: Path, kind: str | None = None, slices: int = 1) -> Map:
    """uint8 [h, w], 0 for background; of several slices [slices, h, w], those that `read_image` reads.

    Raises Unreadable, with one sentence that never names the file.
    """
    import numpy as np

    try:
        kind = media_type(path) if kind is None else kind
        if kind not in _READERS:
            raise Unreadable("the mask is none of PNG, TIFF, NPY, NIfTI: a label map keeps one number per pixel")
        if path.stat().st_size > MOST_FILE_BYTES:
            raise Unreadable(f"the mask has more than {MOST_FILE_BYTES:,} bytes")
        values = np.asarray(_READERS[kind](path, slices))
    except (Unreadable, ImportError):
        raise
    except OSError as error:
        raise Unreadable(f"the mask can't be opened ({error.strerror or short(error)})") from None
    except MemoryError:
        raise Unreadable("the mask does not fit in memory") from None
    except Exception as error:  # as for `read_image`: decoders raise what they like
        raise Unreadable(f"the mask can't be decoded as {kind} ({short(error)})") from error
    maps = _as_maps(values)
    return maps if slices > 1 else maps[0]


def against(mask: Map, shape: Sequence[int], classes: Sequence[str]) -> None:
    """Raises Unreadable where the mask is not of an image of this shape, as `read_image` gives it, or has another class
    than these, background among them."""
    if sides(mask.shape) != sides(shape):
        (height, width), (rows, columns) = sides(mask.shape), sides(shape)
        raise Unreadable(f"the mask has {height} x {width} pixels and its image {rows} x {columns}")
    if mask.max(initial=0) >= len(classes):
        raise Unreadable(f"the mask has the class {mask.max()}, and the model knows 0 to {len(classes) - 1}")


def check_depth(mask: Path, mask_kind: str, image: Path, image_kind: str, slices: int = 1) -> None:
    """Raises Unreadable where a mask has another number of slices than its image, so that no slice of it can be told
    to be of one of the image. Of a single one that is read, the mask may be the only one there is."""
    if mask_kind not in _READERS:
        return
    there, wanted = depth_of(mask, mask_kind), depth_of(image, image_kind)
    if there != wanted and not (there == slices == 1):
        raise Unreadable(f"the mask has {_slices(there)} and its image {_slices(wanted)}")


def read_beside(mask: Path, image: Path, slices: int = 1) -> Map:
    """`read_mask` of a mask that is as deep as its image. Raises Unreadable, and OSError for the image."""
    try:
        kind = media_type(mask)
        check_depth(mask, kind, image, media_type(image), slices)
    except Unreadable:
        raise
    except Exception:  # what no header can be read of is told in its own words, by who reads all of it
        kind = None
    return read_mask(mask, kind, slices)


def _slices(number: int) -> str:
    return f"{number} slice" if number == 1 else f"{number} slices"


def to_side(mask: Map, side: int) -> Map:
    """[h, w] -> [side, side] by the nearest pixel, as the masks of a training are brought to the model's size.

    Of several slices [slices, h, w] -> [slices * side, side], one below the other.
    """
    import numpy as np

    if mask.ndim == 3:
        return np.concatenate([to_side(one, side) for one in mask])
    places = np.arange(side, dtype=np.float32) + np.float32(0.5)  # in single precision, as torch does
    rows, columns = (np.minimum((places * np.float32(n / side)).astype(int), n - 1) for n in mask.shape)
    return mask[np.ix_(rows, columns)]


def _as_maps(values: NDArray[Any]) -> Map:
    """[n, h, w]. Colours are taken where all three are the same; numbers where they are whole, and 0 to 255."""
    import numpy as np

    if values.ndim == 4 and values.shape[3] in (3, 4) and (values[..., :3] == values[..., :1]).all():
        values = values[..., 0]
    if values.ndim != 3:
        raise Unreadable(f"the mask has the shape {values.shape[1:]}, and one class per pixel is needed")
    check_size(*values.shape[1:])
    if values.dtype == bool:
        return values.astype(np.uint8)
    if values.dtype.kind not in "iuf" or not np.isfinite(values).all():
        raise Unreadable("the mask holds something else than numbers")
    if values.min() < 0 or values.max() >= MOST_CLASSES or (values != np.round(values)).any():
        raise Unreadable("the mask holds values that are no classes: whole numbers from 0 to 255 are needed")
    return values.astype(np.uint8)


def _pillow(opener: Callable[[Any], Any], path: Path, page: int = 0) -> NDArray[Any]:
    """Of a palette the indices, not the colours."""
    import numpy as np

    with path.open("rb") as file, opener(file) as image:
        if page:
            image.seek(page)
        check_size(image.height, image.width)
        return np.array(image)


def _png(path: Path, slices: int) -> NDArray[Any]:
    from PIL.PngImagePlugin import PngImageFile

    return stack(1, slices, lambda _: _pillow(PngImageFile, path))


def _tiff(path: Path, slices: int) -> NDArray[Any]:
    from tifffile import COMPRESSION, TiffFile

    with TiffFile(path) as tiff:

        def one(place: int) -> NDArray[Any]:
            page = tiff.pages[place].aspage()
            check_size(page.imagelength, page.imagewidth)
            if page.compression != COMPRESSION.NONE:  # as for images
                from PIL.TiffImagePlugin import TiffImageFile

                return _pillow(TiffImageFile, path, place)
            return page.asarray()

        return stack(len(tiff.pages), slices, one)


def _npy(path: Path, slices: int) -> NDArray[Any]:
    """[h, w] or a volume [d, h, w], as its image is read."""
    import numpy as np

    array = np.load(path, mmap_mode="r", allow_pickle=False)
    volume = array if array.ndim == 3 and array.shape[2] > 4 else array.squeeze()[None]
    return stack(len(volume), slices, lambda place: np.array(volume[place]))


def _nifti(path: Path, slices: int) -> NDArray[Any]:
    with open_nifti(path) as image:
        shape = image.shape
        if len(shape) < 2 or math.prod(shape) * image.get_data_dtype().itemsize > MOST_FILE_BYTES:
            raise Unreadable(f"the mask has the shape {shape}")
        check_size(shape[1], shape[0])
        return slices_of_nifti(image, slices)


_READERS: dict[str, Callable[[Path, int], NDArray[Any]]] = {
    "image/png": _png,
    "image/tiff": _tiff,
    "application/x-npy": _npy,
    "image/nifti": _nifti,
}
