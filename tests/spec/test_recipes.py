"""The published recipes, row by row, and what epochs come to in steps."""

import dataclasses

import pytest

from swav_spec.config import CropGroup
from swav_spec.errors import InvalidInput
from swav_spec.recipes import NETWORKS, RECIPES, network_name, recipe, resolve, without_multi_crop

IMAGENET = 1_281_167
SIX, FOUR = ((224, 2, (0.14, 1.0)), (96, 6, (0.05, 0.14))), ((224, 2, (0.14, 1.0)), (96, 4, (0.05, 0.14)))
#: epochs, batch, crops, base lr, final lr, warm-up epochs, its start, frozen steps, queue, its epoch, hidden, top-1
PUBLISHED = {
    "imagenet-100ep": (100, 4096, SIX, 4.8, 0.0048, 10, 0.3, 313, 0, 0, 2048, 72.1),
    "imagenet-200ep": (200, 4096, SIX, 4.8, 0.0048, 10, 0.3, 313, 0, 0, 2048, 73.9),
    "imagenet-400ep": (400, 4096, SIX, 4.8, 0.0048, 10, 0.3, 313, 0, 0, 2048, 74.6),
    "imagenet-800ep": (800, 4096, SIX, 4.8, 0.0048, 10, 0.3, 313, 0, 0, 2048, 75.3),
    "imagenet-200ep-bs256": (200, 256, SIX, 0.6, 0.0006, 0, 0.0, 5005, 3840, 15, 2048, 72.7),
    "imagenet-400ep-bs256": (400, 256, SIX, 0.6, 0.0006, 0, 0.0, 5005, 3840, 15, 2048, 74.3),
    "imagenet-400ep-2x224": (400, 4096, ((224, 2, (0.08, 1.0)),), 4.8, 0.0048, 10, 0.3, 313, 0, 0, 2048, 70.1),
    "imagenet-400ep-w2": (400, 4096, FOUR, 4.8, 0.0048, 10, 0.3, 313, 0, 0, 8192, 77.3),
    "imagenet-400ep-w4": (
        400,
        2560,
        ((224, 2, (0.08, 1.0)), (96, 4, (0.08, 0.14))),
        4.8,
        0.0048,
        10,
        0.3,
        313,
        2560,
        0,
        8192,
        77.9,
    ),
}


@pytest.mark.parametrize("name", PUBLISHED)
def test_published(name):
    row = recipe(name)
    crops = tuple((group.size, group.count, group.scale) for group in row.crops)
    found = (row.epochs, row.batch, crops, row.base_lr, row.final_lr, row.warmup_epochs, row.start_warmup)
    found += (row.freeze_steps, row.queue_length, row.queue_start_epoch, row.network.hidden, row.linear_top1)
    assert found == PUBLISHED[name]
    assert (row.temperature, row.epsilon, row.iterations) == (0.1, 0.05, 3)
    assert (row.network.embedding, row.network.prototypes) == (128, 3000)
    assert (row.optimizer.kind, row.optimizer.weight_decay, row.optimizer.trust) == ("larc_sgd", 1e-6, 0.001)
    assert (row.augmentation.mean, row.augmentation.std) == ((0.485, 0.456, 0.406), (0.228, 0.224, 0.225))
    width = {"w2": 2, "w4": 4}.get(name.rsplit("-", 1)[-1], 1)
    assert row.network.widths == tuple(width * base for base in (64, 128, 256, 512))


def test_every_published_recipe_is_in_the_table():
    assert set(PUBLISHED) == {name for name in RECIPES if name.startswith("imagenet")}


def test_epochs_become_steps():
    large = resolve(recipe("imagenet-800ep"), samples=IMAGENET)
    assert (large.schedule.steps, large.schedule.warmup_steps) == (800 * 312, 10 * 312)
    small = resolve(recipe("imagenet-200ep-bs256"), samples=IMAGENET)
    assert (small.schedule.steps, small.queue_start, small.queue_rows) == (200 * 5004, 15 * 5004, 3840)
    short = resolve(recipe("imagenet-800ep"), samples=IMAGENET, steps=50)
    assert (short.schedule.steps, short.schedule.warmup_steps) == (50, 50)


def test_without_multi_crop():
    row = recipe("textures")
    assert without_multi_crop(row) == dataclasses.replace(row, crops=(CropGroup(32, 2, (0.6, 1.0)),))


@pytest.mark.parametrize("name", [name for name in RECIPES if not name.startswith("imagenet")])
def test_recipes_of_small_sets_fill_their_prototypes_without_a_queue(name):
    config = resolve(recipe(name), samples=2048)
    assert config.batch >= config.network.prototypes
    assert config.queue_rows == 0
    assert config.schedule.base_lr > config.schedule.final_lr
    smallest = min(config.view_sizes)
    assert config.augmentation.blur == 0 or smallest > 32 or name == "textures"


def test_networks_of_the_small_recipes():
    named = {name: network_name(recipe(name).network) for name in RECIPES if not name.startswith("imagenet")}
    assert named == {
        "textures": "convnet4",
        "cifar10": "resnet18-cifar",
        "cifar10-2x32": "resnet18-cifar",
        "flowers": "resnet18",
        "flowers-resnet50": "resnet50",
    }
    crops = {name: [(group.count, group.size) for group in recipe(name).crops] for name in named}
    assert crops["cifar10"] == [(2, 32), (4, 16)]
    assert crops["cifar10-2x32"] == [(2, 32)]
    assert crops["flowers"] == [(2, 160), (4, 96)]
    assert crops["flowers-resnet50"] == [(2, 224), (3, 96)]


def test_the_name_of_a_network_is_that_of_its_backbone():
    for name, network in NETWORKS.items():
        assert network_name(dataclasses.replace(network, prototypes=77)) == name
    assert network_name(dataclasses.replace(NETWORKS["resnet50"], depths=(3, 4, 6, 4))) == ""


def test_assigned_views_reach_the_config():
    assert resolve(dataclasses.replace(recipe("textures"), assigned=(1,)), samples=64).assigned == (1,)


def test_what_is_refused():
    with pytest.raises(InvalidInput, match="recipe = 'imagenet'"):
        recipe("imagenet")
    with pytest.raises(InvalidInput, match=r"batch = 4096.*training images \(100\)"):
        resolve(recipe("imagenet-100ep"), samples=100)
