"""Every format is read as a viewer would show it, or refused in one sentence; nothing crashes, nothing is unbounded."""

from __future__ import annotations

import gzip
import io
import warnings
import zlib
from pathlib import Path

import nibabel
import numpy as np
import pytest
import tifffile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image
from taking import write_dicom, write_png

from agent.cases.images import MOST_PIXELS, SIDE, Unreadable, media_type, pixels_of, read_image

GREY = np.arange(12 * 20, dtype=np.uint8).reshape(12, 20)
COLOUR = np.stack([GREY, GREY[::-1], 255 - GREY], axis=2)
DEEP = GREY.astype(np.uint16) * 16 + 100


def nifti(path: Path, volume: np.ndarray) -> Path:
    nibabel.save(nibabel.Nifti1Image(volume, np.eye(4)), path)
    return path


def saved(path: Path, array: np.ndarray, **options: object) -> Path:
    Image.fromarray(array).save(path, **options)
    return path


def test_eight_bit_files_keep_their_values(tmp_path: Path) -> None:
    """PNG, TIFF, NPY and DICOM of 8 bits come back as they were, grey and colour, told by content alone."""
    for name, array in (("grey", GREY), ("colour", COLOUR)):
        paths = [
            saved(tmp_path / f"{name}.png", array),
            saved(tmp_path / f"{name}.tif", array),
            saved(tmp_path / f"{name}-lzw.tif", array, compression="tiff_lzw"),
            write_dicom(tmp_path / f"{name}.dcm", array),
        ]
        np.save(tmp_path / f"{name}.npy", array)
        for path in [*paths, tmp_path / f"{name}.npy"]:
            bare = path.rename(path.with_name(f"{path.name}-nosuffix"))
            image = read_image(bare)
            assert image.dtype == np.float32
            np.testing.assert_array_equal(image, array, err_msg=path.name)


def test_headers_tell_depth_and_kind_of_the_pixels(tmp_path: Path) -> None:
    """Of every format, also under a name that tells nothing; a header that doesn't say is no error."""
    np.save(tmp_path / "deep.npy", DEEP)
    np.save(tmp_path / "colour.npy", COLOUR)
    tifffile.imwrite(tmp_path / "white.tif", GREY, photometric="miniswhite")
    told = {
        saved(tmp_path / "grey.png", GREY): "mode L",
        saved(tmp_path / "deep.png", DEEP): "mode I;16",
        saved(tmp_path / "colour.jpg", COLOUR): "mode RGB",
        saved(tmp_path / "deep.tif", DEEP): "16 bit, MINISBLACK",
        tmp_path / "white.tif": "8 bit, MINISWHITE",
        tmp_path / "deep.npy": "uint16",
        tmp_path / "colour.npy": "uint8, colour",
        nifti(tmp_path / "volume.nii.gz", np.zeros((9, 9, 3), np.int16)): "int16",
        write_dicom(tmp_path / "inverted.dcm", DEEP, PhotometricInterpretation="MONOCHROME1"): "16 bit, MONOCHROME1",
    }
    for path, says in told.items():
        bare = path.rename(path.with_name(f"{path.name}-nosuffix"))
        assert pixels_of(bare, media_type(bare)) == says
    (tmp_path / "bare").write_bytes(b"")
    assert pixels_of(tmp_path / "bare", "image/png") == "" == pixels_of(tmp_path / "bare", "")


def test_a_jpeg_is_read(tmp_path: Path) -> None:
    """Lossy, so nearly."""
    flat = np.full((16, 16, 3), (200, 100, 50), np.uint8)
    assert np.abs(read_image(saved(tmp_path / "x.jpg", flat, quality=95)) - flat).max() < 6


@pytest.mark.parametrize("kind", ["png", "tif", "npy", "nii", "nii.gz", "dcm"])
def test_deeper_pixels_are_stretched_to_0_255(tmp_path: Path, kind: str) -> None:
    """Whatever the depth, an image spans 0..255, so that one preprocessing serves all."""
    path = tmp_path / f"x.{kind}"
    if kind == "npy":
        np.save(path, DEEP.astype(np.float64) / 7)
    elif kind.startswith("nii"):
        nifti(path, np.stack([DEEP.T * 0, DEEP.T, DEEP.T * 0], axis=2).astype(np.int16))
    elif kind == "dcm":
        write_dicom(path, DEEP)
    else:
        saved(path, DEEP)
    image = read_image(path)
    assert image.shape == GREY.shape
    assert (image.min(), image.max()) == (0, 255)
    assert np.corrcoef(image.ravel(), DEEP.ravel())[0, 1] > 0.999


def test_palettes_transparency_and_bilevel_are_shown(tmp_path: Path) -> None:
    """A palette becomes its colours, an alpha channel is dropped, one bit becomes black and white."""
    palette = Image.fromarray(COLOUR).quantize(8)
    palette.save(tmp_path / "p.png")
    np.testing.assert_array_equal(read_image(tmp_path / "p.png"), np.array(palette.convert("RGB")))
    saved(tmp_path / "a.png", np.dstack([COLOUR, GREY]))
    np.testing.assert_array_equal(read_image(tmp_path / "a.png"), COLOUR)
    saved(tmp_path / "b.png", GREY > 100)
    assert set(np.unique(read_image(tmp_path / "b.png"))) == {0, 255}


def test_tiff_variants(tmp_path: Path) -> None:
    """A stack gives its middle page, float samples are stretched, white-is-zero is turned round."""
    tifffile.imwrite(tmp_path / "stack.tif", np.stack([GREY * 0, GREY, GREY * 0]), photometric="minisblack")
    np.testing.assert_array_equal(read_image(tmp_path / "stack.tif"), GREY)
    tifffile.imwrite(tmp_path / "float.tif", DEEP.astype(np.float32))
    assert read_image(tmp_path / "float.tif").max() == 255
    tifffile.imwrite(tmp_path / "white.tif", GREY, photometric="miniswhite")
    np.testing.assert_array_equal(read_image(tmp_path / "white.tif"), 255 - GREY)


def test_volumes_give_their_middle_slice(tmp_path: Path) -> None:
    """NIfTI along its third axis with rows along y, NPY along its first; further axes in the middle too."""
    volume = np.zeros((20, 12, 5, 3), np.uint8)
    volume[:, :, 2, 1] = GREY.T
    np.testing.assert_array_equal(read_image(nifti(tmp_path / "x.nii.gz", volume)), GREY)
    np.save(tmp_path / "x.npy", np.stack([GREY * 0, GREY, GREY * 0]))
    np.testing.assert_array_equal(read_image(tmp_path / "x.npy"), GREY)


def png_of_size(path: Path, width: int, height: int) -> Path:
    """A few bytes that claim to be a large black image."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return len(data).to_bytes(4, "big") + kind + data + zlib.crc32(kind + data).to_bytes(4, "big")

    head = width.to_bytes(4, "big") + height.to_bytes(4, "big") + b"\x08\x00\x00\x00\x00"
    path.write_bytes(
        b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    )
    return path


@pytest.mark.parametrize(("width", "height"), [(1, 1), (3, 50), (20_000, 20_000), (20_000, 8), (16_000, 16_000)])
def test_sizes_out_of_bounds_are_refused_before_decoding(tmp_path: Path, width: int, height: int) -> None:
    """One pixel shows nothing, and twenty thousand a side would fill the memory; no warning of a library gets out."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(Unreadable, match=f"{height} x {width} pixels"):
            read_image(png_of_size(tmp_path / "x.png", width, height))
    assert SIDE[0] > 1
    assert MOST_PIXELS < 20_000**2


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_pixels_that_are_no_numbers_are_refused(tmp_path: Path, bad: float) -> None:
    """One NaN in a float image would be an answer of NaN."""
    values = DEEP.astype(np.float32)
    values[3, 3] = bad
    np.save(tmp_path / "x.npy", values)
    with pytest.raises(Unreadable, match="NaN"):
        read_image(tmp_path / "x.npy")


def test_pickled_and_complex_arrays_are_refused(tmp_path: Path) -> None:
    """An object array is code to be run, and a complex one no image."""
    np.save(tmp_path / "object.npy", np.array([[object()] * 9] * 9), allow_pickle=True)
    np.save(tmp_path / "complex.npy", np.zeros((9, 9), complex))
    for name in ("object.npy", "complex.npy"):
        with pytest.raises(Unreadable):
            read_image(tmp_path / name)


def test_what_is_no_image_is_refused(tmp_path: Path) -> None:
    """Nothing at all, a text, an archive."""
    for content, says in ((b"", "empty"), (b"hello", "none of"), (gzip.compress(b"x" * 400), "none of")):
        path = tmp_path / "x.png"
        path.write_bytes(content)
        with pytest.raises(Unreadable, match=says):
            read_image(path)
    with pytest.raises(Unreadable, match="No such file"):
        read_image(tmp_path / "gone.png")


def test_a_volume_that_unpacks_without_end_is_refused(tmp_path: Path) -> None:
    """The size that a compressed volume claims is checked before anything is unpacked up to its middle."""
    header = nibabel.Nifti1Header()
    header.set_data_shape((4000, 4000, 4000))
    header.set_data_dtype(np.float32)
    header.magic = b"n+1"
    header["vox_offset"] = 352
    out = io.BytesIO()
    with gzip.GzipFile(fileobj=out, mode="wb") as packed:
        packed.write(header.binaryblock + b"\0" * 4)
    (tmp_path / "x.nii.gz").write_bytes(out.getvalue())
    with pytest.raises(Unreadable, match="shape"):
        read_image(tmp_path / "x.nii.gz")


@pytest.fixture(scope="module")
def originals(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    folder = tmp_path_factory.mktemp("originals")
    np.save(folder / "x.npy", DEEP)
    tifffile.imwrite(folder / "x.tif", DEEP)
    paths = [
        write_png(folder / "x.png", 1),
        saved(folder / "x.jpg", COLOUR),
        saved(folder / "lzw.tif", GREY, compression="tiff_lzw"),
        nifti(folder / "x.nii", DEEP.T[..., None].astype(np.int16)),
        nifti(folder / "x.nii.gz", DEEP.T[..., None].astype(np.int16)),
        write_dicom(folder / "x.dcm", DEEP, WindowCenter="2000", WindowWidth="3000"),
        folder / "x.npy",
        folder / "x.tif",
    ]
    return [path.read_bytes() for path in paths]


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_files_are_read_or_refused(tmp_path: Path, originals: list[bytes], data: st.DataObject) -> None:
    """Cut short, or with bytes changed: an image in bounds comes out, or one sentence without the file's name."""
    content = bytearray(data.draw(st.sampled_from(originals)))
    for at in data.draw(st.lists(st.integers(0, len(content) - 1), max_size=6)):
        content[at] = data.draw(st.integers(0, 255))
    path = tmp_path / "Canary-Jane"
    path.write_bytes(content[: data.draw(st.integers(0, len(content)))])
    try:
        image = read_image(path)
    except Unreadable as error:
        assert "Canary" not in str(error)
        assert "\n" not in str(error)
    else:
        assert image.ndim in (2, 3)
        assert 0 <= image.min() <= image.max() <= 255


def test_content_tells_the_type_and_not_the_name(tmp_path: Path) -> None:
    """A DICOM file whose preamble holds a TIFF header is DICOM all the same."""
    path = write_dicom(tmp_path / "x.png", GREY)
    path.write_bytes(b"II*\0" + path.read_bytes()[4:])
    assert media_type(path) == "application/dicom"
    np.testing.assert_array_equal(read_image(path), GREY)
