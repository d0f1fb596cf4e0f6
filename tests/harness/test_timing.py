"""Blocks, intervals, derived figures."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from swav_bench.derive import derive
from swav_bench.timing import WARMUP_CALLS, blocks, median_interval, time_calls
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
def clock(monkeypatch):
    """A clock that only `wait` moves."""
    now = [0.0]
    monkeypatch.setattr("swav_bench.timing.time.perf_counter", lambda: now[0])

    def wait(seconds):
        now[0] += seconds

    return wait


@pytest.mark.parametrize(
    ("budget_s", "per_block", "count"),
    [
        (125.0, 10, 20),  # as many as asked for
        (62.5, 5, 20),  # shorter blocks
        (5.0, 1, 8),  # fewer blocks
        (1.0, 1, 5),  # never fewer than these
    ],
)
def test_calls_are_timed_in_blocks_that_the_budget_allows(clock, budget_s, per_block, count):
    fences = []

    def fence(_):
        fences.append(1)
        clock(0.125)

    calls = time_calls(lambda: clock(0.5), fence, budget_s=budget_s, per_block=10)
    assert calls == (per_block, [per_block * 0.5 + 0.125] * count)
    assert len(fences) == WARMUP_CALLS + count


def test_the_first_call_which_compiles_is_not_in_the_estimate(clock):
    seconds = iter([100.0])
    calls = time_calls(lambda: clock(next(seconds, 1.0)), lambda _: None, budget_s=200.0, per_block=10)
    assert calls == (10, [10.0] * 20)


@pytest.fixture
def raw(cell):
    return {
        "cell": cell().to_dict(),
        "config": configs.to_dict(cell(multi_crop=True).config(samples=96)),
        "environment": {"implementation": {"device": "cpu"}},
        "timing": {"block_s": [2.0, 1.0, 4.0, 2.0, 2.0], "steps_per_block": 4, "input_waited_s": [0.5, 0, 0.6, 0, 0]},
        "energy": {"joules": 1000.0, "window_s": 20.0, "samples": 500},
        "work": None,
        "overhead": {"encoder_block_s": [1.6, 1.6, 2.0, 1.2, 1.6], "encoder_steps_per_block": 4},
        "parts": None,
        "kernels": None,
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


def test_overhead_is_the_step_over_the_bare_encoder_s(raw):
    found = derive(raw)["overhead"]
    assert found["encoder_step_s_median"] == 0.4
    assert found["overhead_share"] == 0.5 / 0.4 - 1
    assert found["encoder_step_s_low"] <= 0.4 <= found["encoder_step_s_high"]
    timing = derive(raw)["timing"]
    assert found["overhead_share_low"] == timing["step_s_low"] / found["encoder_step_s_high"] - 1
    assert found["overhead_share_high"] == timing["step_s_high"] / found["encoder_step_s_low"] - 1


def test_parts_make_up_the_step(raw):
    seconds = {"views": 0.05, "forward": 0.15, "sinkhorn": 0.02, "loss": 0.01, "encoder": 0.4, "optimizer": 0.01}
    measured = [{"name": name, "calls_per_block": 2, "block_s": [2 * each] * 5} for name, each in seconds.items()]
    found = derive(raw | {"parts": {"method": "separate", "measured": measured, "parts": []}})
    parts = {part["name"]: part["s_median"] for part in found["parts"]["parts"]}
    assert list(parts) == ["views", "forward", "sinkhorn", "loss", "backward", "optimizer", "rest"]
    assert parts["backward"] == pytest.approx(0.25)
    assert parts["rest"] == pytest.approx(0.5 - 0.05 - 0.15 - 0.02 - 0.01 - 0.25 - 0.01)
    rest = found["parts"]["parts"][-1]
    assert rest["s_low"] < rest["s_median"] < rest["s_high"]
    assert derive(found) == found


def test_there_is_no_rest_where_parts_alone_take_longer_than_the_step(raw):
    measured = [{"name": "views", "calls_per_block": 1, "block_s": [0.7] * 5}]
    found = derive(raw | {"parts": {"method": "separate", "measured": measured, "parts": []}})
    assert [part["name"] for part in found["parts"]["parts"]] == ["views"]


def test_kernels_have_a_rate_where_their_bytes_are_known(raw):
    kernel = {"calls_per_block": 10, "block_s": [0.02, 0.01, 0.01], "bytes": 5e6}
    known, unknown = derive(raw | {"kernels": [kernel, kernel | {"bytes": None}]})["kernels"]
    assert known["call_s_median"] == 0.001
    assert known["gbytes_per_s"] == pytest.approx(5)
    assert unknown["gbytes_per_s"] is None


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
