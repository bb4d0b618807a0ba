"""What a compressed frame says of itself, compared with the DICOM header before a decoder is let near it.

Decoders believe the frame: one flipped bit in a size costs JPEG 2000 minutes, and gdcm ends the whole process over a
precision that does not exist, or over anything in a JPEG header that libjpeg merely warns of.
"""

from __future__ import annotations

import struct
from typing import TYPE_CHECKING

from agent.cases.images import Unreadable

if TYPE_CHECKING:
    from pydicom import Dataset

JPEG_2000, JPEG = b"\xff\x4f\xff\x51", b"\xff\xd8"
START_OF_SCAN, JPEG_LS, JFIF, ADOBE = 0xDA, 0xF7, 0xE0, 0xEE
STARTS_OF_FRAME = {JPEG_LS, *range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}
WITHOUT_SEGMENT = {*range(0xC0), *range(0xD0, 0xDA)}  # reserved, restarts, start and end of image: none belongs here


def check_codestream(stream: bytes, header: Dataset) -> None:
    """Compares height, width and, for JPEG and JPEG-LS, samples and bits. Other codings have nothing to compare.

    Raises Unreadable, and struct.error where the frame ends too early.
    """
    if stream.startswith(JPEG_2000):
        right, bottom, left, top = struct.unpack_from(">4I", stream, 8)
        _agree((bottom - top, right - left), (header.Rows, header.Columns))
    elif stream.startswith(JPEG):
        _check_jpeg(stream, header)


def _check_jpeg(stream: bytes, header: Dataset) -> None:
    """Follows the segments up to the first scan: each must start where the one before it ends (ITU-T T.81, B.1.1)."""
    at, marker, framed = len(JPEG), 0, False
    while marker != START_OF_SCAN:
        while stream[at : at + 2] == b"\xff\xff":  # fill
            at += 1
        prefix, marker, length = struct.unpack_from(">BBH", stream, at)
        content = stream[at + 4 : at + 2 + length]
        if prefix != 0xFF or marker in WITHOUT_SEGMENT or length < 2 or _libjpeg_warns_of(marker, content):
            raise Unreadable("the header of the compressed frame is damaged")
        if marker in STARTS_OF_FRAME:
            bits, height, width, samples = struct.unpack_from(">BHHB", content)
            _agree((height, width, samples), (header.Rows, header.Columns, header.SamplesPerPixel))
            if not 2 <= bits <= header.BitsAllocated:
                raise Unreadable(f"the compressed frame has {bits} bits a pixel, its header {header.BitsAllocated}")
            framed = True
        at += 2 + length
    if not framed:
        raise Unreadable("the header of the compressed frame is damaged")


def _libjpeg_warns_of(marker: int, content: bytes) -> bool:
    if marker == JFIF and content.startswith(b"JFIF\0"):
        return content[5:6] != b"\1"  # the major version
    return marker == ADOBE and content.startswith(b"Adobe") and content[11:12] not in (b"\0", b"\1", b"\2")


def _agree(frame: tuple[int, ...], header: tuple[int, ...]) -> None:
    if frame != header:
        raise Unreadable(f"the compressed frame is of the size {frame}, and its header says {header}")
