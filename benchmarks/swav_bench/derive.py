"""Every derived figure of a record, by one function from raw values; nothing else computes one."""

from __future__ import annotations

from typing import Any

from swav_bench.timing import median_interval
from swav_spec import config as configs
from swav_spec.network import step_flops

#: Median, lower and upper end.
Interval = tuple[float, float, float]
#: Dense peak in TFLOP/s by the vendors' data sheets: chip -> precision -> rate. The first whose name is part of a
#: device's name counts.
PEAKS: dict[str, dict[str, float]] = {
    "H200": {"bfloat16": 989.4, "tf32": 494.7, "float32": 66.9, "float64": 33.5},
    "H100 PCIe": {"bfloat16": 756.5, "tf32": 378.0, "float32": 51.2, "float64": 25.6},
    "H100": {"bfloat16": 989.4, "tf32": 494.7, "float32": 66.9, "float64": 33.5},
    "A100": {"bfloat16": 311.9, "tf32": 156.0, "float32": 19.5, "float64": 9.7},
}


def derive(record: dict[str, Any]) -> dict[str, Any]:
    """The record with every derived figure computed from its raw ones.

    Raw are block times with the steps or calls of a block, `kernels[].bytes`, `energy.joules`, `.samples`,
    `.window_s`, the cell, the config and the device's name. Deriving again changes nothing.
    """
    record = dict(record)
    config = configs.from_dict(record["config"]) if record["config"] else None
    if record["timing"] and config:
        timing = record["timing"]
        median, low, high = _each(timing["block_s"], timing["steps_per_block"])
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
    if record["overhead"] and record["timing"]:
        record["overhead"] = _overhead(record["overhead"], record["timing"])
    if record["parts"] and record["timing"] and (measured := record["parts"].get("measured")):
        record["parts"] = record["parts"] | {"parts": _parts(measured, record["timing"])}
    if record["kernels"]:
        record["kernels"] = [_kernel(kernel) for kernel in record["kernels"]]
    if record["energy"]:
        energy = record["energy"]
        record["energy"] = energy | {
            "joules_per_sample": energy["joules"] / energy["samples"],
            "mean_power_w": energy["joules"] / energy["window_s"],
        }
    return record


def _overhead(overhead: dict[str, Any], timing: dict[str, Any]) -> dict[str, Any]:
    median, low, high = _each(overhead["encoder_block_s"], overhead["encoder_steps_per_block"])
    return overhead | {
        "encoder_step_s_median": median,
        "encoder_step_s_low": low,
        "encoder_step_s_high": high,
        "overhead_share": timing["step_s_median"] / median - 1,
        "overhead_share_low": timing["step_s_low"] / high - 1,
        "overhead_share_high": timing["step_s_high"] / low - 1,
    }


def _parts(measured: list[dict[str, Any]], timing: dict[str, Any]) -> list[dict[str, Any]]:
    """Each part alone; the encoder's step less forward is `backward`, the step less all of them `rest`, if anything."""
    alone = {one["name"]: _each(one["block_s"], one["calls_per_block"]) for one in measured}
    if "encoder" in alone:
        backward = _less(alone.pop("encoder"), [alone["forward"]])
        names = list(alone)
        at = names.index("loss") + 1 if "loss" in names else len(names)
        alone = {name: alone[name] for name in names[:at]} | {"backward": backward} | alone
    step = (timing["step_s_median"], timing["step_s_low"], timing["step_s_high"])
    alone["rest"] = _less(step, list(alone.values()))
    return [
        {"name": name, "s_median": median, "s_low": low, "s_high": high}
        for name, (median, low, high) in alone.items()
        if median > 0
    ]


def _less(whole: Interval, parts: list[Interval]) -> Interval:
    """What is left of `whole`; the widest interval that theirs allow."""
    medians, lows, highs = (sum(values) for values in zip(*parts, strict=True))
    return whole[0] - medians, whole[1] - highs, whole[2] - lows


def _kernel(kernel: dict[str, Any]) -> dict[str, Any]:
    median, low, high = _each(kernel["block_s"], kernel["calls_per_block"])
    rate = None if kernel["bytes"] is None else kernel["bytes"] / median / 1e9
    return kernel | {"call_s_median": median, "call_s_low": low, "call_s_high": high, "gbytes_per_s": rate}


def _each(block_s: list[float], calls: int) -> Interval:
    """Seconds of one call: median and its interval."""
    return median_interval([seconds / calls for seconds in block_s])


def peak_tflops(record: dict[str, Any]) -> float | None:
    """The chip's dense peak in the cell's precision; None where it is not known."""
    if record["cell"]["device"] != "gpu":
        return None
    device = str((record["environment"]["implementation"] or {}).get("device", ""))
    for chip, rates in PEAKS.items():
        if chip in device:
            return rates.get(record["cell"]["precision"])
    return None
