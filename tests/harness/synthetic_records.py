"""Records made up for tests of the report: they follow the schema, and each figure follows from the cell."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np

from swav_bench import records
from swav_spec import config, network, recipes

#: name -> (framework, version, mode, samples/s at batch 32 without multi-crop, seconds to the first step)
FRAMEWORKS = {
    "torch": ("torch", "2.13.0", "eager", 2400.0, 0.41),
    "jax": ("jax", "0.10.2", "jit", 2050.0, 6.3),
    "tensorflow": ("tensorflow", "2.21.0", "graph", 1700.0, 9.8),
}

#: What a record of a failure has not got.
MEASURED = ("timing", "memory", "work", "overhead", "parts", "parity", "learning", "accuracy")
#: part of a step -> share of it
PARTS = {"views": 0.06, "forward": 0.3, "sinkhorn": 0.02, "loss": 0.01, "backward": 0.56, "optimizer": 0.05}


def environment(name: str, **changes: Any) -> dict[str, Any]:
    framework, version, mode, *_ = FRAMEWORKS.get(name, (name, "1.0", "eager"))
    return {
        "os": "Linux 6.1",
        "architecture": "x86_64",
        "cpu": "Example CPU 3 GHz",
        "cpu_count": 2,
        "memory_bytes": 8 * 2**30,
        "python": "3.11.2",
        "packages": {"numpy": "2.4.0", "torch": "2.13.0", "jax": "0.10.2"},
        "variables": {"OMP_NUM_THREADS": "1"},
        "gpus": [],
        "implementation": {
            "framework": framework,
            "version": version,
            "device": "cpu",
            "precision": "float32",
            "mode": mode,
            "flags": {"deterministic": False},
            "compiler": None,
        },
        "compile_cache": "off",
    } | changes


def record(
    name: str, batch: int, *, multi_crop: bool, queue: bool, seed: int = 0, speed: float = 1.0
) -> dict[str, Any]:
    """One record of status ok; `speed` multiplies its throughput."""
    rate, first_step = FRAMEWORKS.get(name, ("", "", "", 1000.0, 1.0))[3:]
    steps = 256
    recipe = recipes.recipe("textures") if multi_crop else recipes.without_multi_crop(recipes.recipe("textures"))
    settings = config.to_dict(recipes.resolve(recipe, samples=2048, steps=steps))
    settings |= {"batch": batch, "queue_length": 256 if queue else 0}
    views = 6 if multi_crop else 2
    samples_per_s = speed * rate * (0.52 if multi_crop else 1.0) * (0.97 if queue else 1.0) * (batch / 32) ** 0.12
    step_s = batch / samples_per_s
    # Drawn from the cell, so that equal cells give equal records.
    random = np.random.default_rng([seed, batch, multi_crop, queue, *name.encode()])
    block_s = sorted(round(float(10 * step_s * factor), 6) for factor in random.normal(1, 0.004, 9))
    ln_k = math.log(30)
    knn = round(0.74 + 0.1 * multi_crop + 0.03 * float(random.uniform()), 4)
    noise = 0.02 * random.normal(size=20)
    curve = [
        [int(step), round(ln_k - 1.5 * (1 - math.exp(-step / 70)) + float(wiggle), 4)]
        for step, wiggle in zip(np.linspace(0, steps - 1, 20), noise, strict=True)
    ]
    flops = float(network.step_flops(config.from_dict(json.loads(json.dumps(settings)))))
    crops = "mc" if multi_crop else "2c"
    safe = "".join(c for c in name if c.isalnum()) or "x"
    return {
        "schema": records.SCHEMA,
        "status": "ok",
        "reason": None,
        "cell": {
            "id": f"demo-{safe}-b{batch}-{crops}-{'q' if queue else 'nq'}-s{seed}",
            "suite": "demo",
            "implementation": name,
            "mode": "default",
            "device": "cpu",
            "precision": "float32",
            "recipe": "textures",
            "dataset": "textures",
            "batch": batch,
            "multi_crop": multi_crop,
            "queue": queue,
            "queue_rows": 256 if queue else 0,
            "seed": seed,
            "steps": steps,
            "repeat": 0,
            "lr": None,
            "task": "train",
            "input": "resident",
            "network": None,
            "crops": None,
        },
        "config": settings,
        "started_at": "2026-11-23T12:00:00Z",
        "wall_s": 20.5,
        "environment": environment(name),
        "commit": "0123456789abcdef0123456789abcdef01234567",
        "dirty": False,
        "swav_bench_version": "0.1.0",
        "notes": [],
        "data": {"train_samples": 2048, "skipped": 0, "skipped_reasons": [], "workers": None, "prefetch": None},
        "timing": {
            "time_to_first_step_s": first_step + 0.1 * multi_crop,
            "compilations": None,
            "recompilations": None,
            "warmup_steps": 10,
            "steps_per_block": 10,
            "block_s": block_s,
            "step_s_median": block_s[4] / 10,
            "step_s_low": block_s[2] / 10,
            "step_s_high": block_s[6] / 10,
            "samples_per_s": 10 * batch / block_s[4],
            "samples_per_s_low": 10 * batch / block_s[6],
            "samples_per_s_high": 10 * batch / block_s[2],
            "views_per_s": 10 * batch * views / block_s[4],
            "cores_busy": 0.98,
            "input_waited_s": [0.001] * len(block_s),
            "input_wait_share": 0.001 * len(block_s) / sum(block_s),
        },
        "memory": {
            "allocator_peak_bytes": None,
            "process_peak_bytes": int((380 + 90 * len(name) + batch * views / 4) * 2**20),
            "nvml_process_bytes": None,
        },
        "energy": None,
        "work": {
            "model_flops_per_step": flops,
            "model_tflops_per_s": flops / step_s / 1e12,
            "share_of_peak": None,
            "peak_tflops_per_s": None,
        },
        "parity": {
            "against": "torch",
            "loss_error": 1.5e-7,
            "gradient_error": 3.1e-6,
            "backbone_gradient_error": 2.2e-5,
            "loss_bound": 1e-5,
            "gradient_bound": 1e-3,
            "backbone_gradient_bound": 1e-2,
        },
        "overhead": {
            "encoder_steps_per_block": 10,
            "encoder_block_s": [0.9 * seconds for seconds in block_s],
            "encoder_step_s_median": 0.09 * block_s[4],
            "encoder_step_s_low": 0.09 * block_s[2],
            "encoder_step_s_high": 0.09 * block_s[6],
            "overhead_share": 1 / 0.9 - 1,
            "overhead_share_low": block_s[2] / (0.9 * block_s[6]) - 1,
            "overhead_share_high": block_s[6] / (0.9 * block_s[2]) - 1,
        },
        "parts": {
            "method": "separate",
            "parts": [
                {
                    "name": part,
                    "s_median": share * step_s,
                    "s_low": 0.98 * share * step_s,
                    "s_high": 1.02 * share * step_s,
                }
                for part, share in PARTS.items()
            ],
        },
        "kernels": None,
        "largest_batch": None,
        "learning": {
            "loss_curve": curve,
            "final_loss": sum(loss for _, loss in curve[-3:]) / 3,
            "final_loss_steps": 3,
            "ln_k": ln_k,
            "code_entropy": 1.1,
            "prototypes_used": 27,
            "prototypes": 30,
            "train_s": steps * step_s,
        },
        "accuracy": {
            "knn_top1": knn,
            "linear_top1": knn + 0.05,
            "raw_knn_top1": 0.385,
            "raw_linear_top1": 0.214,
            "random_knn_top1": 0.26,
            "random_linear_top1": 0.31,
            "chance": 1 / 12,
            "knn_k": 20,
            "knn_temperature": 0.1,
            "split": "test",
        },
    }


def kernels(name: str, *, speed: float = 1.0) -> dict[str, Any]:
    """A record of single operations."""
    made = failed(record(name, 256, multi_crop=False, queue=False), "ok", "")
    cell = made["cell"] | {"task": "kernels", "id": f"kernels-{name}", "suite": "kernels"}
    measured = [
        {
            "name": kernel,
            "size": size,
            "calls_per_block": 10,
            "block_s": [10 * seconds / speed] * 5,
            "call_s_median": seconds / speed,
            "call_s_low": 0.99 * seconds / speed,
            "call_s_high": 1.01 * seconds / speed,
            "bytes": None if kernel == "larc_sgd" else 24e6,
            "gbytes_per_s": None if kernel == "larc_sgd" else 24e6 * speed / seconds / 1e9,
        }
        for kernel, size, seconds in (
            ("sinkhorn", "256x3000", 3e-4),
            ("sinkhorn", "4096x3000", 5e-3),
            ("larc_sgd", "resnet50", 2e-3),
        )
    ]
    return made | {"cell": cell, "reason": None, "data": None, "kernels": measured}


def largest_batch(name: str, batch: int | None, *, multi_crop: bool = False) -> dict[str, Any]:
    """A record of a search for the largest batch, with the speed of a run with it."""
    with_it = record(name, batch or 64, multi_crop=multi_crop, queue=False)
    timed = {part: with_it[part] if batch else None for part in ("config", "timing", "memory", "work", "overhead")}
    made = failed(record(name, 64, multi_crop=multi_crop, queue=False), "ok", "") | timed
    cell = made["cell"] | {"task": "largest_batch", "id": f"largest-{name}-{multi_crop}", "suite": "memory"}
    tried = [(64, batch is not None)] + ([(batch, True), (batch + 64, False)] if batch else [])
    tries = [
        {"batch": b, "status": "ok" if fits else "oom", "reason": None if fits else "full", "peak_bytes": None}
        for b, fits in tried
    ]
    found = {"batch": batch, "smallest_too_large": batch + 64 if batch else 64, "step": 64, "tries": tries}
    return made | {"cell": cell, "reason": None, "largest_batch": found}


def failed(made: dict[str, Any], status: str, reason: str) -> dict[str, Any]:
    """The record as it would be had it failed: what was not measured is null."""
    kept = {} if status == "collapsed" else dict.fromkeys(MEASURED)
    return made | {"status": status, "reason": reason} | kept


def demo(names: tuple[str, ...] = tuple(FRAMEWORKS), **changes: Any) -> list[dict[str, Any]]:
    """The demo's cells: implementations x two batches x multi-crop off/on x queue off/on."""
    return [
        record(name, batch, multi_crop=multi_crop, queue=queue, **changes)
        for batch, multi_crop, queue in itertools.product((32, 64), (False, True), (False, True))
        for name in names
    ]


def gpu(made: dict[str, Any], name: str = "Example H200") -> dict[str, Any]:
    """The record as if measured on a GPU."""
    described = made["environment"]["implementation"] | {"device": name, "precision": "bfloat16"}
    card = {"name": name, "memory_bytes": 141 * 2**30, "driver": "580.1", "power_limit_w": 700.0}
    cell = made["cell"] | {"device": "gpu", "precision": "bfloat16", "id": made["cell"]["id"] + "-gpu"}
    rate = made["timing"]["samples_per_s"]
    state = {"sm_clock_mhz": 1980, "temperature_c": 52, "throttle_reasons": [], "other_processes": 0}
    return made | {
        "cell": cell,
        "environment": made["environment"] | {"gpus": [card], "implementation": described},
        "memory": made["memory"] | {"allocator_peak_bytes": 37 * 2**30, "nvml_process_bytes": 41 * 2**30},
        "energy": {
            "joules": 7200.0,
            "window_s": 12.0,
            "samples": int(12 * rate),
            "joules_per_sample": 600 / rate,
            "mean_power_w": 600.0,
            "before": state,
            "after": state | {"temperature_c": 64},
        },
        "work": made["work"] | {"share_of_peak": 0.31, "peak_tflops_per_s": 989.0},
    }


def write(folder: Path, made: list[dict[str, Any]]) -> Path:
    """A results folder with these records, each checked against the schema."""
    folder.mkdir(parents=True, exist_ok=True)
    for one in made:
        records.append(folder, one)
    return folder
