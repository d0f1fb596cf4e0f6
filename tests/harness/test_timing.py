"""Blocks, intervals, derived figures."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from swav_bench.derive import derive
from swav_bench.timing import blocks, median_interval
from swav_spec import config as configs
from swav_spec.errors import InvalidInput


@pytest.fixture
def config(cell):
    def make(steps, freeze=0, **changes):
        return dataclasses.replace(cell(steps=steps, **changes).config(samples=96), freeze_steps=freeze)

    return make


@pytest.mark.parametrize("steps", [15, 16, 30, 31, 110, 500])
def test_blocks_fill_the_run_after_the_warm_up(config, steps):
    plan = blocks(config(steps))
    assert plan.warmup + plan.count * plan.steps == steps
    assert plan.warmup >= 10
    assert 5 <= plan.count <= 20
    assert plan.fences[0] == 1
    assert plan.fences[1] == plan.warmup
    assert plan.fences[-1] == steps
    assert len(plan.fences) == plan.count + 2


def test_what_changes_the_work_comes_before_the_first_block(config):
    assert blocks(config(100, queue_rows=320)).warmup >= 320 // 16 + 2
    assert blocks(config(100, freeze=40)).warmup >= 42
    assert blocks(config(100, freeze=5000)).warmup <= 20


def test_a_run_that_is_too_short_is_refused(config):
    short = config(15)
    schedule = dataclasses.replace(short.schedule, steps=14)
    with pytest.raises(InvalidInput, match="steps = 14: must be at least 15"):
        blocks(dataclasses.replace(short, schedule=schedule))


def test_the_interval_of_equal_values_is_that_value():
    assert median_interval([3.0] * 7) == (3.0, 3.0, 3.0)
    assert median_interval([2.0]) == (2.0, 2.0, 2.0)


def test_the_interval_of_a_median_is_the_exact_bootstrap_s():
    """Of 5 values the resampled median is the least with chance .058, and one of the least two with .317 (binomial)."""
    assert median_interval([5.0, 1.0, 4.0, 2.0, 3.0]) == (3.0, 1.0, 5.0)
    median, low, high = median_interval([5.0, 1.0, 4.0, 2.0, 3.0], level=0.8)
    assert (median, low, high) == (3.0, 2.0, 4.0)


def test_the_interval_covers_the_true_median_as_often_as_it_says():
    draw = np.random.Generator(np.random.PCG64(5))
    intervals = [median_interval(draw.normal(1.0, 0.1, 20)) for _ in range(200)]
    covered = np.mean([low <= 1.0 <= high for _, low, high in intervals])
    assert 0.88 <= covered <= 0.99


@pytest.fixture
def raw(cell):
    return {
        "cell": cell().to_dict(),
        "config": configs.to_dict(cell(multi_crop=True).config(samples=96)),
        "environment": {"implementation": {"device": "cpu"}},
        "timing": {"block_s": [2.0, 1.0, 4.0, 2.0, 2.0], "steps_per_block": 4, "input_waited_s": [0.5, 0, 0.6, 0, 0]},
        "energy": {"joules": 1000.0, "window_s": 20.0, "samples": 500},
        "work": None,
    }


def test_derived_figures_follow_from_raw_ones(raw):
    found = derive(raw)
    timing = found["timing"]
    assert timing["input_wait_share"] == 0.1
    assert timing["step_s_median"] == 0.5
    assert timing["samples_per_s"] == 32
    assert timing["views_per_s"] == 6 * 32
    assert timing["samples_per_s_low"] <= 32 <= timing["samples_per_s_high"] == 16 / timing["step_s_low"]
    assert found["energy"]["joules_per_sample"] == 2
    assert found["energy"]["mean_power_w"] == 50
    assert found["work"]["share_of_peak"] is None
    assert found["work"]["model_tflops_per_s"] == found["work"]["model_flops_per_step"] / 0.5 / 1e12
    assert derive(found) == found


@pytest.mark.parametrize(
    ("device", "kind", "peak"),
    [
        ("NVIDIA H200", "bfloat16", 989.4),
        ("NVIDIA H100 80GB HBM3", "tf32", 494.7),
        ("NVIDIA H100 PCIe", "float32", 51.2),
        ("NVIDIA Unknown 9", "float32", None),
    ],
)
def test_the_share_of_the_peak_is_of_that_chip_in_that_precision(raw, device, kind, peak):
    raw["cell"] |= {"device": "gpu", "precision": kind}
    raw["environment"]["implementation"]["device"] = device
    work = derive(raw)["work"]
    assert work["peak_tflops_per_s"] == peak
    assert work["share_of_peak"] == (peak and work["model_tflops_per_s"] / peak)
