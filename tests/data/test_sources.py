"""Names and paths to images, and the sentence that each kind of damage gets."""

from __future__ import annotations

import os
import pickle
import shutil
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_digits

from swav_data.canvas import Canvas
from swav_data.cifar import PIXELS
from swav_data.encoded import EncodedSet
from swav_data.sources import NAMES, load, open_source
from swav_spec.errors import InvalidInput

CLASSES = ("cat", "dog", "emu")


def refused(source, **options):
    with pytest.raises(InvalidInput) as caught:
        load(source, **options)
    return str(caught.value)


def assert_holds(part, images, labels):
    assert part.heights.tolist() == [len(image) for image in images]
    assert part.widths.tolist() == [image.shape[1] for image in images]
    assert part.labels.tolist() == list(labels)
    height, width = part.images.shape[1:3]
    assert (height, width) == (part.heights.max(), part.widths.max())
    for canvas, image in zip(part.images, images, strict=True):
        assert np.array_equal(canvas[: len(image), : image.shape[1]], image)
        assert canvas.astype(int).sum() == image.astype(int).sum()  # nothing around it


def test_textures_need_numpy_only():
    code = (
        "import sys; from swav_data.sources import load; load('textures'); "
        "assert not {'PIL', 'pyarrow', 'sklearn'} & set(sys.modules)"
    )
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


@pytest.mark.parametrize("source", ["nowhere", "~nobody-at-all/x", "a" * 5000, "texture"])
def test_unknown_names_list_what_exists(source):
    says = refused(source)
    assert says.startswith(f"dataset = {source!r}: ")
    assert all(name in says for name in (*NAMES, "hf://", "there is no such")) or "cannot be read" in says


def test_a_file_of_another_kind_is_refused(tmp_path):
    file = tmp_path / "train.zip"
    file.write_bytes(b"PK")
    assert "is no Parquet file; it must be textures" in refused(file)
    (tmp_path / "saved").mkdir()
    (tmp_path / "saved/dataset_dict.json").write_text("{}")
    assert "write it as Parquet" in refused(tmp_path / "saved")


def test_digits_are_scikit_learns():
    splits = load("digits")
    parts = (splits.train, splits.validation, splits.test)
    original = load_digits()
    assert sum(len(part) for part in parts) == len(original.images)
    small = np.concatenate([part.images[:, ::4, ::4] for part in parts])
    assert (np.concatenate([part.images for part in parts]) == small.repeat(4, axis=1).repeat(4, axis=2)).all()
    assert (small[..., 0] == small[..., 1]).all()
    key = lambda image, label: (image.tobytes(), int(label))  # noqa: E731
    got = sorted(map(key, small[..., 0], np.concatenate([part.labels for part in parts])))
    assert got == sorted(map(key, np.rint(original.images * 255 / 16).astype(np.uint8), original.target))
    shares = [np.bincount(part.labels, minlength=10) / np.bincount(original.target) for part in parts]
    for share, expected in zip(shares, (0.6, 0.15, 0.25), strict=True):
        assert abs(share - expected).max() < 0.01


# Parquet


@pytest.mark.parametrize(
    "options", [{}, {"struct": False}, {"image": "img", "label": "fine_label"}, {"names": None}], ids=str
)
def test_parquet_of_each_layout(tmp_path, pictures, encode, write_parquet, options):
    images, labels = pictures
    write_parquet(tmp_path / "pets-train.parquet", map(encode, images), labels, **options)
    write_parquet(tmp_path / "pets-test.parquet", map(encode, images[:4]), labels[:4], **options)
    for source in (tmp_path, tmp_path / "pets", str(tmp_path / "pets")):
        splits = load(source)
        assert_holds(splits.train, images, labels)
        assert_holds(splits.test, images[:4], labels[:4])
        assert splits.validation is None
        assert splits.train.classes == (("0", "1", "2") if "names" in options else CLASSES)
        assert (splits.train.name, splits.test.name) == ("pets/train", "pets/test")


def test_parquet_in_several_files_below_a_data_folder(tmp_path, pictures, encode, write_parquet):
    images, labels = pictures
    (tmp_path / "data").mkdir()
    for part in range(2):
        rows = slice(6 * part, 6 * part + 6)
        path = tmp_path / f"data/train-0000{part}-of-00002.parquet"
        write_parquet(path, map(encode, images[rows]), labels[rows])
    write_parquet(tmp_path / "data/validation-00000-of-00001.parquet", map(encode, images[:3]), labels[:3])
    splits = load(tmp_path)
    assert_holds(splits.train, images, labels)
    assert_holds(splits.validation, images[:3], labels[:3])


def test_a_single_parquet_file_is_training_images(tmp_path, pictures, encode, write_parquet):
    images, labels = pictures
    splits = load(write_parquet(tmp_path / "anything.parquet", map(encode, images), labels))
    assert_holds(splits.train, images, labels)
    assert splits.test is splits.validation is None


def test_two_parquet_sets_in_a_folder_must_be_told_apart(tmp_path, pictures, encode, write_parquet):
    images, labels = pictures
    for name in ("pets", "wild"):
        write_parquet(tmp_path / f"{name}-train.parquet", map(encode, images), labels)
    says = refused(tmp_path)
    assert str(tmp_path / "pets") in says
    assert str(tmp_path / "wild") in says
    assert_holds(load(tmp_path / "wild").train, images, labels)


def test_parquet_names_must_tell_the_split(tmp_path, pictures, encode, write_parquet):
    images, labels = pictures
    write_parquet(tmp_path / "part1.parquet", map(encode, images), labels)
    assert "part1.parquet: its name must be" in refused(tmp_path)
    (tmp_path / "part1.parquet").rename(tmp_path / "test.parquet")
    assert "none of train" in refused(tmp_path)


@pytest.mark.parametrize("label", [3, -1])
@pytest.mark.parametrize("split", ["train", "test"])
@pytest.mark.parametrize("on_bad_image", ["error", "skip"])
def test_a_parquet_label_out_of_range_names_file_and_row(
    tmp_path, pictures, encode, write_parquet, label, split, on_bad_image
):
    images, labels = pictures
    write_parquet(tmp_path / "train.parquet", map(encode, images), labels)
    bad = labels.copy()
    bad[7] = label
    path = write_parquet(tmp_path / f"{split}.parquet", map(encode, images), bad)
    assert refused(tmp_path, on_bad_image=on_bad_image) == f"{path}, row 7: label = {label}: must be in 0..2"


def test_a_missing_parquet_label_is_named(tmp_path, pictures, encode, write_parquet):
    images, labels = pictures
    missing = [None if row == 8 else label for row, label in enumerate(labels)]
    path = write_parquet(tmp_path / "train.parquet", map(encode, images), missing)
    assert refused(path) == f"{path}, row 8: has no label"


@pytest.mark.parametrize("share", [0, 0.5, 0.99])
def test_a_parquet_file_cut_off_is_refused(tmp_path, pictures, encode, write_parquet, share):
    images, labels = pictures
    path = write_parquet(tmp_path / "train.parquet", map(encode, images), labels)
    path.write_bytes(path.read_bytes()[: int(share * path.stat().st_size)])
    says = refused(path)
    assert says.startswith(f"{path}: cannot be read as Parquet (")
    assert "\n" not in says


def test_parquet_data_corrupt_in_the_middle_are_refused(tmp_path, pictures, encode, write_parquet):
    images, labels = pictures
    path = write_parquet(tmp_path / "train.parquet", map(encode, images), labels)
    data = bytearray(path.read_bytes())
    data[4:400] = bytes(396)  # page headers; the footer is intact
    path.write_bytes(data)
    assert str(path) in refused(path)


@pytest.mark.parametrize(
    ("table", "says"),
    [
        ({"picture": [b""], "label": [0]}, "one called image or img is needed"),
        ({"image": [b""], "class": [0]}, "one called label or fine_label is needed"),
        ({"image": ["text"], "label": [0]}, "column image holds string"),
        ({"image": [b""], "label": ["cat"]}, "column label holds string"),
        ({"image": pa.array([], pa.binary()), "label": pa.array([], pa.int64())}, "rows = 0"),
    ],
)
def test_parquet_of_another_schema_is_refused(tmp_path, table, says):
    path = tmp_path / "train.parquet"
    pq.write_table(pa.table(table), path)
    assert refused(path).startswith(f"{path}: ")
    assert says in refused(path)


@pytest.mark.parametrize("metadata", ["{", "[]", '{"info": {}}', '{"info": {"features": {"label": 3}}}'])
def test_parquet_metadata_that_make_no_sense_are_refused(tmp_path, encode, metadata):
    path = tmp_path / "train.parquet"
    table = pa.table({"image": [encode(np.zeros((2, 2), np.uint8))], "label": [0]})
    pq.write_table(table.replace_schema_metadata({"huggingface": metadata}), path)
    assert "huggingface metadata" in refused(path)


def test_bad_parquet_images_are_errors_or_skipped_and_told(tmp_path, pictures, encode, write_parquet):
    images, labels = pictures
    data = [encode(image) for image in images]
    data[1], data[6], data[9] = data[1][:40], b"", None
    path = write_parquet(tmp_path / "train.parquet", data, labels)
    assert refused(path).startswith(f"{path}, row 1: ")
    part = load(path, on_bad_image="skip").train
    good = [row for row in range(12) if row not in (1, 6, 9)]
    assert_holds(part, [images[row] for row in good], labels[good])
    rows = [says.removeprefix(f"{path}, row ").split(":")[0] for says in part.skipped]
    assert rows == ["1", "6", "9"]
    assert "empty" in part.skipped[1]
    assert "no bytes" in part.skipped[2]
    with pytest.raises(InvalidInput, match=r"^on_bad_image = 'ignore'"):
        load(path, on_bad_image="ignore")


def test_a_set_of_bad_images_only_is_refused(tmp_path, write_parquet):
    path = write_parquet(tmp_path / "train.parquet", [b"no", b"no"], [0, 1])
    assert "none of its 2 images can be decoded" in refused(path, on_bad_image="skip")


def test_the_canvas_bounds_images(tmp_path, pictures, encode, write_parquet):
    images, labels = pictures
    path = write_parquet(tmp_path / "train.parquet", map(encode, images), labels)
    part = load(path, canvas=Canvas(4, 6)).train
    assert part.images.shape[1:3] == (6, 6)
    sizes = [Canvas(4, 6).size(*image.shape[:2]) for image in images]
    assert list(zip(part.heights.tolist(), part.widths.tolist(), strict=True)) == sizes


# Folders of images


def by_class(images, labels):
    order = np.argsort(labels, kind="stable")
    return [images[row] for row in order], labels[order]


def test_folders_by_class_and_split(tmp_path, pictures, write_folder):
    images, labels = pictures
    write_folder(tmp_path / "train", images, labels)
    write_folder(tmp_path / "val", images[:6], labels[:6])
    (tmp_path / "train/cat/.DS_Store").write_bytes(b"x")
    (tmp_path / "train/cat/readme.txt").write_bytes(b"x")
    (tmp_path / "train/.cache").mkdir()
    splits = load(tmp_path)
    assert_holds(splits.train, *by_class(images, labels))
    assert_holds(splits.validation, *by_class(images[:6], labels[:6]))
    assert splits.test is None
    assert splits.train.classes == CLASSES


def test_class_folders_alone_are_training_images(tmp_path, pictures, write_folder):
    images, labels = pictures
    write_folder(tmp_path, images, labels)
    splits = load(tmp_path)
    assert_holds(splits.train, *by_class(images, labels))
    assert splits.validation is splits.test is None


def test_damaged_folders_are_named(tmp_path, pictures, write_folder):
    images, labels = pictures
    assert refused(tmp_path).endswith("has no folders of images, one for each class")
    write_folder(tmp_path / "flat", images, labels * 0)
    assert "only 12 images; put them into one, e.g. " in refused(tmp_path / "flat/cat")
    shutil.rmtree(tmp_path / "flat")
    write_folder(tmp_path / "test", images, labels)
    assert "none called train" in refused(tmp_path)
    write_folder(tmp_path / "train", images, labels)
    (tmp_path / "train/fox").mkdir()
    assert refused(tmp_path).startswith(f"{tmp_path / 'train/fox'}: is a class without images")
    (tmp_path / "train/fox").rmdir()
    for file in (tmp_path / "test/emu").iterdir():
        file.unlink()
    (tmp_path / "test/emu").rmdir()
    assert "test: classes = ('cat', 'dog')" in refused(tmp_path)


def test_a_bad_file_is_named(tmp_path, pictures, write_folder):
    images, labels = pictures
    paths = write_folder(tmp_path, images, labels)
    paths[3].write_bytes(b"")
    assert refused(tmp_path) == f"{paths[3]}: is empty (0 bytes)"
    assert load(tmp_path, on_bad_image="skip").train.skipped == (f"{paths[3]}: is empty (0 bytes)",)


def test_a_file_that_disappears_after_the_listing_is_named(tmp_path, pictures, write_folder):
    images, labels = pictures
    paths = write_folder(tmp_path, images, labels)
    train = open_source(tmp_path).train
    assert isinstance(train, EncodedSet)
    paths[0].unlink()
    with pytest.raises(InvalidInput, match=r"cannot be read \(No such file") as caught:
        train[0].read()
    assert str(paths[0]) in str(caught.value)


# CIFAR


def records(label_bytes, labels, seed=0):
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 256, (len(labels), PIXELS), dtype=np.uint8)
    coarse = np.zeros((len(labels), label_bytes - 1), dtype=np.uint8)
    return np.concatenate([coarse, np.array(labels, dtype=np.uint8)[:, None], pixels], axis=1)


def write_cifar10(folder):
    folder.mkdir(exist_ok=True)
    batches = [records(1, [batch, 9 - batch], seed=batch) for batch in range(5)]
    for number, batch in enumerate(batches, start=1):
        (folder / f"data_batch_{number}.bin").write_bytes(batch.tobytes())
    (folder / "test_batch.bin").write_bytes(records(1, [7], seed=9).tobytes())
    return np.concatenate(batches)


def test_cifar10_binary(tmp_path):
    rows = write_cifar10(tmp_path / "cifar-10-batches-bin")
    (tmp_path / "cifar-10-batches-bin/batches.meta.txt").write_text("\n".join("abcdefghij") + "\n\n")
    for folder in (tmp_path, tmp_path / "cifar-10-batches-bin"):
        splits = load(folder)
        assert splits.train.classes == tuple("abcdefghij")
        assert splits.train.labels.tolist() == [0, 9, 1, 8, 2, 7, 3, 6, 4, 5]
        assert (splits.train.name, len(splits.test), splits.test.labels.tolist()) == ("cifar10/train", 1, [7])
        # Planes of red, green and blue, rows within each.
        for row, (channel, y, x) in enumerate([(0, 0, 0), (1, 3, 4), (2, 31, 31), (2, 0, 1)]):
            assert splits.train.images[row, y, x, channel] == rows[row, 1 + channel * 1024 + y * 32 + x]


def test_cifar100_takes_the_fine_label(tmp_path):
    (tmp_path / "train.bin").write_bytes(records(2, [99, 3]).tobytes())
    (tmp_path / "test.bin").write_bytes(records(2, [0]).tobytes())
    splits = load(tmp_path)
    assert splits.train.labels.tolist() == [99, 3]
    assert len(splits.train.classes) == 100


def test_damaged_cifar_is_named(tmp_path):
    write_cifar10(tmp_path)
    file = tmp_path / "data_batch_3.bin"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    assert refused(tmp_path).startswith(f"{file}: bytes = {len(whole) - 1}: must be a multiple of 3073")
    file.write_bytes(records(1, [4, 10]).tobytes())
    assert refused(tmp_path) == f"{file}, row 1: label = 10: must be in 0..9"
    file.unlink()
    assert refused(tmp_path).startswith(f"{file}: cannot be read")
    file.write_bytes(whole)
    (tmp_path / "batches.meta.txt").write_text("cat dog")
    assert "names = 2" in refused(tmp_path)


class Bomb:
    def __reduce__(self):
        return (pytest.fail, ("a pickle was executed",))


@pytest.mark.parametrize("names", [("data_batch_1", "batches.meta"), ("train", "meta")])
def test_pickled_cifar_is_refused_unread(tmp_path, names):
    for name in names:
        (tmp_path / name).write_bytes(pickle.dumps(Bomb()))
    assert "pickled" in refused(tmp_path)
    assert "binary version" in refused(tmp_path)
