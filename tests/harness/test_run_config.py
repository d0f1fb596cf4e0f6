"""What a run is asked to be: every field of every recipe by name, from a file and the command line."""

from __future__ import annotations

import dataclasses
import json

import pytest

from swav_bench import run_config
from swav_bench.run_config import changed, settings
from swav_spec.config import CropGroup
from swav_spec.errors import InvalidInput
from swav_spec.recipes import NETWORKS, RECIPES, recipe

NEEDED = {"framework": "torch", "data": "textures", "out": "runs/a"}


def made(*assignments, file=None, changes=None, **given):
    return settings(file, NEEDED | given | {"changes": changes or {}}, assignments)


def leaves(value, name=""):
    """Dotted name -> value of every field of a recipe."""
    if dataclasses.is_dataclass(value):
        found = {}
        for item in dataclasses.fields(value):
            found |= leaves(getattr(value, item.name), f"{name}.{item.name}".lstrip("."))
        return found
    if isinstance(value, tuple) and value and dataclasses.is_dataclass(value[0]):
        return {key: leaf for i, item in enumerate(value) for key, leaf in leaves(item, f"{name}.{i}").items()}
    return {name: value}


@pytest.mark.parametrize("name", RECIPES)
def test_every_field_of_every_recipe_can_be_set_on_the_command_line(name):
    """Set to what they are, all of them give the recipe back; and each is really looked at, as a wrong type shows."""
    fields = {key: leaf for key, leaf in leaves(recipe(name)).items() if key != "linear_top1"}
    assert len(fields) > 30
    told = [f"{key}={json.dumps(leaf)}" for key, leaf in fields.items()]
    assert made(*told, recipe=name).chosen_recipe() == dataclasses.replace(recipe(name), linear_top1=None)
    for key in fields:
        with pytest.raises(InvalidInput, match=key.replace(".", r"\.")):
            made(f"{key}=1979-05-27", recipe=name)


def test_changes_reach_the_config():
    config = made(
        "batch=32", "optimizer.kind=adam", "crops=2x16+3x8", "assigned=[1]", "crops.1.scale=[0.1, 0.2]"
    ).config(96)
    assert (config.batch, config.optimizer.kind, config.assigned) == (32, "adam", (1,))
    assert config.crops == (CropGroup(16, 2, (0.6, 1.0)), CropGroup(8, 3, (0.1, 0.2)))


def test_fields_that_only_fit_together_may_come_one_by_one():
    network = made("network.depths=[1, 1]", "network.widths=[4, 8]", "network.strides=[1, 2]").chosen_recipe().network
    assert (network.depths, network.widths, network.strides) == ((1, 1), (4, 8), (1, 2))


@pytest.mark.parametrize(
    "told", [("network.prototypes=50", "network=resnet18"), ("network=resnet18", "network.prototypes=50")]
)
def test_a_network_by_name_and_its_fields_in_any_order(told):
    assert made(*told).chosen_recipe().network == dataclasses.replace(NETWORKS["resnet18"], prototypes=50)


def test_groups_of_crops_can_be_given_whole():
    (group,) = made("crops=[{size = 24, count = 2, scale = [0.3, 1]}]").chosen_recipe().crops
    assert group == CropGroup(24, 2, (0.3, 1.0))
    assert isinstance(group.scale[1], float)


def test_a_file_gives_settings_and_fields_and_the_command_line_wins(tmp_path):
    file = tmp_path / "run.toml"
    file.write_text(
        'recipe = "textures"\nseed = 3\nsteps = 40\nprecision = "bfloat16"\n'
        '[set]\nbatch = 16\nepsilon = 0.03\ncrops = "2x16+4x8"\n'
        '[set.network]\nname = "resnet18-cifar"\nprototypes = 60\n'
    )
    found = made(file=file)
    chosen = found.chosen_recipe()
    assert (found.seed, found.steps, found.precision) == (3, 40, "bfloat16")
    assert (chosen.batch, chosen.epsilon, chosen.crops[1].size) == (16, 0.03, 8)
    assert chosen.network == dataclasses.replace(NETWORKS["resnet18-cifar"], prototypes=60)
    found = made("epsilon=0.04", file=file, seed=5, changes={"batch": 8, "epochs": 2.0})
    chosen = found.chosen_recipe()
    assert (found.seed, found.steps, chosen.batch, chosen.epsilon, chosen.epochs) == (5, None, 8, 0.04, 2)
    assert run_config.from_job(json.loads(json.dumps(found.to_job()))) == found


def test_the_linear_scaling_rule_is_stated_and_applied_only_when_asked_for():
    rate = recipe("textures").base_lr
    plain = made("batch=32")
    config = plain.config(96)
    assert config.schedule.base_lr == rate
    (said,) = [remark for remark in plain.remarks(config) if "linear" in remark]
    assert f"would take {rate / 2:g} (--scale-lr)" in said
    asked = made("batch=32", scale_lr=True)
    config = asked.config(96)
    assert config.schedule.base_lr == rate / 2
    assert asked.remarks(config) == []
    with pytest.raises(InvalidInput, match="base_lr is given"):
        made("batch=32", "base_lr=0.1", scale_lr=True)


def test_fewer_samples_than_prototypes_is_a_warning_with_the_remedy():
    few = made("batch=16", "base_lr=0.1")
    (said,) = few.remarks(few.config(96))
    assert "16 samples (batch 16, queue 0) over 30 prototypes" in said
    assert "--queue-length 16" in said
    enough = made("batch=16", "base_lr=0.1", "queue_length=16")
    assert enough.remarks(enough.config(96)) == []


def test_a_published_figure_does_not_stay_with_a_changed_recipe():
    assert changed(recipe("imagenet-100ep"), {}).linear_top1 == recipe("imagenet-100ep").linear_top1
    assert changed(recipe("imagenet-100ep"), {"epsilon": 0.03}).linear_top1 is None


@pytest.mark.parametrize(
    ("told", "words"),
    [
        ("batch", "set = 'batch': must be FIELD=VALUE"),
        ("bach=3", "recipe field = 'bach': must be one of network, crops, batch"),
        ("batch=1", "batch = 1: must be at least 2"),
        ("batch=many", "batch = 'many': must be a whole number"),
        ("batch=true", "batch = True: must be a whole number"),
        ("epsilon=nan", "epsilon = nan: must be finite"),
        ("crops=2x16", "crops = '2x16': must be 2 times COUNTxSIZE"),
        ("crops.2.size=4", "crops field = '2': must be a position in 0..1"),
        ("crops.0.scale=[1]", "crops.0.scale = [1]: must be a list of 2"),
        ("optimizer.kind=lion", "optimizer.kind = 'lion': must be one of larc_sgd"),
        ("network=vit", "network = 'vit': must be one of resnet50"),
        ("network.blok=basic", "network field = 'blok': must be one of block"),
        ("linear_top1=99", "recipe field = 'linear_top1'"),
        ("epsilon.x=1", "epsilon has no fields"),
        ("accumulate=4", "gradient accumulation is not offered: Sinkhorn and batch normalisation need the whole batch"),
    ],
)
def test_a_mistake_is_named(told, words):
    with pytest.raises(InvalidInput) as caught:
        made(told).config(96)
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("batch = 16", "fields = ['batch']: must be among checkpoint_every, data"),
        ("seed = -1", "seed = -1: must be in 0..2^64-1"),
        ('seed = "a"', "seed = 'a': must be a whole number"),
        ("set = 3", "set = 3: must be a table of fields"),
        ("seed = ", "is no TOML file"),
        ("steps = 3\n[set]\nepochs = 2", "steps = 3: must be left out where epochs are given"),
    ],
)
def test_a_mistake_in_a_file_is_named(tmp_path, text, words):
    file = tmp_path / "run.toml"
    file.write_text(text)
    with pytest.raises(InvalidInput) as caught:
        made(file=file)
    assert words in str(caught.value)
    with pytest.raises(InvalidInput, match=r"nowhere\.toml': cannot be read"):
        made(file=tmp_path / "nowhere.toml")
