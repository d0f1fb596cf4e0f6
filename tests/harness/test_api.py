"""The Python API: images of every kind in, the network's own answers out."""

from __future__ import annotations

import dataclasses
import io

import numpy as np
import pytest
from PIL import Image
from tests.harness.numpy_trainer import NotFinite, NumpyTrainer
from tests.harness.weights_of import SMALL, backbone, small, write

from swav_bench import api, checkpoint
from swav_bench.api import Model
from swav_spec import registry, views
from swav_spec.config import Augmentation, Config, CropGroup, Execution, Schedule
from swav_spec.errors import InvalidInput
from swav_spec.multicrop import central_plan
from swav_spec.optimizer import normalize_rows
from swav_spec.testing.images import random_images
from swav_spec.testing.reference_network import Pass
from swav_spec.tolerance import bound, error

CLASS = "tests.harness.numpy_trainer:NumpyTrainer"


def model(found=None, **options):
    return Model(found or small(), NumpyTrainer(Execution(precision="float64")), **options)


def expected(found, images, *, share, size=8):
    """Features, embeddings and scores of images [N, H, W, 3], by the specification."""
    heights, widths = (np.full(len(images), side) for side in images.shape[1:3])
    config = api.Central((size,), found.augmentation)
    plan = central_plan(size, heights, widths, share=share)
    weights = found.tensors | {"prototypes.weight": normalize_rows(found.tensors["prototypes.weight"])}
    outcome = Pass(found.network, weights, views.views(images, plan, config), train=False)
    return outcome.features, outcome.embeddings, outcome.scores


def test_images_as_large_as_the_view_are_seen_whole():
    images = random_images(1, 9, 8, 8)[4:]
    found = dataclasses.replace(small(), augmentation=Augmentation(mean=(0.1, 0.2, 0.3), std=(0.5, 0.6, 0.7)))
    for got, wanted in zip(model(found).outputs(images), expected(found, images, share=1), strict=True):
        assert error(got, wanted) <= bound("float64")
    whole = views.normalised(images, api.Central((8,), found.augmentation))
    assert error(model(found).embed(images), Pass(SMALL, found.tensors, [whole], train=False).features) <= bound(
        "float64"
    )


@pytest.mark.parametrize(("share", "options"), [(224 / 256, {}), (0.5, {"share": 0.5})])
def test_of_other_images_the_middle_is_seen(share, options):
    images = random_images(2, 7, 24, 17)[4:]
    found = small()
    for got, wanted in zip(model(found, **options).outputs(images), expected(found, images, share=share), strict=True):
        assert error(got, wanted) <= bound("float64")
    # A strip that no central square reaches does not matter; the middle does.
    edge, middle = images.copy(), images.copy()
    edge[:, 0], middle[:, 12] = 0, 0
    plain = model(found, **options).embed(images)
    assert np.array_equal(model(found, **options).embed(edge), plain)
    assert not np.array_equal(model(found, **options).embed(middle), plain)


def test_batches_make_no_difference():
    images = random_images(3, 11, 8, 8)
    whole = model(batch=16).embed(images)
    for batch in (1, 4, 11):
        assert error(model(batch=batch).embed(images), whole) <= bound("float64")


def test_paths_pictures_and_arrays_of_several_sizes_are_one(tmp_path):
    arrays = [random_images(number, 5, *size)[4] for number, size in enumerate([(8, 8), (20, 30), (31, 9)])]
    paths = []
    for number, array in enumerate(arrays):
        paths.append(tmp_path / f"{number}.png")
        Image.fromarray(array).save(paths[-1])
    one_by_one = np.concatenate([model().embed(array[None]) for array in arrays])
    for images in (arrays, paths, [str(path) for path in paths], [Image.open(path) for path in paths]):
        assert error(model().embed(images), one_by_one) <= bound("float64")
    grey = Image.fromarray(arrays[1][:, :, 0])
    three = np.repeat(arrays[1][:, :, :1], 3, axis=2)
    assert np.array_equal(model().embed([grey]), model().embed([three]))


def test_large_images_shrink_to_the_canvas():
    large = random_images(5, 5, 700, 900)[4]
    assert model(size=8).embed([large, large[:40, :50]]).shape == (2, SMALL.features)
    assert api.canvas_of(8, 0.875).resize_short == 256
    assert api.canvas_of(384, 0.5).resize_short == 768  # the middle keeps its pixels


def test_assign_is_the_prototype_of_the_largest_score():
    images = random_images(6, 30, 8, 8)
    found = model()
    scores = found.outputs(images).scores
    assert np.array_equal(found.assign(images), scores.argmax(axis=1))
    assert (np.abs(scores) <= 1 + bound("float64")).all()
    assert len(np.unique(found.assign(images))) > 1


def test_load_reads_converted_files_and_runs(tmp_path):
    images = random_images(7, 6, 8, 8)
    found = small()
    by_file = api.load(write(tmp_path), framework=CLASS)
    config = Config(
        batch=4,
        crops=(CropGroup(8, 2, (0.5, 1.0)),),
        network=SMALL,
        schedule=Schedule(10, 0.1),
        augmentation=Augmentation(mean=(0.1, 0.2, 0.3)),
    )
    arrays = {f"model/{name}": tensor for name, tensor in found.tensors.items()} | {"step": np.array(3)}
    checkpoint.save(tmp_path / "run" / "checkpoints", checkpoint.Checkpoint(config, arrays))
    by_run = api.load(str(tmp_path / "run"), framework=CLASS)
    assert (by_file.size, by_run.size) == (8, 8)
    assert np.array_equal(by_file.embed(images), model(found).embed(images))
    other = dataclasses.replace(found, augmentation=config.augmentation)
    assert np.array_equal(by_run.embed(images), model(other).embed(images))
    assert api.load(tmp_path / "run", framework=CLASS, size=16).size == 16


def test_a_backbone_alone_gives_features_only():
    images = random_images(8, 5, 8, 8)
    found = backbone(small())
    assert np.array_equal(model(found).embed(images), model().embed(images))
    with pytest.raises(InvalidInput, match="A prototype for each image needs head and prototypes"):
        model(found).assign(images)


@pytest.mark.parametrize(
    ("images", "says"),
    [
        (np.zeros((0, 8, 8, 3), np.uint8), "images = 0: must be at least one"),
        ([], "images = 0: must be at least one"),
        (np.zeros((2, 8, 8, 3)), r"images = \(\(2, 8, 8, 3\), 'float64'\): must be \[N, H, W, 3\] uint8"),
        (np.zeros((8, 8, 3), np.uint8), r"images = \(\(8, 8, 3\), 'uint8'\)"),
        ([np.zeros((8, 8), np.uint8)], "image = .*: must be a path, a PIL image or an array"),
        (["absent.png"], "absent.png: cannot be read"),
    ],
)
def test_mistakes_get_a_sentence(images, says):
    with pytest.raises(InvalidInput, match=says):
        model().embed(images)


def test_central_views_are_the_same_by_their_crops_and_by_their_resolutions():
    """A stranger's implementation may look at either."""
    central = api.Central((8, 32), Augmentation())
    assert [(group.size, group.count) for group in central.crops] == list(central.resolutions) == [(8, 1), (32, 1)]


def test_what_cannot_be_asked_is_refused(tmp_path):
    for options, says in (
        ({"share": 0}, "share = 0"),
        ({"batch": 0}, "batch = 0"),
        ({"size": 0}, "crop size = 0"),
        ({"framework": "caffe"}, "implementation = 'caffe'"),
        ({"framework": "numpy"}, "one that has networks"),
    ):
        with pytest.raises(InvalidInput, match=says):
            api.load(write(tmp_path), **{"framework": CLASS} | options)
    with pytest.raises(InvalidInput, match="they give features that are not finite"):
        Model(small(), NotFinite(Execution())).embed(random_images(1, 5, 8, 8))


def test_the_readmes_lines(tmp_path):
    """In a framework, since a Python user has one; whether all three agree is tested in tests/parity."""
    path = write(tmp_path)
    picture = io.BytesIO()
    Image.fromarray(random_images(9, 5, 20, 16)[4]).save(picture, "png")
    (tmp_path / "cat.png").write_bytes(picture.getvalue())
    found = api.load(path, framework="torch")
    features = found.embed([tmp_path / "cat.png"])
    assert (features.shape, features.dtype) == ((1, SMALL.features), np.float32)
    reference = api.load(path, framework=CLASS).embed([tmp_path / "cat.png"])
    assert error(features, reference) <= bound("float32", depth=4 * 6)


def test_whole_images_are_what_embed_of_the_contract_sees():
    trainer = registry.load("torch")
    images = random_images(10, 12, 8, 8)
    found = Model(small(), trainer)
    features, embeddings = trainer.embed(found._state, trainer.to_device(images))
    outputs = found.outputs(images)
    for got, wanted in ((outputs.features, features), (outputs.embeddings, embeddings)):
        assert error(got, trainer.to_host(wanted)) <= bound("float32", depth=4 * 6)
