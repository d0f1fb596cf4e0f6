"""What image files become, and the sentence that broken ones get."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from swav_data import decode as decoding
from swav_data.canvas import Canvas
from swav_data.decode import MAX_PIXELS, decode, fitted
from swav_data.encoded import Encoded, EncodedSet
from swav_spec.errors import InvalidInput

CANVAS = Canvas()


def decoded(data, canvas=CANVAS):
    return decode(Encoded("here", data=data), canvas)


def saved(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def png_claiming(width, height):
    """A PNG of one pixel whose header says that it has many more."""
    data = saved(Image.new("1", (1, 1)))
    header = b"IHDR" + struct.pack(">II", width, height) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


def refused(data, canvas=CANVAS):
    with pytest.raises(InvalidInput, match=r"^here: ") as caught:
        decoded(data, canvas)
    return str(caught.value)


def test_rgb_is_kept(encode):
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    result = decoded(encode(pixels))
    assert result.dtype == np.uint8
    assert np.array_equal(result, pixels)


def test_grey_is_repeated(encode):
    grey = np.arange(12, dtype=np.uint8).reshape(3, 4)
    assert np.array_equal(decoded(encode(grey)), grey[..., None].repeat(3, axis=-1))


def test_black_and_white():
    assert decoded(saved(Image.new("1", (2, 2), 1))).tolist() == [[[255] * 3] * 2] * 2


def test_one_pixel(encode):
    pixel = np.array([[[10, 20, 30]]], dtype=np.uint8)
    assert np.array_equal(decoded(encode(pixel)), pixel)


@pytest.mark.parametrize(
    ("ink", "rgb"), [((0, 0, 0, 0), (255, 255, 255)), ((0, 0, 0, 255), (0, 0, 0)), ((0, 255, 255, 0), (255, 0, 0))]
)
def test_cmyk_is_converted(ink, rgb):
    data = saved(Image.new("CMYK", (16, 16), ink), "JPEG", quality=100)
    assert abs(decoded(data).astype(int) - rgb).max() <= 4


@pytest.mark.parametrize(
    ("mode", "colour", "rgb"),
    [
        ("RGBA", (200, 0, 0, 0), (255, 255, 255)),
        ("RGBA", (200, 0, 0, 255), (200, 0, 0)),
        ("RGBA", (255, 0, 0, 51), (255, 204, 204)),
        ("LA", (7, 0), (255, 255, 255)),
        ("LA", (7, 255), (7, 7, 7)),
    ],
)
def test_transparent_pixels_lie_on_white(mode, colour, rgb):
    assert decoded(saved(Image.new(mode, (2, 3), colour))).tolist() == [[list(rgb)] * 2] * 3


def test_a_transparent_palette_colour_lies_on_white():
    image = Image.new("P", (2, 1), 0)
    image.putpalette([10, 20, 30, 40, 50, 60])
    image.putpixel((1, 0), 1)
    assert decoded(saved(image, transparency=0)).tolist() == [[[255, 255, 255], [40, 50, 60]]]
    assert decoded(saved(image)).tolist() == [[[10, 20, 30], [40, 50, 60]]]


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_keep_their_upper_eight_rounded(encode, kind):
    levels = np.array([[0, 128, 129, 257, 32768, 65535]], dtype=np.uint16)
    assert decoded(encode(levels, kind))[0, :, 0].tolist() == [0, 0, 1, 1, 128, 255]


def test_wider_pixels_are_refused():
    assert "floating-point" in refused(saved(Image.new("F", (2, 2), 0.5), "TIFF"))
    assert "32-bit" in refused(saved(Image.new("I", (2, 2), 70000), "TIFF"))


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_rotation_is_applied(orientation):
    upright = np.zeros((16, 32, 3), dtype=np.uint8)
    upright[:8, :8] = 255  # top left
    # What the camera stored, by the meaning of each value: where row 0 and column 0 of the stored pixels belong.
    stored = {
        1: upright,
        2: upright[:, ::-1],
        3: upright[::-1, ::-1],
        4: upright[::-1],
        5: upright.transpose(1, 0, 2),
        6: np.rot90(upright),
        7: upright[::-1, ::-1].transpose(1, 0, 2),
        8: np.rot90(upright, -1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    result = decoded(saved(Image.fromarray(stored), "JPEG", exif=exif, quality=100, subsampling=0))
    assert result.shape == upright.shape
    assert abs(result.astype(int) - upright).max() < 30


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_large_images_shrink(encode, kind):
    ramp = np.broadcast_to(np.linspace(0, 255, 900)[None, :, None], (300, 900, 3)).astype(np.uint8)
    result = decoded(encode(ramp, kind), Canvas(100, 150))
    assert result.shape == (50, 150, 3)
    centres = (np.arange(150) + 0.5) * 6 - 0.5
    assert abs(result - (centres * 255 / 899)[None, :, None]).max() < 4


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_truncated_files_are_refused(encode, kind, share):
    data = encode(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8), kind)
    assert "cannot be decoded" in refused(data[: int(share * len(data))])


def test_empty_and_other_files_are_refused():
    assert "is empty" in refused(b"")
    assert "not an image" in refused(b"<html>Not Found</html>")
    # Pillow's decoder for PostScript would start an interpreter.
    assert "not an image" in refused(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EOF\n")


@pytest.mark.parametrize("side", [int(MAX_PIXELS**0.5) + 1, 12_000, 100_000])
def test_decompression_bombs_are_refused(side):
    assert "bomb" in refused(png_claiming(side, side))


def of_sizes(sizes, data=b""):
    """Images in memory that claim to be so large, and one more that is broken."""
    files = [Encoded("some", data=png_claiming(width, height)) for height, width in sizes]
    return EncodedSet("some", [*files, Encoded("bad", data=data)], np.zeros(len(sizes) + 1), ("a",))


@given(
    sizes=st.lists(st.tuples(st.integers(1, 1500), st.integers(1, 1500)), min_size=1, max_size=4),
    bounds=st.tuples(st.integers(1, 300), st.integers(0, 300)),
)
def test_a_fitted_canvas_changes_no_size(sizes, bounds):
    canvas = Canvas(bounds[0], sum(bounds))
    tight = fitted(of_sizes(sizes), canvas)
    kept = [canvas.size(*size) for size in sizes]
    assert [tight.size(*size) for size in sizes] == kept
    assert tight.max_side == max(map(max, kept))


def test_images_in_files_and_very_many_are_not_looked_at(tmp_path, encode, monkeypatch):
    few = of_sizes([(32, 32)])
    assert fitted(few, CANVAS) == Canvas(32, 32)
    monkeypatch.setattr(decoding, "MOST_HEADERS", 1)
    assert fitted(few, CANVAS) is CANVAS
    path = str(tmp_path / "image.png")
    assert fitted(EncodedSet("one", [Encoded(path, path=path)], np.zeros(1), ("a",)), CANVAS) is CANVAS


def test_missing_bytes_and_files_are_named(tmp_path):
    with pytest.raises(InvalidInput, match=r"^row 3: holds no bytes"):
        decode(Encoded("row 3"), CANVAS)
    path = str(tmp_path / "gone.jpg")
    with pytest.raises(InvalidInput, match=r"cannot be read \(No such file") as caught:
        decode(Encoded(path, path=path), CANVAS)
    assert path in str(caught.value)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "BMP", "TIFF", "WEBP"])
@given(data=st.data())
def test_corrupt_bytes_never_get_past_the_one_exception(encode, kind, data):
    pixels = np.random.default_rng(0).integers(0, 256, (12, 10, 3), dtype=np.uint8)
    corrupt = bytearray(encode(pixels, kind))
    assert decoded(bytes(corrupt)).shape == pixels.shape
    for position in data.draw(st.lists(st.integers(0, len(corrupt) - 1), min_size=1, max_size=6)):
        corrupt[position] = data.draw(st.integers(0, 255))
    says = None
    try:
        result = decoded(bytes(corrupt), Canvas(16, 16))
    except InvalidInput as error:
        says = str(error)
    if says is None:
        assert result.dtype == np.uint8
        assert result.ndim == 3
        assert result.shape[2] == 3
        assert max(result.shape[:2]) <= 16
    else:
        assert says.startswith("here: ")
