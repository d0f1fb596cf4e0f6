"""Small data sets on disk, made anew for each test."""

from __future__ import annotations

import io
import json

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from swav_data.encoded import EncodedSet
from swav_data.folder import FileList

CLASSES = ("cat", "dog", "emu")


def _encode(pixels, kind="PNG", **options):
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


@pytest.fixture(scope="session")
def encode():
    """(pixels [H, W] or [H, W, C] uint8, format, options) -> bytes of a file."""
    return _encode


@pytest.fixture
def pictures():
    """Twelve images [h, w, 3] of different sizes, with labels 0, 1, 2, 0, ..."""
    random = np.random.default_rng(0)
    sizes = [(5 + n, 9 - n % 4) for n in range(12)]
    return [random.integers(0, 256, (*size, 3), dtype=np.uint8) for size in sizes], np.arange(12) % 3


@pytest.fixture
def write_parquet():
    """Writes a Parquet file as Hugging Face does: (path, list of bytes, labels, options)."""

    def write(path, images, labels, *, names=CLASSES, image="image", label="label", struct=True):
        kind = pa.struct([("bytes", pa.binary()), ("path", pa.string())]) if struct else pa.binary()
        rows = [{"bytes": data, "path": None} for data in images] if struct else images
        features = {image: {"_type": "Image"}, label: {"names": names and list(names), "_type": "ClassLabel"}}
        metadata = {"huggingface": json.dumps({"info": {"features": features}})} if names else None
        schema = pa.schema([(image, kind), (label, pa.int64())], metadata=metadata)
        columns = {image: pa.array(rows, kind), label: pa.array(labels, pa.int64())}
        pq.write_table(pa.table(columns, schema=schema), path, row_group_size=5)
        return path

    return write


@pytest.fixture
def write_folder():
    """Writes images by class: (root, images, labels) -> paths of the files, in the order of the images."""

    def write(root, images, labels):
        paths = []
        for number, (pixels, label) in enumerate(zip(images, labels, strict=True)):
            folder = root / CLASSES[label]
            folder.mkdir(parents=True, exist_ok=True)
            paths.append(folder / f"{number:03}.png")
            paths[-1].write_bytes(_encode(pixels))
        return paths

    return write


@pytest.fixture
def encoded_set(tmp_path, pictures, write_folder):
    """The twelve pictures as files, in their own order."""
    images, labels = pictures
    paths = write_folder(tmp_path / "files", images, labels)
    return EncodedSet("pictures", FileList([str(path) for path in paths]), labels, CLASSES)
