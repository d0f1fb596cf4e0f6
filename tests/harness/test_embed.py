"""Features of every image, as a file: each row is its image's, and nothing is left behind when something fails."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image
from tests.harness import in_process
from tests.harness.weights_of import SMALL, backbone, small, write

from swav_bench import api, embed, reading
from swav_bench.reading import Reading
from swav_data.images import ImageSet, Splits
from swav_spec.errors import InvalidInput
from swav_spec.testing.images import random_images
from swav_spec.tolerance import bound, error

NUMPY = "numpy_trainer:NumpyTrainer"
ROUNDED = bound("float32")  # the file holds float32


@pytest.fixture
def here(monkeypatch):
    """No child process: what it does is done here, and finds its trainer as a child would."""
    monkeypatch.setattr(reading.children, "run", in_process.run)
    monkeypatch.syspath_prepend(str(Path(__file__).parent))


@pytest.fixture
def pictures(tmp_path):
    """A folder of images of two classes and several sizes: 5 for training, 3 to test."""
    for split, sizes in (("train", [(8, 8), (20, 30), (31, 9), (8, 9), (16, 16)]), ("test", [(12, 8), (8, 8), (9, 9)])):
        for number, size in enumerate(sizes):
            place = tmp_path / "images" / split / ("one" if number < 2 else "two")
            place.mkdir(parents=True, exist_ok=True)
            Image.fromarray(random_images(10 * len(sizes) + number, 5, *size)[4]).save(place / f"{number}.png")
    return tmp_path / "images"


def given(tmp_path, data, **changes):
    return Reading(**{"weights": write(tmp_path), "data": str(data), "framework": NUMPY, "batch": 2} | changes)


def rows_of(path):
    return pq.read_table(path).to_pandas()


@pytest.mark.usefixtures("here")
def test_each_row_is_its_images(tmp_path, pictures):
    out = tmp_path / "features.parquet"
    found = embed.embed(given(tmp_path, pictures), out, embeddings=True)
    rows = rows_of(out)
    assert list(rows.columns) == ["split", "row", "name", "label", "class", "features", "embeddings"]
    assert list(rows.split) == ["train"] * 5 + ["test"] * 3
    assert list(rows.row) == [*range(5), *range(3)]
    assert list(rows.name[:3]) == ["train/one/0.png", "train/one/1.png", "train/two/2.png"]
    assert list(rows["class"]) == ["one", "one", "two", "two", "two", "one", "one", "two"]
    assert list(rows.label) == [0, 0, 1, 1, 1, 0, 0, 1]
    outputs = api.load(tmp_path / "small.safetensors", framework=NUMPY).outputs([pictures / name for name in rows.name])
    for kind, width in (("features", SMALL.features), ("embeddings", SMALL.embedding)):
        stored = np.stack(rows[kind])
        assert (stored.shape, stored.dtype) == ((8, width), np.float32)
        assert error(stored, getattr(outputs, kind)) <= ROUNDED
    assert found["splits"] == {
        split: {"samples": count, "skipped": 0, "skipped_reasons": []} for split, count in (("train", 5), ("test", 3))
    }
    assert found["weights"] == {"network": "a network of its own", "prototypes": 5, "origin": {"file": "small"}}
    assert sorted(path.name for path in tmp_path.iterdir()) == ["features.parquet", "images", "small.safetensors"]


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize("rows", [2, 3, 100])
def test_the_batch_and_the_tables_length_make_no_difference(tmp_path, pictures, monkeypatch, rows):
    monkeypatch.setattr(embed, "ROWS", rows)
    for batch in (1, 3, 64):
        embed.embed(given(tmp_path, pictures, batch=batch), tmp_path / f"{batch}.parquet", splits=["train"])
        assert list(rows_of(tmp_path / f"{batch}.parquet").row) == list(range(5))
    one, *others = (np.stack(rows_of(tmp_path / f"{batch}.parquet").features) for batch in (1, 3, 64))
    for other in others:
        assert error(other, one) <= ROUNDED


@pytest.mark.usefixtures("here")
def test_a_set_in_memory_and_a_split_of_it(tmp_path, monkeypatch):
    images = random_images(3, 11, 8, 8)
    part = ImageSet("some/test", images, np.full(11, 8), np.full(11, 8), np.arange(11) % 2, ("a", "b"))
    monkeypatch.setattr("swav_bench.features_task.open_source", lambda source: Splits(train=part, test=part))
    embed.embed(given(tmp_path, "some"), tmp_path / "f.parquet", splits=["test"])
    rows = rows_of(tmp_path / "f.parquet")
    assert set(rows.split) == {"test"}
    assert list(rows.name) == [f"row {row}" for row in range(11)]
    wanted = api.load(tmp_path / "small.safetensors", framework=NUMPY).embed(images)
    assert error(np.stack(rows.features), wanted) <= ROUNDED


@pytest.mark.usefixtures("here")
def test_bad_images_stop_it_or_are_left_out(tmp_path, pictures):
    (pictures / "train" / "one" / "0.png").write_bytes(b"no image")
    out = tmp_path / "features.parquet"
    with pytest.raises(InvalidInput, match=r"0\.png: is not an image"):
        embed.embed(given(tmp_path, pictures), out)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images", "small.safetensors"]
    found = embed.embed(given(tmp_path, pictures, on_bad_image="skip"), out)
    rows = rows_of(out)
    assert list(rows.name[:2]) == ["train/one/1.png", "train/two/2.png"]
    assert (found["splits"]["train"]["samples"], found["splits"]["train"]["skipped"]) == (4, 1)
    wanted = api.load(tmp_path / "small.safetensors", framework=NUMPY).embed([pictures / name for name in rows.name])
    assert error(np.stack(rows.features), wanted) <= ROUNDED


@pytest.mark.usefixtures("here")
@pytest.mark.parametrize(
    ("changes", "arguments", "says"),
    [
        ({"weights": "absent"}, {}, "weights .*absent: there is no such file or folder"),
        ({"data": "nothing"}, {}, "dataset = 'nothing'"),
        ({"framework": "caffe"}, {}, "caffe is not installed"),
        ({"size": 0}, {}, "crop size = 0"),
        ({"share": 2.0}, {}, r"share = 2\.0"),
        ({"batch": 0}, {}, "batch = 0"),
        ({"on_bad_image": "burn"}, {}, "on_bad_image = 'burn'"),
        ({}, {"splits": ["exam"]}, "split = 'exam': must be one of train"),
        ({}, {"splits": ["validation"]}, "split = 'validation': must be one that .* has: train, test"),
        ({}, {"out": "features.csv"}, r"out = .* must be a file that ends in \.parquet"),
        ({}, {"out": "nowhere/features.parquet"}, "out = .* in a folder that exists"),
        ({}, {"out": "/proc/features.parquet"}, r"^out = '/proc': cannot be written \("),
        ({}, {"out": "taken.parquet"}, r"^out = .*taken\.parquet': cannot be written \(Is a directory\)"),
        ({"framework": "fake:WithoutGpu", "device": "gpu"}, {}, "fake:WithoutGpu cannot use a GPU here: device = "),
        ({"framework": "numpy_trainer:NotFinite"}, {}, "features that are not finite"),
    ],
)
def test_mistakes_get_a_sentence(tmp_path, pictures, changes, arguments, says):
    if "weights" in changes:
        changes = {"weights": tmp_path / changes["weights"]}
    reads = given(tmp_path, **{"data": pictures} | changes)
    (tmp_path / "taken.parquet").mkdir()
    before = sorted(tmp_path.iterdir())
    with pytest.raises(InvalidInput, match=says):
        embed.embed(reads, tmp_path / arguments.pop("out", "f.parquet"), **arguments)
    assert sorted(tmp_path.iterdir()) == before


@pytest.mark.usefixtures("here")
def test_a_backbone_alone_has_features_but_no_embeddings(tmp_path, pictures):
    reads = given(tmp_path, pictures, weights=write(tmp_path, backbone(small()), "backbone.safetensors"))
    with pytest.raises(InvalidInput, match="An embedding of each image needs head and prototypes"):
        embed.embed(reads, tmp_path / "f.parquet", embeddings=True)
    embed.embed(reads, tmp_path / "f.parquet")
    embed.embed(given(tmp_path, pictures), tmp_path / "g.parquet")
    assert error(*(np.stack(rows_of(tmp_path / name).features) for name in ("f.parquet", "g.parquet"))) <= ROUNDED


def test_the_command_and_a_framework_that_fails(command, tmp_path, pictures):
    """Through real processes, which import the trainer from tests/harness."""
    write(tmp_path)
    arguments = ("embed", "--weights", "small.safetensors", "--data", pictures, "--batch", 4, "-f")
    done = command(*arguments, "numpy_trainer:NumpyTrainer", "--split", "test", "--out", "f.parquet")
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "f.parquet: features of 3 test images of images, by a network of its own\n"
    assert len(rows_of(tmp_path / "f.parquet")) == 3
    done = command(*arguments, "numpy_trainer:Broken", "--out", "g.parquet")
    assert done.returncode == 1
    assert done.stderr == (
        "swav-bench: numpy_trainer:Broken: while reading the train images: RuntimeError: the device has gone\n"
    )
    done = command(*arguments, "numpy_trainer:NumpyTrainer", "--device", "tpu")
    assert done.returncode == 2
    assert done.stderr == "swav-bench: device = 'tpu': must be cpu or gpu\n"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["f.parquet", "images", "small.safetensors"]
