"""Every derived figure of a record, by one function from raw values; nothing else computes one."""

from __future__ import annotations

from typing import Any

from swav_bench.timing import median_interval
from swav_spec import config as configs
from swav_spec.network import step_flops

#: Dense peak in TFLOP/s by the vendors' data sheets: chip -> precision -> rate. The first whose name is part of a
#: device's name counts.
PEAKS: dict[str, dict[str, float]] = {
    "H200": {"bfloat16": 989.4, "tf32": 494.7, "float32": 66.9, "float64": 33.5},
    "H100 PCIe": {"bfloat16": 756.5, "tf32": 378.0, "float32": 51.2, "float64": 25.6},
    "H100": {"bfloat16": 989.4, "tf32": 494.7, "float32": 66.9, "float64": 33.5},
    "A100": {"bfloat16": 311.9, "tf32": 156.0, "float32": 19.5, "float64": 9.7},
}


def derive(record: dict[str, Any]) -> dict[str, Any]:
    """The record with every derived figure of `timing`, `work` and `energy` computed from its raw ones.

    Raw are `block_s`, `steps_per_block`, `energy.joules`, `.samples`, `.window_s`, the cell, the config and the
    device's name. Deriving again changes nothing.
    """
    record = dict(record)
    config = configs.from_dict(record["config"]) if record["config"] else None
    if record["timing"] and config:
        timing = record["timing"]
        step = [seconds / timing["steps_per_block"] for seconds in timing["block_s"]]
        median, low, high = median_interval(step)
        record["timing"] = timing | {
            "step_s_median": median,
            "step_s_low": low,
            "step_s_high": high,
            "samples_per_s": config.batch / median,
            "samples_per_s_low": config.batch / high,
            "samples_per_s_high": config.batch / low,
            "views_per_s": config.batch * config.views / median,
            "input_wait_share": sum(waited) / sum(timing["block_s"]) if (waited := timing["input_waited_s"]) else None,
        }
        flops = step_flops(config)
        rate = flops / median / 1e12
        peak = peak_tflops(record)
        record["work"] = {
            "model_flops_per_step": flops,
            "model_tflops_per_s": rate,
            "peak_tflops_per_s": peak,
            "share_of_peak": rate / peak if peak else None,
        }
    if record["energy"]:
        energy = record["energy"]
        record["energy"] = energy | {
            "joules_per_sample": energy["joules"] / energy["samples"],
            "mean_power_w": energy["joules"] / energy["window_s"],
        }
    return record


def peak_tflops(record: dict[str, Any]) -> float | None:
    """The chip's dense peak in the cell's precision; None where it is not known."""
    if record["cell"]["device"] != "gpu":
        return None
    device = str((record["environment"]["implementation"] or {}).get("device", ""))
    for chip, rates in PEAKS.items():
        if chip in device:
            return rates.get(record["cell"]["precision"])
    return None
