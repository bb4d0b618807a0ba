"""DICOM as the standard means it, on files of our own making; and 188 of many vendors where they are at hand."""

from __future__ import annotations

import io
import zlib
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydicom import dcmread
from pydicom.dataset import Dataset
from pydicom.encaps import encapsulate
from pydicom.uid import DeflatedExplicitVRLittleEndian, ImplicitVRLittleEndian, JPEGBaseline8Bit, RLELossless
from taking import write_dicom

from agent.cases.dicom import DECODERS, dicom_facts
from agent.cases.images import Unreadable, media_type, read_image

HU = np.arange(-1000, 1000, 5, dtype=np.int16).reshape(20, 20)
GREY = np.arange(144, dtype=np.uint8).reshape(12, 12)
VENDORS = Path(__file__).parents[3] / "shared" / "data" / "dicom"


def test_rescale_and_window_are_those_of_the_standard(tmp_path: Path) -> None:
    """PS3.3 C.11.2.1.2: below centre - 0.5 - (width-1)/2 black, above white, a line between; after the rescale."""
    path = write_dicom(
        tmp_path / "ct.dcm",
        (HU + 1024).astype(np.uint16),
        RescaleSlope="1",
        RescaleIntercept="-1024",
        WindowCenter=["40", "400"],
        WindowWidth=["400", "2000"],
    )
    expected = np.clip((HU - 39.5) / 399 + 0.5, 0, 1) * 255
    np.testing.assert_allclose(read_image(path), expected, atol=1e-3)


def test_a_window_that_shows_nothing_is_not_used(tmp_path: Path) -> None:
    """A wrong window would make every image one flat grey: the image's own range is used instead."""
    for center, width in (("90000", "10"), ("0", "0"), ("1e300", "5")):
        image = read_image(write_dicom(tmp_path / "x.dcm", HU, WindowCenter=center, WindowWidth=width))
        assert (image.min(), image.max()) == (0, 255)


def test_monochrome1_is_turned_round(tmp_path: Path) -> None:
    """Where the smallest value is white, it comes out white."""
    image = read_image(write_dicom(tmp_path / "x.dcm", GREY, PhotometricInterpretation="MONOCHROME1"))
    np.testing.assert_array_equal(image, 255 - GREY)


def test_palette_colours_are_looked_up(tmp_path: Path) -> None:
    """Indices become the colours of the file's table."""
    table = {}
    for i, colour in enumerate(("Red", "Green", "Blue")):
        table[f"{colour}PaletteColorLookupTableDescriptor"] = [256, 0, 16]
        table[f"{colour}PaletteColorLookupTableData"] = (
            ((np.arange(256) * (i + 1) % 256) * 257).astype(np.uint16).tobytes()
        )
    image = read_image(write_dicom(tmp_path / "x.dcm", GREY, PhotometricInterpretation="PALETTE COLOR", **table))
    np.testing.assert_allclose(image, np.stack([GREY * np.float32(i + 1) % 256 for i in range(3)], axis=2), atol=1e-3)


def test_ybr_becomes_rgb(tmp_path: Path) -> None:
    """A grey image in YBR has equal channels."""
    ybr = np.dstack([GREY, np.full_like(GREY, 128), np.full_like(GREY, 128)])
    image = read_image(write_dicom(tmp_path / "x.dcm", ybr, PhotometricInterpretation="YBR_FULL"))
    np.testing.assert_allclose(image, np.dstack([GREY] * 3), atol=1)


def test_several_frames_give_the_middle_one_with_its_own_window(tmp_path: Path) -> None:
    """Enhanced files keep rescale and window per frame."""
    frames = np.stack([HU * 0, HU, HU * 0])
    groups = []
    for center in (1.0, 100.0, 3.0):
        window, group = Dataset(), Dataset()
        window.WindowCenter, window.WindowWidth = center, 401.0
        group.FrameVOILUTSequence = [window]
        groups.append(group)
    path = write_dicom(tmp_path / "x.dcm", frames, NumberOfFrames=3, PerFrameFunctionalGroupsSequence=groups)
    np.testing.assert_allclose(read_image(path), np.clip((HU - 99.5) / 400 + 0.5, 0, 1) * 255, atol=1e-3)


@pytest.mark.parametrize("syntax", [ImplicitVRLittleEndian, DeflatedExplicitVRLittleEndian])
def test_other_encodings_give_the_same_pixels(tmp_path: Path, syntax: str) -> None:
    """Implicit, deflated."""
    plain = read_image(write_dicom(tmp_path / "a.dcm", HU))
    path = tmp_path / "b.dcm"
    write_dicom(path, HU, syntax)
    np.testing.assert_array_equal(read_image(path), plain)


def test_run_length_is_decoded(tmp_path: Path) -> None:
    """By pydicom itself."""
    plain = read_image(write_dicom(tmp_path / "a.dcm", HU))
    data = dcmread(tmp_path / "a.dcm")
    data.compress(RLELossless)
    data.save_as(tmp_path / "rle.dcm")
    np.testing.assert_array_equal(read_image(tmp_path / "rle.dcm"), plain)


def test_a_file_without_preamble_is_read(tmp_path: Path) -> None:
    """Old archives strip the preamble and even the meta header."""
    path = write_dicom(tmp_path / "a.dcm", GREY, ImplicitVRLittleEndian)
    data = dcmread(path)
    data.file_meta.clear()
    data.preamble = None
    data.save_as(tmp_path / "bare.dcm", implicit_vr=True, little_endian=True, enforce_file_format=False)
    assert media_type(tmp_path / "bare.dcm") == "application/dicom"
    np.testing.assert_array_equal(read_image(tmp_path / "bare.dcm"), GREY)


def test_a_compressed_frame_of_another_size_is_refused_before_decoding(tmp_path: Path) -> None:
    """Decoders believe the stream, which may ask for gigabytes."""
    huge = b"\xff\xd8\xff\xc0\x00\x0b\x08\xff\xff\xff\xff\x01\x01\x11\x00\xff\xd9\x00"
    path = write_dicom(tmp_path / "a.dcm", GREY, "1.2.840.10008.1.2.4.50", PixelData=encapsulate([huge]))
    with pytest.raises(Unreadable, match="65535"):
        read_image(path)


@pytest.mark.parametrize(
    "harm",
    [
        lambda stream: stream.replace(b"JFIF\0\1", b"JFIF\0\7"),
        lambda stream: stream.replace(b"\xff\xdb", b"\xff\xd3", 1),
        lambda stream: stream.replace(b"\xff\xdb", b"\x42\xdb", 1),
        lambda stream: stream.replace(b"\xff\xc0\x00\x0b\x08", b"\xff\xc0\x00\x0b\xff"),
        lambda stream: stream[: len(stream) // 2],
    ],
    ids=["version", "restart", "no marker", "precision", "cut"],
)
def test_a_damaged_jpeg_is_refused_and_the_process_lives(tmp_path: Path, harm: Callable[[bytes], bytes]) -> None:
    """gdcm ends the process over what libjpeg warns of in a header, so such a frame never gets there."""
    coded = io.BytesIO()
    Image.fromarray(np.tile(GREY, (4, 4))).save(coded, "JPEG")
    for name, stream in (("good", coded.getvalue()), ("harmed", harm(coded.getvalue()))):
        content = encapsulate([stream + b"\0" * (len(stream) % 2)])
        write_dicom(tmp_path / name, np.tile(GREY, (4, 4)), JPEGBaseline8Bit, PixelData=content)
    assert np.abs(read_image(tmp_path / "good") - np.tile(GREY, (4, 4))).mean() < 4
    with pytest.raises(Unreadable, match=r"damaged|bits"):
        read_image(tmp_path / "harmed")


def test_every_decoder_of_the_table_is_installed_and_free() -> None:
    """Each row names a plugin that loads here; the one under the GPL is not among what the project asks for."""
    from importlib.metadata import requires

    from pydicom import uid
    from pydicom.pixels import get_decoder

    for syntax, plugin in DECODERS.items():
        assert plugin in get_decoder(getattr(uid, syntax)).available_plugins, syntax
    assert not [name for name in requires("homeostat") or () if name.startswith("pylibjpeg-libjpeg")]


def test_a_small_file_that_inflates_without_end_is_refused(tmp_path: Path) -> None:
    """A deflated data set is inflated whole by pydicom: the size is counted first, for facts as for pixels."""
    path = write_dicom(tmp_path / "a.dcm", GREY, DeflatedExplicitVRLittleEndian)
    content = path.read_bytes()
    meta_ends = 132 + 12 + int.from_bytes(content[140:144], "little")
    packer = zlib.compressobj(9, zlib.DEFLATED, -zlib.MAX_WBITS)
    bomb = b"".join(packer.compress(bytes(2**22)) for _ in range(140)) + packer.flush()
    path.write_bytes(content[:meta_ends] + bomb)
    with pytest.raises(Unreadable, match="inflates"):
        read_image(path)
    assert dicom_facts(path) == {}


def test_facts_are_an_allow_list(tmp_path: Path) -> None:
    """Canaries in name, address, comments and a private tag are in no fact; ages are years; nobody's id is none."""
    path = write_dicom(
        tmp_path / "a.dcm", GREY, PatientName="Canary^Jane", PatientAddress="Canary Street", ImageComments="Canary",
        PatientID="ANONYMOUS", PatientAge="018M", PatientSex="M", Manufacturer="Acme", StudyDate="20250102",
    )  # fmt: skip
    data = dcmread(path)
    data.private_block(0x11, "Canary Corp", create=True).add_new(1, "LO", "Canary")
    data.save_as(path)
    assert dicom_facts(path) == {
        "scanner": "Acme", "sex": "M", "age": "1", "acquired_at": "2025-01-02T00:00:00.000000Z",
    }  # fmt: skip


@pytest.mark.parametrize(
    ("tags", "at"),
    [
        ({"AcquisitionDateTime": "20260301081500.5+0100"}, "2026-03-01T07:15:00.500000Z"),
        ({"AcquisitionDate": "20260301", "AcquisitionTime": "0815"}, "2026-03-01T08:15:00.000000Z"),
        (
            {"ContentDate": "20260301", "TimezoneOffsetFromUTC": "-0500", "ContentTime": "200000"},
            "2026-03-02T01:00:00.000000Z",
        ),
        ({"AcquisitionDate": "20269999", "StudyDate": "20260301"}, "2026-03-01T00:00:00.000000Z"),
        ({"StudyDate": "00000000"}, None),
    ],
)
def test_the_time_is_the_first_that_makes_sense(tmp_path: Path, tags: dict[str, str], at: str | None) -> None:
    """Acquisition before content before series before study; offsets are honoured; nonsense is unknown."""
    from pydicom import config

    config.settings.reading_validation_mode = config.settings.writing_validation_mode = config.IGNORE
    assert dicom_facts(write_dicom(tmp_path / "a.dcm", GREY, **tags)).get("acquired_at") == at


@pytest.mark.skipif(not VENDORS.is_dir(), reason="the files of many vendors are not here")
def test_files_of_many_vendors_are_read_or_refused() -> None:
    """Every one of them; what other readers can decode, we can, but for one of 3 x 3 pixels."""
    import csv

    read, refused = set(), {}
    with (VENDORS / "manifest.csv").open() as file:
        manifest = list(csv.DictReader(file))
    for row in manifest:
        path = VENDORS / row["file"]
        dicom_facts(path)
        try:
            image = read_image(path)
        except Unreadable as error:
            refused[row["file"]] = str(error)
        else:
            assert 0 <= image.min() <= image.max() <= 255
            read.add(row["file"])
    assert len(read) + len(refused) == len(manifest) > 100
    decodable = {row["file"] for row in manifest if row["pixels"] == "ok"}
    assert decodable - read == {"fodicom_tests/1403-OB.dcm"}
    assert all(0 < len(says) < 300 and "\n" not in says for says in refused.values())
