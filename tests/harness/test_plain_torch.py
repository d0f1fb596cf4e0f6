"""The peer in plain PyTorch: what it does not claim to the contract is right for SwAV, and the gate lets it pass."""

from __future__ import annotations

import numpy as np
import pytest

from swav_spec import loss, optimizer, queue, recipes, registry, sinkhorn
from swav_spec import views as specified
from swav_spec.config import Execution
from swav_spec.multicrop import crop_plan
from swav_spec.testing.assertions import PIPELINE_LEVELS, assert_close
from swav_spec.testing.images import random_images

RANDOM = np.random.default_rng(4)


@pytest.fixture(scope="module")
def plain():
    return registry.load("plain-torch", Execution(precision="float64"))


@pytest.fixture(scope="module")
def cosines():
    embeddings = optimizer.normalize_rows(RANDOM.normal(size=(6, 12, 8)))
    prototypes = optimizer.normalize_rows(RANDOM.normal(size=(5, 8)))
    return embeddings, prototypes, embeddings @ prototypes.T


@pytest.mark.parametrize("keep", [None, 3])
def test_its_loop_gives_the_codes_of_cosines(plain, cosines, keep):
    scores = cosines[2][0]
    found = plain.timed_maths.sinkhorn(plain.to_device(scores), epsilon=0.05, iterations=3, keep=keep)
    expected = sinkhorn.sinkhorn(scores, epsilon=0.05, iterations=3, keep=keep)
    assert_close(plain.to_host(found), expected, precision="float64", what="codes")


def test_its_pairs_give_the_loss_and_its_gradient(plain, cosines):
    scores = cosines[2]
    codes = np.stack([sinkhorn.sinkhorn(scores[view], epsilon=0.05) for view in (1, 0)])
    settings = {"temperature": 0.1, "assigned": (1, 0)}
    found = plain.timed_maths.swapped_loss(plain.to_device(scores), plain.to_device(codes), **settings)
    expected = loss.swapped_loss(scores, codes, **settings)
    for part, wanted, what in zip(found, expected, ("loss", "gradient"), strict=True):
        assert_close(plain.to_host(part), wanted, precision="float64", what=what)


def test_its_queue(plain, cosines):
    embeddings, prototypes, _ = cosines
    rows, new = embeddings[:2], embeddings[2:4, :5]
    maths = plain.timed_maths
    on_device = plain.to_device(rows), plain.to_device(prototypes)
    assert maths.queue_read(on_device[0], 11, on_device[1]) is None
    scores = plain.to_host(maths.queue_read(on_device[0], 12, on_device[1]))
    assert_close(scores, queue.queue_read(rows, 12, prototypes), precision="float64", what="scores")
    pushed, count = maths.queue_push(on_device[0], 12, plain.to_device(new))
    expected, expected_count = queue.queue_push(rows, 12, new)
    assert_close(plain.to_host(pushed), expected, precision="float64", what="queue")
    assert count == expected_count


def test_its_larc(plain):
    arrays = [{"a": RANDOM.normal(size=(3, 4)), "b": RANDOM.normal(size=2), "zero": np.zeros(2)} for _ in range(3)]
    arrays[1]["zero"] += 1.0
    settings = {"lr": 0.3, "weight_decay": 0.1, "trust": 0.02}
    found = plain.timed_maths.larc_sgd(
        *({name: plain.to_device(value) for name, value in given.items()} for given in arrays), **settings
    )
    for part, expected in zip(found, optimizer.larc_sgd(*arrays, **settings), strict=True):
        for name, value in expected.items():
            assert_close(plain.to_host(part[name]), value, precision="float64", what=name)


def test_its_views_are_the_plan_s_but_for_rounding_to_bytes():
    from swav_plain_torch.multicrop import make_views

    recipe = recipes.with_crops(recipes.recipe("imagenet-200ep-bs256"), "2x48+6x24")
    config = recipes.resolve(recipe, samples=256, steps=1)
    images = random_images(3, 12, 64, 64)
    plan = crop_plan(config, seed=1, epoch=0, samples=np.arange(12), heights=64, widths=64)
    std = np.array(config.augmentation.std)
    found, expected = make_views(images, plan, config.augmentation), specified.views(images, plan, config)
    levels = [255 * std * np.abs(a - b) for a, b in zip(found, expected, strict=True)]
    assert np.mean([gap.mean() for gap in levels]) < PIPELINE_LEVELS


def test_the_gate_judges_it_beside_the_column(run, images):
    from swav_bench.cells import Cell

    fields = {"suite": "demo", "mode": "default", "device": "cpu", "precision": "float32", "recipe": "textures"}
    fields |= {"dataset": str(images), "batch": 16, "multi_crop": True, "queue_rows": 32, "seed": 0, "steps": 15}
    column, peer = run(*(Cell(implementation=name, **fields) for name in ("torch", "plain-torch")))
    assert (column["status"], peer["status"]) == ("ok", "ok"), (column["reason"], peer["reason"])
    assert peer["parity"]["against"] == "torch"
    assert peer["parity"]["loss_error"] <= peer["parity"]["loss_bound"]
    assert peer["notes"][0].startswith("its views are its own")
    assert peer["overhead"]["encoder_step_s_median"] > 0
