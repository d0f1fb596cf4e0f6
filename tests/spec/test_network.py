"""The network as data, against the published state dicts and counts known from elsewhere."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest

from swav_spec.config import Network
from swav_spec.network import (
    convolutions,
    count_parameters,
    forward_macs,
    initial_weights,
    is_buffer,
    parameter_names,
    tensor_shapes,
)
from swav_spec.recipes import NETWORKS
from swav_spec.testing.assertions import assert_same

PUBLISHED = json.loads(
    (Path(__file__).parents[1] / "golden" / "official_resnet50_state_dict_keys.json").read_text(encoding="utf-8")
)
#: Standard errors that chance may take a mean or a deviation away from what it should be.
SIGMAS = 5
SMALL = Network(depths=(1, 2), widths=(4, 8), strides=(1, 2), hidden=6, embedding=5, prototypes=7)


@pytest.mark.parametrize(
    ("name", "published"),
    [
        ("resnet50", "resnet50_pretrain(normalize=True,hidden_mlp=2048,output_dim=128,nmb_prototypes=3000)"),
        ("resnet50w2", "resnet50w2_pretrain(hidden_mlp=8192)"),
        ("resnet50w4", "resnet50w4_pretrain(hidden_mlp=8192)"),
    ],
)
def test_state_dict_is_the_published_one(name, published):
    expected = PUBLISHED[published]
    shapes = tensor_shapes(NETWORKS[name])
    listed = [(item["name"], tuple(item["shape"])) for item in expected["state_dict"]]
    assert list(shapes.items()) == listed
    assert count_parameters(NETWORKS[name]) == expected["n_params"]
    assert len(parameter_names(NETWORKS[name])) == expected["n_param_tensors"]
    buffers = [item["name"] for item in expected["state_dict"] if item["kind"] == "buffer"]
    assert [key for key in shapes if is_buffer(key)] == buffers


def test_resnet18_is_the_usual_one():
    """11,176,512 parameters without a classifier, with the ImageNet stem; 9,536 less 1,728 less with CIFAR's."""
    head = 512 * 2048 + 2048 + 2 * 2048 + 2048 * 128 + 128 + 3000 * 128
    assert count_parameters(NETWORKS["resnet18"]) - head == 11_176_512
    stems = 64 * 3 * 7 * 7 - 64 * 3 * 3 * 3
    assert count_parameters(NETWORKS["resnet18"]) - count_parameters(NETWORKS["resnet18-cifar"]) == stems


@pytest.mark.parametrize(
    ("name", "usual", "classifier"),
    [
        ("resnet50", 4_089_184_256, 2048 * 1000),
        ("resnet18", 1_814_073_344, 512 * 1000),
    ],
)
def test_multiply_adds_are_the_usual_ones(name, usual, classifier):
    """As commonly counted for 224 pixels, less the classifier that a SwAV network does not have."""
    network = NETWORKS[name]
    head = network.features * network.hidden + network.hidden * network.embedding
    assert forward_macs(network, 224) - head - network.embedding * network.prototypes == usual - classifier


def test_strides_sit_in_the_three_by_three():
    strided = [conv for conv in convolutions(NETWORKS["resnet50"]) if conv.stride == 2]
    assert {(conv.kernel, conv.name.split(".")[-1]) for conv in strided if conv.name.startswith("layer")} == {
        (3, "conv2"),
        (1, "0"),
    }
    assert [conv.name for conv in strided if conv.kernel == 1] == [
        f"layer{stage}.0.downsample.0" for stage in (2, 3, 4)
    ]


def test_initial_weights_do_not_depend_on_the_order_of_drawing():
    """The second stage of a network starts as the only one of another that has it under the same name."""
    weights = initial_weights(SMALL, 5)
    deeper = initial_weights(dataclasses.replace(SMALL, depths=(3, 2), prototypes=9), 5)
    for name in ("layer2.1.conv2.weight", "projection_head.0.bias", "projection_head.3.weight"):
        assert_same(weights[name], deeper[name], what=name)


def test_initial_weights_depend_on_seed_and_name():
    first, second = initial_weights(SMALL, 0), initial_weights(SMALL, 1)
    again = initial_weights(SMALL, 0)
    drawn = [name for name in first if not is_buffer(name) and np.unique(first[name]).size > 1]
    for name in drawn:
        assert (first[name] != second[name]).all(), name
        assert_same(first[name], again[name], what=name)
    assert (first["layer1.0.conv1.weight"].ravel()[:4] != first["layer2.1.conv1.weight"].ravel()[:4]).all()


def test_initial_weights_have_their_distributions():
    network = dataclasses.replace(NETWORKS["convnet4"], widths=(64, 64, 64, 64))
    weights = initial_weights(network, 0)
    assert list(weights) == list(tensor_shapes(network))
    assert {name: value.shape for name, value in weights.items()} == tensor_shapes(network)
    convolution = weights["layer3.0.conv1.weight"]
    expected = np.sqrt(2 / (64 * 9))
    assert abs(convolution.std() / expected - 1) < SIGMAS / np.sqrt(2 * convolution.size)
    assert abs(convolution.mean() / expected) < SIGMAS / np.sqrt(convolution.size)
    for name, inputs in (("projection_head.0", 64), ("projection_head.3", 128)):
        limit = 1 / np.sqrt(inputs)
        for kind in ("weight", "bias"):
            assert 0.9 * limit < np.abs(weights[f"{name}.{kind}"]).max() <= limit
    assert 0.9 / np.sqrt(32) < np.abs(weights["prototypes.weight"]).max() <= 1 / np.sqrt(32)
    for name, value in weights.items():
        kind = name.split(".")[-1]
        if "bn" in name or name.startswith("projection_head.1"):
            expected = {"weight": 1, "bias": 0, "running_mean": 0, "running_var": 1, "num_batches_tracked": 0}[kind]
            assert np.unique(value).tolist() == [expected], name
