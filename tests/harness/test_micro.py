"""The micro benchmarks run, say where they ran, and can be compared."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from swav_bench import children, environment

ROOT = Path(__file__).parents[2]


@pytest.fixture
def python():
    """Runs Python with arguments in the checkout; gives what it printed."""

    # pytest-benchmark measures nothing in a worker of pytest-xdist, which this process may be.
    variables = {k: v for k, v in children.child_environment(1, "cpu").items() if not k.startswith("PYTEST_")}

    def go(*arguments):
        done = subprocess.run(
            [sys.executable, *arguments],
            cwd=ROOT,
            env=variables | {"COLUMNS": "200"},
            capture_output=True,
            text=True,
            timeout=120,
            check=False,
        )
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    return go


def test_all_operations_run_and_two_saved_runs_compare(python, tmp_path):
    storage = f"file://{tmp_path}"
    once = (
        "--benchmark-min-rounds=1",
        "--benchmark-max-time=0",
        f"--benchmark-storage={storage}",
        "-p",
        "no:cacheprovider",
    )
    chosen = ("benchmarks/micro", "-k", "not test_pil_views and not test_stream", "--implementation", "fake:WithMaths")
    for name in ("first", "second"):
        python("-m", "pytest", *chosen, *once, f"--benchmark-save={name}")
    first, second = sorted(tmp_path.rglob("*.json"))
    saved = json.loads(first.read_text())
    measured = {case["name"].partition("[")[0] for case in saved["benchmarks"]}
    assert measured == {
        *("test_sinkhorn", "test_swapped_loss", "test_queue_read", "test_queue_push", "test_larc_sgd"),
        *("test_views", "test_step_on_views", "test_encoder_step"),
    }
    machine = saved["machine_info"]
    assert machine["implementation"]["framework"] == "fake"
    assert machine["packages"] == environment.describe()["packages"]
    assert machine["variables"]["OMP_NUM_THREADS"] == "1"
    host = socket.gethostname()
    assert len(host) <= 3 or host not in first.read_text()

    compared = python("-m", "pytest_benchmark", f"--storage={storage}", "compare", str(first), str(second))
    for name in measured:
        assert compared.count(f"{name}[") == 2 * sum(
            case["name"].startswith(f"{name}[") for case in saved["benchmarks"]
        )
    assert "0001_first" in compared
    assert "0002_secon" in compared
