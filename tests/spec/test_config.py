"""Every limit of a config: the error names the field, its value and what is allowed."""

import dataclasses
import json
import math

import pytest

from swav_spec.config import (
    Augmentation,
    Config,
    CropGroup,
    Execution,
    Network,
    Optimizer,
    Schedule,
    from_dict,
    to_dict,
)
from swav_spec.errors import InvalidInput
from swav_spec.recipes import RECIPES, resolve

CROPS = (CropGroup(32, 2, (0.14, 1.0)), CropGroup(16, 4, (0.05, 0.14)))
CONFIG = Config(batch=8, crops=CROPS, network=Network(), schedule=Schedule(steps=4, base_lr=0.1))

BAD = [
    (Execution, {"device": "tpu"}, "device = 'tpu'", "cpu or gpu"),
    (Execution, {"precision": "fp16"}, "precision = 'fp16'", "float64, float32, tf32, bfloat16"),
    (CropGroup, {"size": 0}, "crop size = 0", "at least 1"),
    (CropGroup, {"count": 0}, "crop count = 0", "at least 1"),
    (CropGroup, {"scale": (0.0, 1.0)}, "crop scale = (0.0, 1.0)", "0 < low <= high <= 1"),
    (CropGroup, {"scale": (0.5, 0.2)}, "crop scale = (0.5, 0.2)", "0 < low <= high <= 1"),
    (CropGroup, {"scale": (0.5, 1.2)}, "crop scale = (0.5, 1.2)", "0 < low <= high <= 1"),
    (Augmentation, {"flip": 1.1}, "augmentation.flip = 1.1", "in [0, 1]"),
    (Augmentation, {"jitter": -0.1}, "augmentation.jitter = -0.1", "in [0, 1]"),
    (Augmentation, {"grayscale": math.nan}, "augmentation.grayscale = nan", "in [0, 1]"),
    (Augmentation, {"blur": 2}, "augmentation.blur = 2", "in [0, 1]"),
    (Augmentation, {"brightness": -1}, "augmentation.brightness = -1", "at least 0"),
    (Augmentation, {"contrast": math.inf}, "augmentation.contrast = inf", "at least 0"),
    (Augmentation, {"saturation": math.nan}, "augmentation.saturation = nan", "at least 0"),
    (Augmentation, {"hue": 0.6}, "augmentation.hue = 0.6", "in [0, 0.5]"),
    (Augmentation, {"ratio": (2.0, 1.0)}, "augmentation.ratio = (2.0, 1.0)", "0 < low <= high"),
    (Augmentation, {"blur_radius": (0.1, 20.0)}, "augmentation.blur_radius = (0.1, 20.0)", "<= 16 pixels"),
    (Augmentation, {"std": (0.2, 0.0, 0.2)}, "augmentation.std = (0.2, 0.0, 0.2)", "three positive"),
    (Network, {"block": "dense"}, "network.block = 'dense'", "bottleneck, basic, conv"),
    (Network, {"stem": "vit"}, "network.stem = 'vit'", "imagenet, cifar, none"),
    (Network, {"depths": (1, 1)}, "network.depths, widths, strides", "equally many"),
    (Network, {"widths": (0, 1, 1, 1)}, "network.widths = (0, 1, 1, 1)", "at least 1"),
    (Network, {"hidden": 0}, "network.hidden = 0", "at least 1"),
    (Network, {"embedding": 0}, "network.embedding = 0", "at least 1"),
    (Network, {"prototypes": 1}, "network.prototypes = 1", "at least 2"),
    (Optimizer, {"kind": "lamb"}, "optimizer.kind = 'lamb'", "larc_sgd, sgd, adam"),
    (Optimizer, {"momentum": 1.0}, "optimizer.momentum = 1.0", "in [0, 1)"),
    (Optimizer, {"weight_decay": -1e-6}, "optimizer.weight_decay = -1e-06", "at least 0"),
    (Optimizer, {"trust": 0.0}, "optimizer.trust = 0.0", "greater than 0"),
    (Schedule, {"steps": 0}, "schedule.steps = 0", "at least 1"),
    (Schedule, {"warmup_steps": 5}, "schedule.warmup_steps = 5", "in 0..4"),
    (Schedule, {"base_lr": -0.1}, "schedule.base_lr = -0.1", "at least 0"),
    (Schedule, {"final_lr": math.inf}, "schedule.final_lr = inf", "finite"),
    (Schedule, {"start_warmup": math.nan}, "schedule.start_warmup = nan", "at least 0"),
    (Config, {"batch": 1}, "batch = 1", "at least 2"),
    (Config, {"crops": CROPS[:1] and (CropGroup(32, 1, (0.1, 1.0)),)}, "crops = ", "at least two views"),
    (Config, {"assigned": ()}, "assigned = ()", "at least one view"),
    (Config, {"assigned": (0, 0)}, "assigned = (0, 0)", "named once"),
    (Config, {"assigned": (0, 6)}, "assigned = (0, 6)", "views in 0..5"),
    (Config, {"assigned": (-1,)}, "assigned = (-1,)", "views in 0..5"),
    (Config, {"assigned": (0, 2)}, "assigned = (0, 2)", "first resolution (32 pixels)"),
    (Config, {"epsilon": 0.0}, "epsilon = 0.0", "greater than 0"),
    (Config, {"epsilon": math.nan}, "epsilon = nan", "greater than 0"),
    (Config, {"temperature": -0.1}, "temperature = -0.1", "greater than 0"),
    (Config, {"iterations": 0}, "iterations = 0", "at least 1"),
    (Config, {"queue_length": 7}, "queue_length = 7", "at least the batch (8)"),
    (Config, {"queue_start": -1}, "queue_start = -1", "at least 0"),
    (Config, {"freeze_steps": -1}, "freeze_steps = -1", "at least 0"),
]
GOOD = {
    Execution: Execution(),
    CropGroup: CROPS[0],
    Augmentation: Augmentation(),
    Network: Network(),
    Optimizer: Optimizer(),
    Schedule: Schedule(steps=4, base_lr=0.1),
    Config: CONFIG,
}


@pytest.mark.parametrize(
    ("kind", "change", "given", "allowed"), BAD, ids=lambda value: getattr(value, "__name__", None)
)
def test_limits(kind, change, given, allowed):
    with pytest.raises(InvalidInput) as raised:
        dataclasses.replace(GOOD[kind], **change)
    message = str(raised.value)
    assert given in message
    assert allowed in message
    assert "\n" not in message


def test_every_checked_field_is_tried():
    """A new limit in config.py needs a line above."""
    tried = {(kind, name) for kind, change, *_ in BAD for name in change}
    for kind in (CropGroup, Augmentation, Network, Optimizer, Schedule, Config, Execution):
        fields = {item.name for item in dataclasses.fields(kind)}
        unchecked = fields - {name for of_kind, name in tried if of_kind is kind}
        assert unchecked <= {"mean", "strides", "mode", "network", "schedule", "optimizer", "augmentation"}


def test_derived():
    config = dataclasses.replace(CONFIG, queue_length=31)
    assert config.views == 6
    assert config.view_sizes == (32, 32, 16, 16, 16, 16)
    assert config.resolutions == ((32, 2), (16, 4))
    assert config.queue_rows == 24
    assert (Network().features, Network(block="basic").features) == (2048, 512)
    mixed = dataclasses.replace(CONFIG, crops=(CROPS[0], CROPS[1], CROPS[0]))
    assert mixed.resolutions == ((32, 2), (16, 4), (32, 2))


@pytest.mark.parametrize("name", RECIPES)
def test_json_and_back(name):
    config = resolve(RECIPES[name], samples=10000)
    assert from_dict(json.loads(json.dumps(to_dict(config)))) == config


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"batchsize": 8}, "config fields = ['batchsize']"),
        ({"network": {"kernel": 3}}, "config.network fields = ['kernel']"),
        ({"schedule": {"base_lr": 1.0}}, "config.schedule missing fields = ['steps']"),
        ({"crops": [{"size": 8}]}, "config.crops[0] missing fields = ['count', 'scale']"),
        ({"network": 3}, "config.network = 3"),
        ({"batch": 1}, "batch = 1"),
    ],
)
def test_from_dict_refuses(change, message):
    with pytest.raises(InvalidInput) as raised:
        from_dict(json.loads(json.dumps(to_dict(CONFIG))) | change)
    assert message in str(raised.value)
