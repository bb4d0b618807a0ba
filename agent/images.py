"""Image files of any of the known formats, told by their content, as float32 pixels that a model can take.

pydicom, nibabel, tifffile and Pillow are used directly: MONAI's readers wrap the same libraries, and importing MONAI
costs six seconds. Every reader gives 0..255: 8-bit pixels as they are, deeper ones through the DICOM window where there
is one, else stretched between their own 0.5 and 99.5 percentiles, as a viewer would show them. A volume or a
multi-frame file gives its middle slice, because the models of this part are two-dimensional.
"""

from __future__ import annotations

import gzip
import logging
import math
import re
import struct
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from agent.errors import HomeostatError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from pydicom import Dataset
    from pydicom.uid import UID

    Pixels = NDArray[np.generic]

IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".tif", ".tiff", ".npy", ".dcm", ".dicom", ".nii", ".nii.gz")
SIDE = (4, 16_384)  # fewest and most pixels along a side
MOST_PIXELS = 2**25  # of one slice: 400 MB as float32 in colour
MOST_FILE_BYTES = 2**31
MOST_INFLATED_BYTES = 2**29
STRETCH = (0.5, 99.5)
PIXEL_DATA_HEAD = 12  # bytes: tag, value representation, length

# Where several decoders are installed they don't agree on broken files; one is chosen per transfer syntax.
DECODER = {
    "1.2.840.10008.1.2.4.50": "pylibjpeg",
    "1.2.840.10008.1.2.4.51": "pylibjpeg",
    "1.2.840.10008.1.2.4.57": "pylibjpeg",
    "1.2.840.10008.1.2.4.70": "pylibjpeg",
    "1.2.840.10008.1.2.4.80": "pyjpegls",
    "1.2.840.10008.1.2.4.81": "pyjpegls",
    "1.2.840.10008.1.2.4.90": "pylibjpeg",
    "1.2.840.10008.1.2.4.91": "pylibjpeg",
    "1.2.840.10008.1.2.4.201": "pylibjpeg",
    "1.2.840.10008.1.2.4.202": "pylibjpeg",
    "1.2.840.10008.1.2.4.203": "pylibjpeg",
    "1.2.840.10008.1.2.5": "pydicom",
}


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


def read_image(path: Path, kind: str | None = None) -> NDArray[np.float32]:
    """float32 [h, w] or [h, w, 3], 0..255. `kind` is a media type as `media_type` gives it.

    Sizes are checked before pixels are decoded. Raises Unreadable, with one sentence, whatever is wrong with the file.
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
        image = _READERS[kind](path)
    except HomeostatError:
        raise
    except MemoryError:
        raise Unreadable("the image does not fit in memory") from None
    except Exception as error:  # decoders raise what they like; whatever it is, the file is not an image to us
        raise Unreadable(f"the file can't be decoded as {kind or 'an image'} ({_short(error)})") from error
    if image.ndim not in (2, 3) or (image.ndim == 3 and image.shape[2] != 3):
        raise Unreadable(f"the pixels have the shape {image.shape}, and one grey or three colour channels are needed")
    check_size(*image.shape[:2])
    pixels: NDArray[np.float32] = image.astype(np.float32, copy=False)
    if not np.isfinite(pixels).all():
        raise Unreadable("the image has NaN or infinite pixels")
    return pixels


def check_size(height: int, width: int) -> None:
    """Raises Unreadable where an image is too small to show anything, or too large to be decoded safely."""
    if min(height, width) < SIDE[0]:
        raise Unreadable(f"the image has {height} x {width} pixels, and a side needs at least {SIDE[0]}")
    if max(height, width) > SIDE[1] or height * width > MOST_PIXELS:
        raise Unreadable(
            f"the image has {height} x {width} pixels: at most {SIDE[1]:,} on a side and {MOST_PIXELS:,} in all can be"
        )


def _short(error: Exception) -> str:
    """What a library said, without what it quotes: that may be a value of the patient's header."""
    said = re.sub(r"'[^']*'|\"[^\"]*\"", "...", " ".join(str(error).split()))
    return f"{type(error).__name__}: {said[:200]}" if said else type(error).__name__


def _stretched(image: Pixels) -> Pixels:
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


def _read_png(path: Path) -> Pixels:
    from PIL.PngImagePlugin import PngImageFile

    return _read_pillow(PngImageFile, path)


def _read_jpeg(path: Path) -> Pixels:
    from PIL.JpegImagePlugin import JpegImageFile

    return _read_pillow(JpegImageFile, path)


def _read_pillow(opener: Callable[[Any], Any], path: Path) -> Pixels:
    """Opens with the one plugin that the content asks for; Pillow would try all of them."""
    import numpy as np

    with path.open("rb") as file, opener(file) as image:
        check_size(image.height, image.width)
        if image.mode.startswith("I") or image.mode == "F":
            return _stretched(np.array(image))
        return np.array(image.convert("L" if image.mode in ("1", "L", "LA") else "RGB"))


# TIFF ---------------------------------------------------------------------------------------------------------------


def _read_tiff(path: Path) -> Pixels:
    """tifffile for bare samples of any depth; Pillow for compressed ones, since it inflates no more than the size."""
    from tifffile import COMPRESSION, TiffFile

    logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what is wrong is said once, by Unreadable
    with TiffFile(path) as tiff:
        page = tiff.pages[len(tiff.pages) // 2].aspage()
        check_size(page.imagelength, page.imagewidth)
        if page.compression != COMPRESSION.NONE:
            from PIL.TiffImagePlugin import TiffImageFile

            return _read_pillow(TiffImageFile, path)
        image = page.asarray()
        if page.colormap is not None:
            return _stretched(page.colormap[:, image].transpose(1, 2, 0) >> 8).astype("uint8")
        image = image if page.axes.endswith("S") or image.ndim == 2 else image.transpose(1, 2, 0)
        if image.ndim == 3:
            image = image[..., :3] if image.shape[2] >= 3 else image[..., 0]
        image = _stretched(image)
        return 255 - image if page.photometric == 0 else image


# NPY ----------------------------------------------------------------------------------------------------------------


def _read_npy(path: Path) -> Pixels:
    """[h, w], [h, w, 1], [h, w, 3 or 4] or a volume [d, h, w]; mapped, so that only what is used is read."""
    import numpy as np

    array = np.load(path, mmap_mode="r", allow_pickle=False)
    if array.ndim == 3 and array.shape[2] in (1, 3, 4):
        array = array[..., 0] if array.shape[2] == 1 else array[..., :3]
    elif array.ndim == 3:
        array = array[array.shape[0] // 2]
    if array.ndim not in (2, 3):
        raise Unreadable(f"the array has the shape {array.shape}, and an image or a volume is needed")
    check_size(*array.shape[:2])
    return _stretched(np.array(array))


# NIfTI --------------------------------------------------------------------------------------------------------------


def _read_nifti(path: Path) -> Pixels:
    """The middle slice along the third axis (and of every further one), rows along y."""
    import numpy as np
    from nibabel import Nifti1Image, Nifti2Image

    with path.open("rb") as raw:
        file: Any = gzip.GzipFile(fileobj=raw) if raw.read(2) == b"\x1f\x8b" else raw
        raw.seek(0)
        second = file.read(8)[4:8] == b"n+2\0"
        file.seek(0)
        image = (Nifti2Image if second else Nifti1Image).from_stream(file)
        shape = image.shape
        if len(shape) < 2 or 0 in shape:
            raise Unreadable(f"the volume has the shape {shape}")
        check_size(shape[1], shape[0])
        if math.prod(shape) * image.get_data_dtype().itemsize > MOST_FILE_BYTES:
            raise Unreadable(f"the volume has the shape {shape}, and more than {MOST_FILE_BYTES:,} bytes are not taken")
        return _stretched(np.asarray(image.dataobj[(slice(None), slice(None), *(n // 2 for n in shape[2:]))]).T)


# DICOM --------------------------------------------------------------------------------------------------------------

_FACT_TAGS = [
    "InstitutionName", "Manufacturer", "ManufacturerModelName", "PatientID", "PatientSex", "PatientAge",
    "StudyInstanceUID", "AcquisitionDateTime", "AcquisitionDate", "AcquisitionTime", "ContentDate", "ContentTime",
    "SeriesDate", "SeriesTime", "StudyDate", "StudyTime", "TimezoneOffsetFromUTC",
]  # fmt: skip


def dicom_facts(path: Path) -> dict[str, str]:
    """site, scanner, acquired_at, sex, age (years), patient_id and study, as far as the header has them.

    An allow-list: no other tag leaves the file. A patient id such as "ANONYMOUS" is none, since it is everybody's.
    Gives {} for what pydicom can't parse; whether it is an image is for `read_image` to say.
    """
    try:
        header = _header(path, _FACT_TAGS)
        facts = {
            "site": _text(header, "InstitutionName"),
            "scanner": " ".join(filter(None, (_text(header, "Manufacturer"), _text(header, "ManufacturerModelName")))),
            "acquired_at": _acquired_at(header),
            "sex": _text(header, "PatientSex"),
            "age": _years(_text(header, "PatientAge")),
            "patient_id": _text(header, "PatientID"),
            "study": _text(header, "StudyInstanceUID"),
        }
    except Exception:  # a header that can't be parsed has no facts; pydicom raises many kinds
        return {}
    if facts["patient_id"].lower().startswith(("anon", "deid", "de-id", "unknown", "none")):
        facts["patient_id"] = ""
    return {name: value for name, value in facts.items() if value}


def _text(header: Dataset, name: str) -> str:
    value = header.get(name)
    return "" if value is None else " ".join(str(value).replace("\0", " ").split())


def _years(age: str) -> str:
    per_year = {"Y": 1, "M": 12, "W": 52, "D": 365}
    if age[-1:] in per_year and age[:-1].isdigit():
        return str(int(age[:-1]) // per_year[age[-1]])
    return age.lstrip("0") if age.isdigit() else ""


def _acquired_at(header: Dataset) -> str:
    """The first moment that the header tells: acquisition, content, series, study. Without an offset it is UTC."""
    from datetime import UTC

    from pydicom.valuerep import DT

    from agent.clock import parse_time, rfc3339

    zone = _text(header, "TimezoneOffsetFromUTC")
    moments = [_text(header, "AcquisitionDateTime")]
    for kind in ("Acquisition", "Content", "Series", "Study"):
        if day := _text(header, f"{kind}Date").replace(".", ""):
            moments.append(day + _text(header, f"{kind}Time").replace(":", "") + zone)
    for moment in filter(None, moments):
        try:
            at = DT(moment)
            return rfc3339(parse_time((at if at.tzinfo else at.replace(tzinfo=UTC)).isoformat()))
        except (ValueError, AttributeError, OverflowError):
            continue
    return ""


def _read_dicom(path: Path) -> Pixels:
    """One frame, decoded by the plugin of its transfer syntax; rescaled, windowed, and bright where it should be."""
    from pydicom import dcmread
    from pydicom.pixels import apply_color_lut, pixel_array

    header = _header(path)
    if "Rows" not in header or "Columns" not in header:
        raise Unreadable("the DICOM file holds no image")
    check_size(int(header.Rows), int(header.Columns))
    syntax = _transfer_syntax(header)
    frame = int(header.get("NumberOfFrames") or 1) // 2
    if syntax.is_encapsulated:
        _check_codestream(path, header, frame)
    plugin = DECODER.get(syntax, "")
    if syntax.is_deflated:
        pixels = pixel_array(dcmread(path, force=True), index=frame, decoding_plugin=plugin)
    else:
        pixels = pixel_array(path, index=frame, decoding_plugin=plugin, transfer_syntax_uid=syntax)
    if header.PhotometricInterpretation == "PALETTE COLOR":
        pixels = apply_color_lut(pixels, header)
    if pixels.ndim == 3:
        return pixels if pixels.dtype == "uint8" else pixels / (2.0 ** (8 * pixels.dtype.itemsize) - 1) * 255
    shown = _windowed(pixels, header, frame)
    return 255 - shown if header.PhotometricInterpretation == "MONOCHROME1" else shown


def _header(path: Path, tags: list[str] | None = None) -> Dataset:
    """Everything before the pixels. pydicom's warnings are muted: they quote what the header says of the patient."""
    from pydicom import config, dcmread
    from pydicom.filereader import read_file_meta_info
    from pydicom.uid import DeflatedExplicitVRLittleEndian

    warnings.filterwarnings("ignore", module="pydicom")
    config.settings.reading_validation_mode = config.IGNORE
    with path.open("rb") as file:
        if file.read(132)[128:] == b"DICM":
            meta = read_file_meta_info(path)
            if meta.get("TransferSyntaxUID") == DeflatedExplicitVRLittleEndian:
                file.seek(132 + 12 + meta.FileMetaInformationGroupLength)
                _check_inflated(file)
    return dcmread(path, stop_before_pixels=True, force=True, specific_tags=tags)


def _check_inflated(file: BinaryIO) -> None:
    """pydicom inflates a deflated data set whole, even for its header: a small file may ask for all of the memory."""
    inflater, size = zlib.decompressobj(-zlib.MAX_WBITS), 0
    while chunk := file.read(2**16):
        size += len(inflater.decompress(chunk))
        if size > MOST_INFLATED_BYTES:
            raise Unreadable(f"the file inflates to more than {MOST_INFLATED_BYTES:,} bytes")


def _check_codestream(path: Path, header: Dataset, frame: int) -> None:
    """A compressed frame states its size itself, and decoders believe it: one flipped bit there costs them minutes."""
    from pydicom import dcmread
    from pydicom.encaps import get_frame

    with path.open("rb") as file:
        dcmread(file, stop_before_pixels=True, force=True, specific_tags=[])
        file.seek(file.tell() + PIXEL_DATA_HEAD)
        stream = get_frame(file, frame, number_of_frames=int(header.get("NumberOfFrames") or 1))
    said = _codestream_size(stream)
    if said not in (None, (header.Rows, header.Columns)):
        raise Unreadable(
            f"the compressed frame is of the size {said}, and its header says {header.Rows, header.Columns}"
        )


def _codestream_size(stream: bytes) -> tuple[int, int] | None:
    """(height, width) by a JPEG or JPEG-LS start of frame, or by JPEG 2000's SIZ segment; None where there is none."""
    if stream[:4] == b"\xff\x4f\xff\x51":
        right, bottom, left, top = struct.unpack_from(">4I", stream, 8)
        return bottom - top, right - left
    at = 2
    while stream[:2] == b"\xff\xd8" and at + 9 <= len(stream) and stream[at] == 0xFF:
        marker, length = stream[at + 1], int.from_bytes(stream[at + 2 : at + 4], "big")
        if marker == 0xF7 or (0xC0 <= marker <= 0xCF and marker not in (0xC4, 0xC8, 0xCC)):
            return struct.unpack_from(">2H", stream, at + 5)
        at += 2 + length
    return None


def _transfer_syntax(header: Dataset) -> UID:
    """As the file says; where it lost its preamble, as pydicom could parse it."""
    from pydicom.uid import UID, ExplicitVRBigEndian, ExplicitVRLittleEndian, ImplicitVRLittleEndian

    if said := header.file_meta.get("TransferSyntaxUID"):
        syntax = UID(said)
        if not syntax.is_private and syntax.type != "Transfer Syntax":
            raise Unreadable(f"there is no decoder for the transfer syntax {syntax}")
        return syntax
    implicit, little = header.original_encoding
    return ImplicitVRLittleEndian if implicit else ExplicitVRLittleEndian if little else ExplicitVRBigEndian


def _windowed(pixels: Pixels, header: Dataset, frame: int) -> Pixels:
    """Grey values to 0..255 (PS3.3 C.11.1 and C.11.2): modality rescale or table, then the first window or table.

    A window that would show the frame as one flat grey is no window.
    """
    import numpy as np
    from pydicom.pixels import apply_modality_lut, apply_voi

    bits = int(header.get("BitsStored") or 8)
    values = apply_modality_lut(pixels, _functional(header, frame, "PixelValueTransformationSequence"))
    voi = _functional(header, frame, "FrameVOILUTSequence")
    if voi.get("VOILUTSequence"):
        return _stretched(apply_voi(values, header).astype(np.float32))
    center, width = _first(voi.get("WindowCenter")), _first(voi.get("WindowWidth"))
    if center is not None and width is not None and width >= 1:
        with np.errstate(over="ignore"):  # an absurd window shows one flat grey
            place = (values - (center - 0.5)) / max(width - 1, 1)
        unit = 1 / (1 + np.exp(-4 * place)) if voi.get("VOILUTFunction") == "SIGMOID" else np.clip(place + 0.5, 0, 1)
        if np.ptp(unit) > 0:
            return unit * 255
    if pixels.dtype == np.uint8 and values is pixels:
        return pixels * (255 // (2**bits - 1)) if bits < 8 else pixels
    return _stretched(values.astype(np.float32))


def _functional(header: Dataset, frame: int, sequence: str) -> Dataset:
    """Where the values of this frame stand: its own functional group, the shared one, or the header itself."""
    for groups, index in (("PerFrameFunctionalGroupsSequence", frame), ("SharedFunctionalGroupsSequence", 0)):
        found = header.get(groups)
        if found and index < len(found) and found[index].get(sequence):
            return found[index][sequence].value[0]
    return header


def _first(value: Any) -> float | None:
    from pydicom.multival import MultiValue

    value = value[0] if isinstance(value, MultiValue) and value else value
    return None if value in (None, "") else float(value)


_READERS: dict[str, Callable[[Path], Pixels]] = {
    "image/png": _read_png,
    "image/jpeg": _read_jpeg,
    "image/tiff": _read_tiff,
    "application/x-npy": _read_npy,
    "image/nifti": _read_nifti,
    "application/dicom": _read_dicom,
}
