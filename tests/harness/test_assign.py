"""The prototype of each image, and the sheet that shows what a prototype stands for."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given as drawn
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from PIL import Image
from tests.harness import in_process
from tests.harness.weights_of import backbone, small, write

from swav_bench import api, assign, prototype_sheet, reading
from swav_bench.features_task import THUMB, Nearest
from swav_bench.prototype_sheet import Shown
from swav_bench.reading import Reading
from swav_data.images import ImageSet, Splits
from swav_data.sources import load
from swav_spec.errors import InvalidInput
from swav_spec.tolerance import bound, error

NUMPY = "numpy_trainer:NumpyTrainer"


@pytest.fixture(autouse=True)
def _here(monkeypatch, request):
    """What a child process does is done here, but for the command's tests, and finds its trainer as a child would."""
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    if not {"command", "main"} & set(request.fixturenames):
        monkeypatch.setattr(reading.children, "run", in_process.run)


def given(tmp_path, data, **changes):
    return Reading(**{"weights": write(tmp_path), "data": str(data), "framework": NUMPY, "batch": 7} | changes)


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_each_row_is_its_images(tmp_path, images_with_test, kind):
    out = tmp_path / f"prototypes.{kind}"
    found = assign.assign(given(tmp_path, images_with_test), out, split="test")
    rows = pd.read_csv(out) if kind == "csv" else pd.read_parquet(out)
    assert list(rows.columns) == ["row", "name", "label", "class", "prototype", "score"]
    data = load(str(images_with_test)).test
    assert list(rows.row) == list(range(16))
    assert list(rows.name[[0, 8]]) == ["test/lying/000.png", "test/upright/000.png"]
    assert list(rows["class"]) == [data.classes[label] for label in data.labels]
    scores = api.load(tmp_path / "small.safetensors", framework=NUMPY).outputs(data.images).scores
    assert np.array_equal(rows.prototype, scores.argmax(axis=1))
    assert error(rows.score.to_numpy(), scores.max(axis=1)) <= bound("float32")
    counts = np.bincount(rows.prototype, minlength=5)
    assert (found["used"], found["largest"]) == ((counts > 0).sum(), counts.max() / 16)
    assert found["used"] > 1
    assert sorted(path.name for path in tmp_path.iterdir()) == [out.name, "small.safetensors"]


def test_the_sheet_shows_the_images_of_the_highest_scores(tmp_path, images_with_test, monkeypatch):
    seen = {}
    draw = prototype_sheet.draw
    monkeypatch.setattr(
        prototype_sheet, "draw", lambda shown, **rest: seen.update(shown=shown, **rest) or draw(shown, **rest)
    )
    out, sheet = tmp_path / "p.csv", tmp_path / "p.png"
    assign.assign(given(tmp_path, images_with_test), out, sheet=sheet, prototypes=3, nearest=4)
    shown = seen["shown"]
    data = load(str(images_with_test)).train
    scores = api.load(tmp_path / "small.safetensors", framework=NUMPY).outputs(data.images).scores
    counts = np.bincount(scores.argmax(axis=1), minlength=5)
    assert np.array_equal(shown.shown, np.argsort(-counts, kind="stable")[:3])
    for row, prototype in enumerate(shown.shown):
        best = np.argsort(-scores[:, prototype].astype(np.float32), kind="stable")[:4]
        assert np.array_equal(shown.rows[row], best)
        assert error(shown.scores[row], scores[best, prototype]) <= bound("float32")
        for column, position in enumerate(best):
            nearest = np.repeat(np.repeat(data.images[position], THUMB // 8, axis=0), THUMB // 8, axis=1)
            assert np.array_equal(shown.pictures[row, column], nearest)
    assert seen["title"].endswith("train: images nearest to the 3 most used of 5 prototypes")
    with Image.open(sheet) as image:
        assert image.format == "PNG"


def test_the_sheet_of_a_set_in_memory_shows_its_own_pixels(tmp_path, monkeypatch):
    draw = np.random.default_rng(5)
    pixels = draw.integers(0, 255, (10, 8, 12, 3), dtype=np.uint8)
    part = ImageSet("some/train", pixels, np.full(10, 8), np.full(10, 12), np.arange(10) % 2, ("a", "b"))
    monkeypatch.setattr("swav_bench.features_task.open_source", lambda source: Splits(train=part))
    seen = {}
    monkeypatch.setattr(prototype_sheet, "draw", lambda shown, **rest: seen.update(shown=shown) or b"")
    assign.assign(given(tmp_path, "some"), tmp_path / "p.csv", sheet=tmp_path / "p.png", prototypes=1, nearest=3)
    shown = seen["shown"]
    for row, picture in zip(shown.rows[0], shown.pictures[0], strict=True):
        square = pixels[row, :, 2:10]  # the middle of 12 columns
        assert np.array_equal(picture, np.repeat(np.repeat(square, THUMB // 8, axis=0), THUMB // 8, axis=1))


def test_a_sheet_that_cannot_be_written_is_one_sentence(tmp_path, images_with_test):
    (tmp_path / "p.png").mkdir()
    with pytest.raises(InvalidInput, match=r"^sheet = .*p\.png': cannot be written \(Is a directory\)$"):
        assign.assign(given(tmp_path, images_with_test), tmp_path / "p.csv", split="test", sheet=tmp_path / "p.png")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.csv", "p.png", "small.safetensors"]


def shown_of(pictures, labels=(0, 0, 1), prototype=(2, 2, 2)):
    return Shown(
        shown=np.array([2]),
        rows=np.array([[0, 2]]),
        scores=np.array([[0.9, 0.8]]),
        pictures=pictures,
        prototype=np.array(prototype),
        labels=np.array(labels),
        classes=("a", "b"),
    )


def pixels_of(shown):
    return np.asarray(Image.open(io.BytesIO(prototype_sheet.draw(shown, title="t"))).convert("RGB")).astype(int)


def test_a_sheet_draws_each_picture_and_frames_the_main_class():
    pictures = np.full((1, 2, 8, 8, 3), 200, dtype=np.uint8)
    plain = pixels_of(shown_of(pictures))
    red = pictures.copy()
    red[0, 1] = (255, 0, 0)
    changed = np.argwhere((pixels_of(shown_of(red)) != plain).any(axis=-1))
    height, width = changed.max(axis=0) - changed.min(axis=0) + 1
    side = prototype_sheet.SIDE * prototype_sheet.DPI
    assert abs(height - side) <= 4
    assert abs(width - side) <= 4
    green = (plain == (0x2C, 0xA0, 0x2C)).all(axis=-1)
    assert green.sum() > 2 * side  # of the first image alone
    assert np.argwhere(green)[:, 1].max() < changed[:, 1].min()
    # With both of the main class, both are framed.
    both = (pixels_of(shown_of(pictures, labels=(0, 0, 0))) == (0x2C, 0xA0, 0x2C)).all(axis=-1)
    assert both.sum() > 1.8 * green.sum()


def test_what_is_said_of_a_prototype():
    shown = shown_of(np.zeros((1, 2, 8, 8, 3), np.uint8), labels=(0, 0, 1, 1), prototype=(2, 2, 2, 0))
    assert prototype_sheet._about(shown, 2, np.array([2, 1])) == ["prototype 2", "3 images, 75.0 %", "67 % a"]
    assert prototype_sheet._about(shown, 1, np.array([0, 0])) == ["prototype 1", "0 images, 0.0 %"]
    long = shown._replace(classes=("a" * 40, "b"))
    assert prototype_sheet._about(long, 2, np.array([2, 1]))[2] == "67 % " + "a" * 23 + "…"


@drawn(
    scores=hnp.arrays(
        np.float32, st.tuples(st.integers(1, 12), st.integers(1, 4)), elements=st.sampled_from([-1.0, 0.0, 0.5])
    ),
    count=st.integers(1, 5),
    batch=st.integers(1, 12),
)
def test_nearest_is_the_same_in_batches(scores, count, batch):
    count = min(count, len(scores))
    nearest = Nearest(scores.shape[1], count)
    for start in range(0, len(scores), batch):
        nearest.add(scores[start : start + batch], start)
    expected = np.argsort(-scores, axis=0, kind="stable")[:count].T
    assert np.array_equal(nearest.rows, expected)
    assert np.array_equal(nearest.scores, np.take_along_axis(scores.T, expected, axis=1))


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"out": "p.txt"}, r"out = .* must be a file that ends in \.parquet or \.csv"),
        ({"sheet": "p.jpg"}, r"out = .* must be a file that ends in \.png"),
        ({"sheet": "nowhere/p.png"}, "in a folder that exists"),
        ({"split": "exam"}, "split = 'exam'"),
        ({"split": "validation"}, "split = 'validation': must be one that"),
        ({"prototypes": 0}, r"prototypes = 0: must be in 1\.\.200"),
        ({"nearest": 201}, "nearest = 201"),
    ],
)
def test_mistakes_get_a_sentence(tmp_path, images_with_test, changes, says):
    options = {"out": "p.csv"} | changes
    if "sheet" in options:
        options["sheet"] = tmp_path / options["sheet"]
    reads = given(tmp_path, images_with_test)
    with pytest.raises(InvalidInput, match=says):
        assign.assign(reads, tmp_path / options.pop("out"), **options)
    assert [path.name for path in tmp_path.iterdir()] == ["small.safetensors"]


def test_a_backbone_alone_has_no_prototypes(tmp_path, images_with_test):
    reads = given(tmp_path, images_with_test, weights=write(tmp_path, backbone(small()), "backbone.safetensors"))
    with pytest.raises(InvalidInput, match="A prototype for each image needs head and prototypes"):
        assign.assign(reads, tmp_path / "p.csv")


def test_the_command(command, tmp_path, images_with_test):
    write(tmp_path)
    done = command(
        "assign", "--weights", "small.safetensors", "--data", images_with_test, "-f", NUMPY, "--out", "p.csv"
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith(f"p.csv, p.png: 96 train images of {images_with_test.name}; ")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["p.csv", "p.png", "small.safetensors"]


def test_a_framework_that_fails_is_one_sentence_and_exit_code_1(main, tmp_path, images_with_test):
    write(tmp_path)
    done = main("assign", "--weights", "small.safetensors", "--data", images_with_test, "-f", "numpy_trainer:Broken")
    assert done == (
        1,
        "",
        "swav-bench: numpy_trainer:Broken: while reading the train images: RuntimeError: the device has gone\n",
    )
    assert [path.name for path in tmp_path.iterdir()] == ["small.safetensors"]
