"""Image files of any of the known formats, told by their content, as float32 pixels that a model can take.

pydicom, nibabel, tifffile and Pillow are used directly: MONAI's readers wrap the same libraries, and importing MONAI
costs six seconds. Every reader gives 0..255: 8-bit pixels as they are, deeper ones through the DICOM window where there
is one, else stretched between their own 0.5 and 99.5 percentiles, as a viewer would show them. A volume or a
multi-frame file gives as many of its slices as a base reads, evenly spaced: its middle one where that is one. Only
these are read, where the file lets them be found, and all of them are stretched alike.
"""

from __future__ import annotations

import gzip
import logging
import math
import re
import zlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from agent.errors import HomeostatError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Pixels = NDArray[np.generic]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy", ".dcm", ".dicom", ".nii", ".nii.gz")
SIDE = (4, 16_384)  # fewest and most pixels along a side
MOST_PIXELS = 2**25  # of one slice: 400 MB as float32 in colour
MOST_OF_VOLUME = 2**27  # of all slices that are read of a file: 512 MB as float32
MOST_FILE_BYTES = 2**31
STRETCH = (0.5, 99.5)
LONGEST_KIND = 40  # letters of what a header says of its pixels


class Unreadable(HomeostatError):
    """The file can't be made an image. The sentence says why, and never names the file: its name may be a patient's."""


def media_type(path: Path) -> str:
    """By content, never by name; "" for what is none of the known formats. Raises OSError."""
    with path.open("rb") as file:
        head = file.read(352)
        if head[:2] == b"\x1f\x8b":
            file.seek(0)
            try:
                head = gzip.GzipFile(fileobj=file).read(352)
            except (OSError, EOFError, zlib.error):
                return ""
            return "image/nifti" if head[344:348] in (b"n+1\0", b"n+2\0") or head[4:8] == b"n+2\0" else ""
    return next((kind for kind, looks_so in _LOOKS.items() if looks_so(head)), "")


_LOOKS: dict[str, Callable[[bytes], bool]] = {
    "application/dicom": lambda head: (
        head[128:132] == b"DICM" or _bare_dicom(head)
    ),  # first: its preamble may be a TIFF's
    "image/png": lambda head: head.startswith(b"\x89PNG\r\n\x1a\n"),
    "image/jpeg": lambda head: head.startswith(b"\xff\xd8\xff"),
    "image/tiff": lambda head: head[:4] in (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+"),
    "application/x-npy": lambda head: head.startswith(b"\x93NUMPY"),
    "image/nifti": lambda head: head[344:348] == b"n+1\0" or head[4:8] == b"n+2\0",
}


def _bare_dicom(head: bytes) -> bool:
    """A data set without the 128-byte preamble: it starts with an element of group 2 or 8."""
    if len(head) < 16 or head[:2] not in (b"\x02\0", b"\x08\0"):
        return False
    return (head[4:6].isalpha() and head[4:6].isupper()) or int.from_bytes(head[4:8], "little") < 256


def read_image(path: Path, kind: str | None = None, slices: int = 1) -> NDArray[np.float32]:
    """float32 [h, w] or [h, w, 3], 0..255; of several slices [slices, h, w] or [slices, h, w, 3].

    `kind` is a media type as `media_type` gives it. A file with fewer slices gives some of them more than once. Sizes
    are checked before pixels are decoded. Raises Unreadable, with one sentence, whatever is wrong with the file.
    """
    import numpy as np

    try:
        kind = media_type(path) if kind is None else kind
        size = path.stat().st_size
        if size == 0:
            raise Unreadable("the file is empty")
        if kind not in _READERS:
            raise Unreadable("the file is none of DICOM, NIfTI, PNG, JPEG, TIFF, NPY")
        if size > MOST_FILE_BYTES:
            raise Unreadable(f"the file has {size:,} bytes, and more than {MOST_FILE_BYTES:,} are not taken")
        image = _READERS[kind](path, slices)
    except (HomeostatError, ImportError):  # a library that is not there is no fault of the file
        raise
    except (FileNotFoundError, PermissionError, IsADirectoryError) as error:
        raise Unreadable(f"the file can't be opened ({error.strerror})") from None
    except MemoryError:
        raise Unreadable("the image does not fit in memory") from None
    except Exception as error:  # decoders raise what they like; whatever it is, the file is not an image to us
        raise Unreadable(f"the file can't be decoded as {kind or 'an image'} ({short(error)})") from error
    shape = image.shape[1:]
    if len(shape) not in (2, 3) or (len(shape) == 3 and shape[2] != 3):
        raise Unreadable(f"the pixels have the shape {shape}, and one grey or three colour channels are needed")
    check_size(*shape[:2])
    pixels: NDArray[np.float32] = image.astype(np.float32, copy=False)
    if not np.isfinite(pixels).all():
        raise Unreadable("the image has NaN or infinite pixels")
    return pixels if slices > 1 else pixels[0]


def sides(shape: Sequence[int]) -> tuple[int, int]:
    """(height, width) of an image as `read_image` gives it, whose slices are all alike, by its shape."""
    height, width = shape[-3:-1] if shape[-1] == 3 else shape[-2:]
    return height, width


def middle(image: NDArray[np.float32]) -> NDArray[np.float32]:
    """[h, w] or [h, w, 3] as it is; of several slices the middle one."""
    flat = image.ndim == 2 or (image.ndim == 3 and image.shape[2] == 3)
    return image if flat else image[len(image) // 2]


def depth_of(path: Path, kind: str) -> int:
    """How many slices a file has, by its header; 1 where it is an image. Raises what its reader raises."""
    return _DEPTHS[kind](path) if kind in _DEPTHS else 1


def evenly(depth: int, slices: int) -> list[int]:
    """The slices of `depth` that are read: the middle ones of so many equal parts, of one part the middle slice."""
    return [(2 * part + 1) * depth // (2 * slices) for part in range(slices)]


def stack(depth: int, slices: int, one: Callable[[int], Pixels]) -> Pixels:
    """[slices, ...] of what `one` reads at a slice; each is read once, in the order of the file."""
    import numpy as np

    wanted = evenly(depth, slices)
    found: dict[int, Pixels] = {}
    for place in dict.fromkeys(wanted):
        found[place] = array = one(place)
        if slices > 1 and slices * array.size > MOST_OF_VOLUME:
            raise Unreadable(f"{slices} slices of {array.size:,} values are more than {MOST_OF_VOLUME:,}: too many")
    if len({array.shape for array in found.values()}) > 1:
        raise Unreadable("the slices are of different sizes")
    return np.stack([found[place] for place in wanted])


def pixels_of(path: Path, kind: str) -> str:
    """Depth and kind of the pixels as the file stores them, by its header: "16 bit, MONOCHROME2", "mode L", "float32".

    What `read_image` makes of them looks the same for all. For a file that could be read; "" where its header doesn't
    say.
    """
    try:
        return _PIXELS[kind](path)[:LONGEST_KIND]
    except Exception:  # as for `read_image`; what a header says is no reason to refuse a file
        return ""


def check_size(height: int, width: int) -> None:
    """Raises Unreadable where an image is too small to show anything, or too large to be decoded safely."""
    if min(height, width) < SIDE[0]:
        raise Unreadable(f"the image has {height} x {width} pixels, and a side needs at least {SIDE[0]}")
    if max(height, width) > SIDE[1] or height * width > MOST_PIXELS:
        raise Unreadable(
            f"the image has {height} x {width} pixels: at most {SIDE[1]:,} on a side and {MOST_PIXELS:,} in all can be"
        )


def short(error: Exception) -> str:
    """What a library said, without what it quotes: that may be a value of the patient's header."""
    said = re.sub(r"'[^']*'|\"[^\"]*\"", "...", " ".join(str(error).split()))
    return f"{type(error).__name__}: {said[:200]}" if said else type(error).__name__


def stretched(image: Pixels) -> Pixels:
    """8-bit pixels as they are; deeper ones from their own percentiles to 0..255."""
    import numpy as np

    if image.dtype == np.uint8:
        return image
    if image.dtype == bool:
        return image.astype(np.uint8) * 255
    if image.dtype.kind not in "iuf":
        raise Unreadable(f"the pixels are of the type {image.dtype}, and numbers are needed")
    values = image.astype(np.float32)
    if not np.isfinite(values).all():
        raise Unreadable("the image has NaN or infinite pixels")
    low, high = np.percentile(values, STRETCH)
    if high <= low:
        low, high = values.min(), values.max()
    return np.clip((values - low) / max(high - low, np.finfo(np.float32).tiny), 0, 1) * 255


# PNG and JPEG -------------------------------------------------------------------------------------------------------


def _read_png(path: Path, slices: int) -> Pixels:
    from PIL.PngImagePlugin import PngImageFile

    return stack(1, slices, lambda _: stretched(_read_pillow(PngImageFile, path)))


def _read_jpeg(path: Path, slices: int) -> Pixels:
    from PIL.JpegImagePlugin import JpegImageFile

    return stack(1, slices, lambda _: stretched(_read_pillow(JpegImageFile, path)))


def _pixels_of_png(path: Path) -> str:
    from PIL.PngImagePlugin import PngImageFile

    with PngImageFile(path) as image:
        return f"mode {image.mode}"


def _pixels_of_jpeg(path: Path) -> str:
    from PIL.JpegImagePlugin import JpegImageFile

    with JpegImageFile(path) as image:
        return f"mode {image.mode}"


def _read_pillow(opener: Callable[[Any], Any], path: Path, page: int = 0) -> Pixels:
    """Opens with the one plugin that the content asks for; Pillow would try all of them."""
    import numpy as np

    with path.open("rb") as file, opener(file) as image:
        if page:
            image.seek(page)
        check_size(image.height, image.width)
        if image.mode.startswith("I") or image.mode == "F":
            return np.array(image)
        return np.array(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))


# TIFF ---------------------------------------------------------------------------------------------------------------


def _pixels_of_tiff(path: Path) -> str:
    from tifffile import TiffFile

    with TiffFile(path) as tiff:
        page = tiff.pages[len(tiff.pages) // 2].aspage()
        return f"{page.bitspersample} bit, {getattr(page.photometric, 'name', page.photometric)}"


def _depth_of_tiff(path: Path) -> int:
    from tifffile import TiffFile

    with TiffFile(path) as tiff:
        return len(tiff.pages)


def _read_tiff(path: Path, slices: int) -> Pixels:
    """tifffile for bare samples of any depth; Pillow for compressed ones, since it inflates no more than the size."""
    from tifffile import COMPRESSION, TiffFile

    logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what is wrong is said once, by Unreadable
    with TiffFile(path) as tiff:

        def one(place: int) -> Pixels:
            page = tiff.pages[place].aspage()
            check_size(page.imagelength, page.imagewidth)
            if page.compression != COMPRESSION.NONE:
                from PIL.TiffImagePlugin import TiffImageFile

                return _read_pillow(TiffImageFile, path, place)
            image = page.asarray()
            if page.colormap is not None:
                return stretched(page.colormap[:, image].transpose(1, 2, 0) >> 8).astype("uint8")
            image = image if page.axes.endswith("S") or image.ndim == 2 else image.transpose(1, 2, 0)
            if image.ndim == 3:
                image = image[..., :3] if image.shape[2] >= 3 else image[..., 0]
            return image

        images = stretched(stack(len(tiff.pages), slices, one))
        page = tiff.pages[len(tiff.pages) // 2].aspage()
        bare = page.compression == COMPRESSION.NONE and page.colormap is None
        return 255 - images if bare and page.photometric == 0 else images


# NPY ----------------------------------------------------------------------------------------------------------------


def _pixels_of_npy(path: Path) -> str:
    import numpy as np

    array = np.load(path, mmap_mode="r", allow_pickle=False)
    return f"{array.dtype}{', colour' if array.ndim == 3 and array.shape[2] in (3, 4) else ''}"


def _depth_of_npy(path: Path) -> int:
    import numpy as np

    shape = np.load(path, mmap_mode="r", allow_pickle=False).shape
    return shape[0] if len(shape) == 3 and shape[2] not in (1, 3, 4) else 1


def _read_npy(path: Path, slices: int) -> Pixels:
    """[h, w], [h, w, 1], [h, w, 3 or 4] or a volume [d, h, w]; mapped, so that only what is used is read."""
    import numpy as np

    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim == 3 and array.shape[2] in (1, 3, 4):
        array = array[..., 0] if array.shape[2] == 1 else array[..., :3]
        array = array[None]
    elif array.ndim != 3:
        array = array[None]
    if array.ndim not in (3, 4):
        raise Unreadable(f"the array has the shape {array.shape[1:]}, and an image or a volume is needed")
    check_size(*array.shape[1:3])
    return stretched(stack(len(array), slices, lambda place: np.array(array[place])))


# NIfTI --------------------------------------------------------------------------------------------------------------


@contextmanager
def open_nifti(path: Path) -> Iterator[Any]:
    """The volume with its pixels still in the file, whose name tells nothing."""
    from nibabel import Nifti1Image, Nifti2Image

    with path.open("rb") as raw:
        file: Any = gzip.GzipFile(fileobj=raw) if raw.read(2) == b"\x1f\x8b" else raw
        raw.seek(0)
        second = file.read(8)[4:8] == b"n+2\0"
        file.seek(0)
        yield (Nifti2Image if second else Nifti1Image).from_stream(file)


def slices_of_nifti(image: Any, slices: int) -> Pixels:
    """[slices, h, w] along the third axis (in the middle of every further one), rows along y."""
    import numpy as np

    depth, *more = image.shape[2:] or (1,)

    def one(place: int) -> Pixels:
        where = (place, *(n // 2 for n in more))[: len(image.shape) - 2]
        return np.asarray(image.dataobj[(slice(None), slice(None), *where)]).T

    return stack(depth, slices, one)


def _pixels_of_nifti(path: Path) -> str:
    with open_nifti(path) as image:
        return str(image.get_data_dtype())


def _depth_of_nifti(path: Path) -> int:
    with open_nifti(path) as image:
        return image.shape[2] if len(image.shape) > 2 else 1


def _read_nifti(path: Path, slices: int) -> Pixels:
    with open_nifti(path) as image:
        shape = image.shape
        if len(shape) < 2 or 0 in shape:
            raise Unreadable(f"the volume has the shape {shape}")
        check_size(shape[1], shape[0])
        if math.prod(shape) * image.get_data_dtype().itemsize > MOST_FILE_BYTES:
            raise Unreadable(f"the volume has the shape {shape}, and more than {MOST_FILE_BYTES:,} bytes are not taken")
        return stretched(slices_of_nifti(image, slices))


def _read_dicom(path: Path, slices: int) -> Pixels:
    from agent.cases.dicom import read_dicom

    return read_dicom(path, slices)


def _pixels_of_dicom(path: Path) -> str:
    from agent.cases.dicom import pixels_of_dicom

    return pixels_of_dicom(path)


def _depth_of_dicom(path: Path) -> int:
    from agent.cases.dicom import frames_of_dicom

    return frames_of_dicom(path)


_READERS: dict[str, Callable[[Path, int], Pixels]] = {
    "image/png": _read_png,
    "image/jpeg": _read_jpeg,
    "image/tiff": _read_tiff,
    "application/x-npy": _read_npy,
    "image/nifti": _read_nifti,
    "application/dicom": _read_dicom,
}

_PIXELS: dict[str, Callable[[Path], str]] = {
    "image/png": _pixels_of_png,
    "image/jpeg": _pixels_of_jpeg,
    "image/tiff": _pixels_of_tiff,
    "application/x-npy": _pixels_of_npy,
    "image/nifti": _pixels_of_nifti,
    "application/dicom": _pixels_of_dicom,
}

_DEPTHS: dict[str, Callable[[Path], int]] = {
    "image/tiff": _depth_of_tiff,
    "application/x-npy": _depth_of_npy,
    "image/nifti": _depth_of_nifti,
    "application/dicom": _depth_of_dicom,
}
