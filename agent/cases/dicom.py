"""DICOM: what the header says of a case, and one frame as a viewer would show it.

Headers are read with pydicom by an allow-list of tags, and pixels with the decoder that is chosen here, one frame only.
"""

from __future__ import annotations

import warnings
import zlib
from datetime import UTC
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

from agent.cases.codestream import check_codestream
from agent.cases.images import Unreadable, check_size, evenly, stack, stretched
from agent.clock import parse_time, rfc3339

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from pydicom import Dataset
    from pydicom.uid import UID

    from agent.cases.images import Pixels

MOST_INFLATED_BYTES = 2**29
PIXEL_DATA_HEAD = 12  # bytes: tag, value representation, length

# The plugin that decodes a compressed transfer syntax, by pydicom's keyword; left alone, pydicom tries all that are
# installed in turn. The pixels of gdcm, pyjpegls and pylibjpeg-libjpeg are the same wherever the coding is lossless.
# pylibjpeg-libjpeg is under the GPL and half as fast, pyjpegls spins for half a minute on some damaged streams.
DECODERS = {
    "JPEGBaseline8Bit": "gdcm",
    "JPEGExtended12Bit": "gdcm",  # the one here that reads 12 bits; Pillow, which is faster at 8, does not
    "JPEGLossless": "gdcm",
    "JPEGLosslessSV1": "gdcm",
    "JPEGLSLossless": "gdcm",  # but for 6 and 7 bits, which it gets wrong and pydicom refuses
    "JPEGLSNearLossless": "gdcm",
    "JPEG2000Lossless": "pylibjpeg",  # OpenJPEG, as in gdcm, with less copying
    "JPEG2000": "pylibjpeg",
    "HTJ2KLossless": "pylibjpeg",  # gdcm has no high-throughput JPEG 2000
    "HTJ2KLosslessRPCL": "pylibjpeg",
    "HTJ2K": "pylibjpeg",
    "RLELossless": "pydicom",  # some milliseconds a frame: no package more for that
}

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
    from pydicom.valuerep import DT

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


def read_dicom(path: Path, slices: int = 1) -> Pixels:
    """[slices, ...] frames, decoded by the plugin of their transfer syntax; rescaled, windowed, and bright where they
    should be."""
    import numpy as np
    from pydicom import dcmread
    from pydicom.pixels import apply_color_lut, pixel_array

    header = _header(path)
    if "Rows" not in header or "Columns" not in header:
        raise Unreadable("the DICOM file holds no image")
    check_size(int(header.Rows), int(header.Columns))
    syntax = _transfer_syntax(header)
    shown: dict[int, bool] = {}  # of the frames, whether a window says what is seen of them

    def one(frame: int) -> Pixels:
        if syntax.is_encapsulated:
            pixels = _decompressed(path, header, frame, syntax)
        elif syntax.is_deflated:
            pixels = pixel_array(dcmread(path, force=True), index=frame)
        else:
            pixels = pixel_array(path, index=frame, transfer_syntax_uid=syntax)
        if header.PhotometricInterpretation == "PALETTE COLOR":
            pixels = apply_color_lut(pixels, header)
        if pixels.ndim == 3:
            return pixels if pixels.dtype == "uint8" else pixels / (2.0 ** (8 * pixels.dtype.itemsize) - 1) * 255
        seen, values = _windowed(pixels, header, frame)
        shown[frame] = seen is not None
        return values if seen is None else seen

    wanted = evenly(_frames(header), slices)
    frames = stack(_frames(header), slices, one)
    if shown and not any(shown.values()):
        frames = stretched(frames)
    elif not all(shown.values()):
        frames = np.stack([image if shown[i] else stretched(image) for i, image in zip(wanted, frames, strict=True)])
    return 255 - frames if shown and header.PhotometricInterpretation == "MONOCHROME1" else frames


def frames_of_dicom(path: Path) -> int:
    """How many frames there are, by the header."""
    return _frames(_header(path, ["NumberOfFrames"]))


def _frames(header: Dataset) -> int:
    return int(header.get("NumberOfFrames") or 1)


def pixels_of_dicom(path: Path) -> str:
    """ "12 bit, MONOCHROME2": the bits stored of each sample, and the photometric interpretation."""
    header = _header(path, ["BitsStored", "PhotometricInterpretation"])
    return f"{_text(header, 'BitsStored')} bit, {_text(header, 'PhotometricInterpretation')}"


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


def _decompressed(path: Path, header: Dataset, frame: int, syntax: UID) -> NDArray[Any]:
    from pydicom.pixels import get_decoder, pixel_array
    from pydicom.uid import JPEGBaseline8Bit, JPEGExtended12Bit

    if syntax.keyword not in DECODERS:
        raise Unreadable(f"there is no decoder for the transfer syntax {syntax}")
    plugin = DECODERS[syntax.keyword]
    if plugin not in get_decoder(syntax).available_plugins:
        raise ImportError(f"the decoder {plugin} is missing or broken: 'homeostat doctor' says what to install")
    check_codestream(_compressed_frame(path, header, frame), header)
    # pydicom refuses to ask gdcm for 12 bits, which it decodes; the stream itself tells gdcm which of the two it is.
    asked = JPEGBaseline8Bit if syntax == JPEGExtended12Bit else syntax
    try:
        return pixel_array(path, index=frame, decoding_plugin=plugin, transfer_syntax_uid=asked)
    except RuntimeError as error:  # pydicom's wrapping of whatever the decoder raised, down to a missing attribute
        raise Unreadable(f"the compressed frame is damaged, or coded in a way that {plugin} does not read") from error


def _compressed_frame(path: Path, header: Dataset, frame: int) -> bytes:
    from pydicom import dcmread
    from pydicom.encaps import get_frame

    with path.open("rb") as file:
        dcmread(file, stop_before_pixels=True, force=True, specific_tags=[])
        file.seek(file.tell() + PIXEL_DATA_HEAD)
        return get_frame(file, frame, number_of_frames=_frames(header))


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


def _windowed(pixels: Pixels, header: Dataset, frame: int) -> tuple[Pixels | None, Pixels]:
    """(grey values in 0..255, None where no window says which these are; the values by which they are to be stretched):
    PS3.3 C.11.1 and C.11.2, modality rescale or table, then the first window or table.

    A window that would show the frame as one flat grey is no window.
    """
    import numpy as np
    from pydicom.pixels import apply_modality_lut, apply_voi

    bits = int(header.get("BitsStored") or 8)
    values = apply_modality_lut(pixels, _functional(header, frame, "PixelValueTransformationSequence"))
    voi = _functional(header, frame, "FrameVOILUTSequence")
    if voi.get("VOILUTSequence"):
        return None, apply_voi(values, header).astype(np.float32)
    center, width = _first(voi.get("WindowCenter")), _first(voi.get("WindowWidth"))
    if center is not None and width is not None and width >= 1:
        with np.errstate(over="ignore"):  # an absurd window shows one flat grey
            place = (values - (center - 0.5)) / max(width - 1, 1)
        unit = 1 / (1 + np.exp(-4 * place)) if voi.get("VOILUTFunction") == "SIGMOID" else np.clip(place + 0.5, 0, 1)
        if np.ptp(unit) > 0:
            return unit * 255, values
    if pixels.dtype == np.uint8 and values is pixels:
        return (pixels * (255 // (2**bits - 1)) if bits < 8 else pixels), values
    return None, values.astype(np.float32)


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
