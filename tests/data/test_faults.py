"""Every kind of damage and oddity that image files come with, from the file to the batch.

Damage is one sentence that names the file (and the row), or is left out, counted and told. Odd but whole images are
decoded as what they show. No image is ever quietly another one, whichever way it comes.
"""

from __future__ import annotations

import io
import shutil
import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from swav_data.canvas import Canvas
from swav_data.sources import load, open_source
from swav_data.stream import Stream
from swav_spec.errors import InvalidInput

CANVAS = Canvas(64, 64)
SIDE = 24


def saved(image, kind="PNG", **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def photograph():
    pixels = np.random.default_rng(1).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    return saved(Image.fromarray(pixels), "JPEG")


def bomb():
    """A PNG of some bytes that asks for 60,000 x 60,000 pixels."""
    data = saved(Image.new("1", (1, 1)))
    header = b"IHDR" + struct.pack(">II", 60_000, 60_000) + data[24:29]
    return data[:12] + header + struct.pack(">I", zlib.crc32(header)) + data[33:]


#: Damage -> bytes of the file, words of the sentence.
DAMAGED = {
    "truncated JPEG": (photograph()[:-300], "cannot be decoded"),
    "cut in its header": (photograph()[:10], "cannot be decoded"),
    "zero bytes": (b"", "is empty (0 bytes)"),
    "another file": (b"<html>404 Not Found</html>", "is not an image of a known format"),
    "decompression bomb": (bomb(), "a decompression bomb?"),
    "floating-point pixels": (saved(Image.new("F", (4, 4), 0.5), "TIFF"), "has floating-point pixels"),
}


def flat(colour, height=SIDE, width=SIDE):
    return np.broadcast_to(np.array(colour, dtype=np.uint8), (height, width, 3))


def rotated():
    """What a camera held upright stores: lying pixels, and the word that turns them."""
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved(Image.new("RGB", (12, 24), (250, 250, 250)).rotate(90, expand=True), "JPEG", exif=exif)


#: Oddity -> bytes of the file, pixels that it shows, by how many levels the format may be off.
ODD = {
    "CMYK": (saved(Image.new("CMYK", (SIDE, SIDE), (0, 255, 255, 0)), "JPEG", quality=100), flat((255, 0, 0)), 4),
    "grayscale": (saved(Image.new("L", (SIDE, SIDE), 90), "JPEG"), flat((90, 90, 90)), 2),
    "alpha": (saved(Image.new("RGBA", (SIDE, SIDE), (0, 0, 0, 0))), flat((255, 255, 255)), 0),
    "16 bits": (saved(Image.fromarray(np.full((SIDE, SIDE), 51400, np.uint16))), flat((200, 200, 200)), 0),
    "one pixel": (saved(Image.new("RGB", (1, 1), (10, 200, 30))), flat((10, 200, 30), 1, 1), 0),
    "EXIF rotation": (rotated(), flat((250, 250, 250), 24, 12), 2),
}


def folder_of(root, files):
    """root/train/KIND/000.EXT for each; gives the paths by kind."""
    paths = {}
    for kind, (data, *_) in files.items():
        paths[kind] = root / "train" / kind / "000.jpg"
        paths[kind].parent.mkdir(parents=True)
        paths[kind].write_bytes(data)
    return paths


@pytest.mark.parametrize("kind", DAMAGED)
@pytest.mark.parametrize("stored", ["file", "row"])
def test_damage_is_one_sentence_that_names_the_file(tmp_path, write_parquet, kind, stored):
    data, words = DAMAGED[kind]
    if stored == "file":
        where = str(folder_of(tmp_path, {kind: DAMAGED[kind]})[kind])
    else:
        path = write_parquet(tmp_path / "train.parquet", [photograph(), data], [0, 1], names=("good", "bad"))
        where = f"{path}, row 1"
    with pytest.raises(InvalidInput) as at_once:
        load(tmp_path, canvas=CANVAS)
    opened = open_source(tmp_path).train
    with (
        Stream(opened, batch=len(opened), seed=0, steps=range(1), canvas=CANVAS) as stream,
        pytest.raises(InvalidInput) as streamed,
    ):
        next(iter(stream))
    for told in (at_once, streamed):
        assert str(told.value).startswith(f"{where}: ")
        assert words in str(told.value)
        assert "\n" not in str(told.value)


@pytest.mark.parametrize("workers", [0, 1])
def test_damage_is_left_out_counted_and_told_and_the_others_are_themselves(tmp_path, workers):
    paths = folder_of(tmp_path, DAMAGED | ODD)
    opened = open_source(tmp_path).train
    options = {"workers": workers, "canvas": CANVAS, "on_bad_image": "skip"}
    with Stream(opened, batch=4, seed=None, **options) as stream:
        batches = list(stream)
        skipped = stream.skipped
    at_once = load(tmp_path, canvas=CANVAS, on_bad_image="skip").train
    assert sorted(says.split(": ")[0] for says in skipped) == sorted(str(paths[kind]) for kind in DAMAGED)
    assert skipped == at_once.skipped
    for kind, (_, words) in DAMAGED.items():
        assert [words for says in skipped if says.startswith(f"{paths[kind]}: ") and words in says], kind
    shown = {}
    for batch in batches:
        for image, height, width, label in zip(batch.images, batch.heights, batch.widths, batch.labels, strict=True):
            shown[opened.classes[label]] = image[:height, :width]
    assert set(shown) == set(ODD)
    for kind, (_, pixels, off) in ODD.items():
        assert shown[kind].shape == pixels.shape, kind
        assert abs(shown[kind].astype(int) - pixels).max() <= off, kind
        row = at_once.classes.index(kind)
        (at,) = np.flatnonzero(at_once.labels == row)
        assert np.array_equal(at_once.images[at, : len(pixels), : pixels.shape[1]], shown[kind])


def test_a_class_without_images_is_named(tmp_path):
    folder_of(tmp_path, ODD)
    (tmp_path / "train/empty").mkdir()
    for on_bad_image in ("error", "skip"):
        with pytest.raises(InvalidInput) as told:
            load(tmp_path, on_bad_image=on_bad_image)
        assert str(told.value).startswith(f"{tmp_path}/train/empty: is a class without images")


def test_a_label_out_of_range_is_no_bad_image(tmp_path, write_parquet):
    path = write_parquet(tmp_path / "train.parquet", [photograph()] * 3, [0, 2, 7])
    for on_bad_image in ("error", "skip"):
        with pytest.raises(InvalidInput) as told:
            load(path, on_bad_image=on_bad_image)
        assert str(told.value) == f"{path}, row 2: label = 7: must be in 0..2"


def test_parquet_cut_off_is_named(tmp_path, write_parquet):
    path = write_parquet(tmp_path / "train.parquet", [photograph()] * 9, [0] * 9)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(InvalidInput) as told:
        open_source(path)
    assert str(told.value).startswith(f"{path}: cannot be read as Parquet (")
    assert str(told.value).endswith("is it complete?")


@pytest.mark.parametrize("workers", [0, 1])
@pytest.mark.parametrize("on_bad_image", ["error", "skip"])
def test_a_folder_that_disappears_mid_run_names_the_file_it_misses(tmp_path, workers, on_bad_image):
    paths = folder_of(tmp_path, ODD)
    options = {"workers": workers, "canvas": CANVAS, "on_bad_image": on_bad_image}
    with Stream(open_source(tmp_path).train, batch=3, seed=1, steps=range(99), **options) as stream:
        batches = iter(stream)
        next(batches)
        shutil.rmtree(tmp_path / "train")
        with pytest.raises(InvalidInput, match=r"cannot be read \(No such file or directory\)$") as told:
            list(batches)
    assert Path(str(told.value).split(": cannot")[0]) in paths.values()
