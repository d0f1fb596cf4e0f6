"""Names of the Hugging Face Hub, with a library of the same shape in the place of `datasets`, and with the real one."""

from __future__ import annotations

import importlib.util
import sys
from types import ModuleType

import numpy as np
import pytest

from swav_data.hub import Name, parse
from swav_data.sources import load, open_source, public_name
from swav_spec.errors import InvalidInput

CLASSES = ("cat", "dog", "emu")


class Image:
    def __init__(self, decode=True):
        self.decode = decode


class ClassLabel:
    def __init__(self, names=CLASSES):
        self.names = list(names)


class Value:
    pass


class Rows:
    """Rows of a split, as `datasets.Dataset` gives them."""

    def __init__(self, columns, features):
        self.columns, self.features = columns, features

    def select_columns(self, names):
        return Rows({name: self.columns[name] for name in names}, {name: self.features[name] for name in names})

    def cast_column(self, name, feature):
        return Rows(self.columns, self.features | {name: feature})

    def __getitem__(self, key):
        if isinstance(key, str):
            return self.columns[key]
        for feature in self.features.values():
            assert not isinstance(feature, Image) or not feature.decode, "the library would decode this image"
        return {name: column[key] for name, column in self.columns.items()}


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """Puts data sets where the library would find them: name -> split -> rows; gives what was asked for."""
    library = ModuleType("datasets")
    library.__version__ = "5.2.0"
    library.Image, library.ClassLabel, library.known, library.asked = Image, ClassLabel, {}, []

    def load_dataset(path, name=None, *, split=None, revision=None):
        library.asked.append((path, name, split, revision))
        if path not in library.known:
            raise FileNotFoundError(f"Dataset '{path}' doesn't exist on the Hub or cannot be accessed.\nTry another.")
        return library.known[path][split] if split else library.known[path]

    library.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", library)
    monkeypatch.chdir(tmp_path)
    return library


@pytest.fixture
def rows(pictures, encode):
    """(image column, label column, options) -> the twelve pictures."""
    images, labels = pictures

    def make(image="image", label="label", *, labels=labels, names=CLASSES, kind=Image, **others):
        data = [{"bytes": encode(pixels), "path": None} for pixels in images]
        features = {image: kind(), label: ClassLabel(names) if names else Value()}
        columns = {image: data, label: list(map(int, labels))} | {name: [0] * 12 for name in others}
        return Rows(columns, features | {name: feature() for name, feature in others.items()})

    return make


def assert_pictures(part, pictures):
    for canvas, pixels in zip(part.images, pictures[0], strict=True):
        assert np.array_equal(canvas[: len(pixels), : pixels.shape[1]], pixels)
    assert np.array_equal(part.labels, pictures[1])


@pytest.mark.parametrize(
    ("source", "name"),
    [
        ("hf://uoft-cs/cifar10", Name("uoft-cs/cifar10", None)),
        ("hf://a/b:train[:1%]", Name("a/b", "train[:1%]")),
        ("hf://a/b.c:test?config=x&revision=v1&image=img&label=y", Name("a/b.c", "test", "x", "v1", "img", "y")),
    ],
)
def test_what_a_name_asks_for(source, name):
    assert parse(source) == name
    assert public_name(source) == source


@pytest.mark.parametrize(
    "source", ["hf://", "hf://a", "hf://a/b/c", "hf://a/b?split=x", "hf://a/b?image=", "hf://a/b?x"]
)
def test_names_of_another_form_are_refused(hub, source):
    with pytest.raises(InvalidInput, match=r"^dataset = 'hf://.* must be hf://OWNER/NAME\[:SPLIT\]"):
        open_source(source)
    assert not hub.asked


def test_splits_become_ours_and_stay_encoded(hub, rows, pictures):
    hub.known["a/b"] = {"train": rows(), "valid": rows(), "test": rows(), "extra": rows()}
    opened = open_source("hf://a/b")
    assert opened.train[3].data == hub.known["a/b"]["train"].columns["image"][3]["bytes"]
    assert opened.train[3].where == "hf://a/b train, row 3"
    splits = load("hf://a/b")
    for part in (splits.train, splits.validation, splits.test):
        assert_pictures(part, pictures)
        assert part.classes == CLASSES
    assert splits.train.name == "a/b/train"
    assert hub.asked[0] == ("a/b", None, None, None)


def test_a_named_split_is_the_training_images(hub, rows, pictures):
    hub.known["a/b"] = {"unsupervised": rows("photo", "kind")}
    splits = load("hf://a/b:unsupervised?config=big&revision=v2&image=photo&label=kind")
    assert_pictures(splits.train, pictures)
    assert splits.test is splits.validation is None
    assert hub.asked == [("a/b", "big", "unsupervised", "v2")]
    with pytest.raises(
        InvalidInput, match=r"has splits unsupervised but none of train; name one of them after a colon"
    ):
        open_source("hf://a/b")


def test_columns_are_found_by_their_names_or_their_kinds(hub, rows, pictures):
    usual = rows("img", "fine_label", coarse_label=ClassLabel, other=Image)
    kinds = rows("photo", "species", number=Value)
    for found in (usual, kinds):
        hub.known["a/b"] = {"train": found}
        assert_pictures(load("hf://a/b").train, pictures)


@pytest.mark.parametrize(
    ("columns", "query", "says"),
    [
        ({"image": "photo", "other": Image}, "", "say which is the image with ?image=COLUMN"),
        ({"label": "species", "other": ClassLabel}, "", "say which is the label with ?label=COLUMN"),
        ({}, "?image=photo", "image column = 'photo': must be one of image, label"),
        ({"names": None, "label": "species"}, "", "say which is the label"),
    ],
)
def test_columns_that_cannot_be_told_are_asked_for(hub, rows, columns, query, says):
    hub.known["a/b"] = {"train": rows(**columns)}
    with pytest.raises(InvalidInput) as caught:
        open_source("hf://a/b" + query)
    assert says in str(caught.value)


def test_integers_without_names_are_numbered(hub, rows):
    hub.known["a/b"] = {"train": rows(names=None)}
    assert open_source("hf://a/b").train.classes == ("0", "1", "2")


def test_a_split_whose_labels_nobody_knows_is_none(hub, rows):
    hub.known["a/b"] = {"train": rows(), "validation": rows(), "test": rows(labels=[-1] * 12)}
    splits = open_source("hf://a/b")
    assert splits.test is None
    assert splits.evaluation is splits.validation
    hub.known["a/b"] = {"train": rows(labels=[-1] * 12)}
    with pytest.raises(InvalidInput, match="no image has a label"):
        open_source("hf://a/b")


@pytest.mark.parametrize(
    ("label", "says"),
    [(3, "row 7: label = 3: must be in 0..2"), (-1, "row 7: label = -1"), (None, "holds None"), ("x", "holds 'x'")],
)
def test_a_bad_label_names_the_row(hub, rows, label, says):
    hub.known["a/b"] = {"train": rows()}
    hub.known["a/b"]["train"].columns["label"][7] = label
    with pytest.raises(InvalidInput, match=r"^hf://a/b train, row 7: ") as caught:
        open_source("hf://a/b")
    assert says in str(caught.value)


def test_bad_images_are_named(hub, rows, tmp_path, encode, pictures):
    hub.known["a/b"] = {"train": rows()}
    column = hub.known["a/b"]["train"].columns["image"]
    (tmp_path / "beside.png").write_bytes(encode(pictures[0][0]))
    column[0] = {"bytes": None, "path": str(tmp_path / "beside.png")}
    column[2] = {"bytes": None, "path": str(tmp_path / "gone.png")}
    column[5] = {"bytes": b"", "path": None}
    column[6] = {"bytes": None, "path": None}
    part = load("hf://a/b", on_bad_image="skip").train
    assert np.array_equal(part.images[0, :5, :9], pictures[0][0])
    assert [says.split(":")[1] for says in part.skipped] == [f"//a/b train, row {row}" for row in (2, 5, 6)]
    assert "No such file" in part.skipped[0]


def test_what_cannot_be_had_is_one_sentence(hub):
    with pytest.raises(InvalidInput) as caught:
        open_source("hf://no/body")
    assert str(caught.value) == (
        "dataset = 'hf://no/body': cannot be had (FileNotFoundError: Dataset 'no/body' doesn't exist on the Hub or "
        "cannot be accessed.)"
    )


def test_a_folder_of_the_same_name_is_not_taken_for_it(hub, rows, tmp_path):
    hub.known["a/b"] = {"train": rows()}
    (tmp_path / "a/b").mkdir(parents=True)
    with pytest.raises(InvalidInput, match="named without hf:// if the folder a/b is meant"):
        open_source("hf://a/b")


def test_a_release_that_may_run_code_of_others_is_refused(hub):
    hub.__version__ = "3.6.0"
    with pytest.raises(InvalidInput, match=r"^datasets = '3\.6\.0': must be 4 or later"):
        open_source("hf://a/b")
    assert not hub.asked


def test_a_missing_library_says_what_to_install(monkeypatch):
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(InvalidInput, match=r"pip install 'swav-bench\[hf\]'$"):
        open_source("hf://a/b")


@pytest.mark.skipif(importlib.util.find_spec("datasets") is None, reason="the library `datasets` is not installed")
@pytest.mark.filterwarnings("ignore")
def test_the_real_library_reads_the_same(monkeypatch, tmp_path, pictures, encode, write_parquet):
    import datasets

    images, labels = pictures
    (tmp_path / "a/b").mkdir(parents=True)
    for split, count in (("train", 12), ("test", 5)):
        path = tmp_path / f"a/b/{split}-00000-of-00001.parquet"
        write_parquet(path, map(encode, images[:count]), labels[:count])
    original = datasets.load_dataset
    monkeypatch.setattr(
        datasets,
        "load_dataset",
        lambda path, name, **options: original(
            str(tmp_path / path), name, cache_dir=str(tmp_path / "cache"), **options
        ),
    )
    splits = load("hf://a/b")
    assert_pictures(splits.train, pictures)
    assert_pictures(splits.test, (images[:5], labels[:5]))
    assert splits.train.classes == CLASSES
    assert_pictures(load("hf://a/b:train[:5]").train, (images[:5], labels[:5]))
