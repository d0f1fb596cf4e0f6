"""The parity gate, on numbers."""

from __future__ import annotations

import numpy as np
import pytest

from swav_bench import parity

HEAD, BACKBONE = "projection_head.3.weight", "layer1.0.conv1.weight"


@pytest.fixture
def arrays():
    draw = np.random.Generator(np.random.PCG64(0))
    shapes = {HEAD: (32, 128), "prototypes.weight": (30, 32), BACKBONE: (16, 3, 3, 3), "layer1.0.bn1.bias": (16,)}
    return {f"momentum/{name}": draw.normal(0, 1, shape) for name, shape in shapes.items()}


@pytest.fixture
def judge(cell):
    def go(own, other, losses=(2.0, 2.0), precision="float32"):
        summaries = [parity.summary(loss, arrays) for loss, arrays in zip(losses, (own, other), strict=True)]
        config = cell().config(samples=96)
        return parity.verdict(parity.compare(*summaries, "torch", config, precision))

    return go


def test_equal_first_steps_pass(judge, arrays):
    assert judge(arrays, arrays) is None
    noise = {name: array * (1 + 1e-7) for name, array in arrays.items()}
    assert judge(noise, arrays) is None


@pytest.mark.parametrize("loss", [2.01, float("nan"), float("inf")])
def test_another_loss_does_not(judge, arrays, loss):
    assert "loss" in judge(arrays, arrays, losses=(loss, 2.0))


@pytest.mark.parametrize("change", ["scaled", "one number", "sign", "transposed"])
def test_another_gradient_above_the_last_relu_does_not(judge, arrays, change):
    name = f"momentum/{HEAD}"
    array = arrays[name].copy()
    if change == "one number":
        array[3, 4] += 1.0
    changed = {"scaled": 1.001 * array, "one number": array, "sign": -array, "transposed": array[::-1]}[change]
    verdict = judge(arrays | {name: changed}, arrays)
    assert "gradient off by" in verdict
    assert "loss" not in verdict


def test_below_a_relu_one_switched_activation_passes_and_another_gradient_does_not(judge, arrays):
    name = f"momentum/{BACKBONE}"
    assert judge(arrays | {name: 1.03 * arrays[name]}, arrays) is None
    assert judge(arrays | {name: 1.03 * arrays[name]}, arrays, precision="float64") is not None
    assert "backbone gradient off by" in judge(arrays | {name: 1.3 * arrays[name]}, arrays)


def test_a_missing_or_additional_tensor_does_not(judge, arrays):
    fewer = {name: array for name, array in arrays.items() if HEAD not in name}
    assert judge(fewer, arrays) is not None
    assert judge(arrays, fewer) is not None


def test_a_gradient_that_is_only_rounding_is_left_out(arrays):
    bias = {f"momentum/{parity.WITHOUT_GRADIENT}": np.full(4, 1e-9)}
    assert parity.summary(1.0, arrays | bias) == parity.summary(1.0, arrays)


def test_tiny_tensors_are_judged_by_the_size_of_the_others(judge, arrays):
    tiny = {"momentum/layer1.0.bn1.bias": np.full(16, 1e-9)}
    assert judge(arrays | {name: -array for name, array in tiny.items()}, arrays | tiny) is None


def test_cells_are_compared_across_implementations_and_queues_only(cell):
    same = [cell(), cell("Wrong"), cell(queue_rows=64), cell(repeat=1), cell(mode="eager")]
    assert len({parity.key(one) for one in same}) == 1
    other = [cell(), cell(seed=1), cell(batch=32), cell(multi_crop=True), cell(precision="float32")]
    other += [cell(network="resnet18-cifar"), cell(crops="2x16+4x8")]
    assert len({parity.key(one) for one in other}) == len(other)


def test_lower_precisions_are_judged_in_float32():
    judged = [parity.judged_precision(precision) for precision in ("float64", "float32", "tf32", "bfloat16")]
    assert judged == ["float64", "float32", "float32", "float32"]
