"""Single operations: sizes, bytes, and what becomes of one that fails."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from tests.harness import in_process

from swav_bench import nvml
from swav_bench.derive import derive
from swav_bench.kernels import kernels
from swav_spec.config import Execution
from swav_spec.recipes import RECIPES, resolve


@pytest.fixture
def fake(monkeypatch, request):
    monkeypatch.syspath_prepend(str(request.path.parent))
    import fake

    return fake


def test_at_batch_256_sizes_are_the_published_ones(fake):
    config = resolve(RECIPES["imagenet-200ep-bs256"], samples=10**6)
    found = {(kernel.name, kernel.size): kernel.bytes for kernel in kernels(fake.WithMaths(Execution()), config)}
    assert [size for name, size in found if name == "sinkhorn"] == [
        "256x3000",
        "4096x3000",
        "4096+256x3000",
        "65536x3000",
        "32768x30000",
    ]
    assert found["sinkhorn", "4096x3000"] == 2 * 4 * 4096 * 3000
    assert found["sinkhorn", "4096+256x3000"] == 4 * (4096 + 2 * 256) * 3000
    assert found["swapped_loss", "8x256x3000"] == 4 * (8 + 2 + 8) * 256 * 3000
    assert found["queue_push", "2x3840x128, 256 new"] == 4 * 2 * 2 * 3840 * 128
    assert found["queue_read", "2x3840x128, 3000 prototypes"] == 4 * (2 * 3840 * (128 + 3000) + 3000 * 128)
    numbers = 25_557_032 - 2048 * 1000 - 1000 + 2048 * 2048 + 2048 + 2 * 2048 + 2048 * 128 + 128 + 3000 * 128
    assert found["larc_sgd", f"166 tensors, {numbers} numbers"] == 4 * 5 * numbers
    pixels = 2 * 224**2 + 6 * 96**2
    assert found["views", "256 of 256x256, 2x224+6x96"] == 256 * 3 * (256**2 + 4 * pixels)
    assert ("views", "256 of 32x32, 2x32+4x16") in found
    wide = [kernel.bytes for kernel in kernels(fake.WithMaths(Execution(precision="float64")), config)]
    assert wide[0] == 2 * found["sinkhorn", "256x3000"]


def test_a_cell_of_kernels_is_a_record(run, cell):
    (record,) = run(cell("WithMaths", task="kernels", batch=4, multi_crop=True))
    assert (record["status"], record["reason"]) == ("ok", None)
    measured = record["kernels"]
    names = [kernel["name"] for kernel in measured]
    assert names == [
        *(["sinkhorn"] * 5),
        *(["swapped_loss"] * 2),
        "queue_read",
        "queue_push",
        "larc_sgd",
        "views",
    ]
    assert all(kernel["call_s_low"] <= kernel["call_s_median"] <= kernel["call_s_high"] for kernel in measured)
    assert all(len(kernel["block_s"]) >= 5 for kernel in measured)
    assert derive(record) == record
    assert record["timing"] is record["overhead"] is None
    assert record["environment"]["implementation"]["framework"] == "fake"


def test_an_operation_that_fails_is_a_note_and_the_others_are_measured(run, cell):
    (record,) = run(cell("WithOneKernel", task="kernels", batch=4))
    assert record["status"] == "ok"
    assert [kernel["name"] for kernel in record["kernels"]] == ["swapped_loss", "views", "views"]
    failed = [note.partition(": ")[0] for note in record["notes"]]
    assert failed[0] == "sinkhorn 4x30 failed"
    assert record["notes"][0].endswith("RuntimeError: CUDA out of memory in kernel.cu")
    assert failed[-1].startswith("larc_sgd")


@pytest.mark.usefixtures("fake")
def test_who_else_is_on_the_gpu_is_a_note(cell, monkeypatch):
    gpu = SimpleNamespace(describe=dict, condition=lambda: {"other_processes": 2}, process_bytes=lambda: 5)
    monkeypatch.setattr(nvml, "first_gpu", lambda: gpu)
    monkeypatch.setattr("swav_bench.kernels.BUDGET_S", 0)
    job = {"cell": cell("WithOneKernel", task="kernels", batch=4, device="gpu").to_job()}
    found = in_process.run("kernels", job, None, lambda event: None).result
    assert found["status"] == "ok"
    assert found["notes"][0] == "2 other processes were on the GPU"
    assert found["memory"]["nvml_process_bytes"] == 5


def test_without_any_operation_there_is_nothing_to_measure(run, cell):
    (record,) = run(cell("OwnViews", task="kernels", batch=4))
    assert record["status"] == "error"
    assert "must be one with an operation to measure" in record["reason"]
