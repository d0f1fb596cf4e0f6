"""Streamed batches are the same after a kill and with another number of workers, and every framework trains on them."""

from __future__ import annotations

import json
import math
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from swav_spec.network import convolutions
from swav_spec.recipes import resnet18
from swav_spec.testing.assertions import assert_close

HERE = Path(__file__).parent
FRAMEWORKS = ("torch", "jax", "tensorflow")
KILLED_AFTER, FURTHER = 7, 20
BATCH, STEPS, WORKERS = 4, 20, 1


def start(module, *arguments):
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path)), "OMP_NUM_THREADS": "1"}
    return subprocess.Popen(
        [sys.executable, "-m", f"tests.parity.{module}", *map(str, arguments)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
        cwd=HERE.parents[1],
    )


def digests(source, batch, first, stop, workers, *, kill_after=None):
    """Step -> SHA-256 of the batches of a process of its own, which may be killed after one of them."""
    found = {}
    with start("stream_digests", source, batch, first, stop, workers) as process:
        for line in process.stdout:
            step, digest = line.split()
            found[int(step)] = digest
            if int(step) == kill_after:
                process.send_signal(signal.SIGKILL)
                break
            process.stdin.write("on\n")
            process.stdin.flush()
        _, errors = process.communicate(timeout=120)
    wanted = 0 if kill_after is None else -signal.SIGKILL
    assert process.returncode == wanted, errors[-2000:]
    return found


def check_digests(source, batch):
    stop = KILLED_AFTER + 1 + FURTHER
    straight = digests(source, batch, 0, stop, 0)
    assert list(straight) == list(range(stop))
    assert len(set(straight.values())) == stop
    killed = digests(source, batch, 0, 10**6, 2, kill_after=KILLED_AFTER)
    resumed = digests(source, batch, KILLED_AFTER + 1, stop, 1)
    assert killed | resumed == straight
    assert len(resumed) == FURTHER


@pytest.fixture
def jpegs(tmp_path):
    """30 photograph-like JPEGs of different sizes, colours and kinds in three class folders."""
    random = np.random.default_rng(0)
    for number in range(30):
        height, width = random.integers(120, 420, 2)
        rows, columns = np.mgrid[:height, :width]
        colour = random.uniform(0.2, 1, 3)
        waves = 128 + 90 * np.sin(rows / random.uniform(3, 40) + columns / random.uniform(3, 40))[..., None] * colour
        pixels = np.clip(waves + random.normal(0, 12, waves.shape), 0, 255).astype(np.uint8)
        folder = tmp_path / "train" / f"class{number % 3}"
        folder.mkdir(parents=True, exist_ok=True)
        image = Image.fromarray(pixels)
        image = image.convert("L") if number % 10 == 7 else image
        image.save(folder / f"{number:02}.jpg", quality=int(random.integers(60, 96)))
    return tmp_path


def test_batches_are_the_same_after_a_kill_and_with_other_workers(jpegs):
    check_digests(jpegs, 5)


@pytest.mark.needs_data
def test_batches_of_photographs_are_the_same_after_a_kill_and_with_other_workers(request):
    check_digests(Path(request.config.getoption("data_dir")) / "flowers", 16)


@pytest.mark.needs_data
def test_every_framework_trains_from_the_stream(request):
    source = Path(request.config.getoption("data_dir")) / "flowers"
    device = request.config.getoption("device")
    found = {}
    for framework in FRAMEWORKS:
        with start("stream_training", framework, source, BATCH, STEPS, WORKERS, device) as process:
            output, errors = process.communicate(timeout=500)
        assert process.returncode == 0, errors[-4000:]
        found[framework] = json.loads(output.strip().splitlines()[-1])
    with request.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        print(
            f"\nResNet-18, 2x160+4x96, batch {BATCH}, {STEPS} steps on a {device} from a stream of photographs, "
            f"{WORKERS} worker:"
        )
        for framework, run in found.items():
            print(
                f"{framework:10}  loss {run['losses'][0]:.4f} -> {run['losses'][-1]:.4f}, "
                f"first step {run['first_s']:.1f} s, then {run['step_s']:.2f} s a step, "
                f"waited {run['waited_s']:.2f} s for images"
            )
    for what in ("pixels", "plans"):
        assert len({run[what] for run in found.values()}) == 1, what
    for framework, run in found.items():
        assert run["step"] == STEPS, framework
        assert all(map(math.isfinite, run["losses"])), framework
    # Roundings in a row: the convolutions, the head, the Sinkhorn iterations; the codes magnify them by 1/epsilon.
    depth = sum(1 for _ in convolutions(resnet18(stem="imagenet"))) + 2 + 4 * 3
    for framework, run in found.items():
        one, other = np.array(run["losses"][:1]), np.array(found[FRAMEWORKS[0]]["losses"][:1])
        assert_close(one, other, precision="float32", depth=depth, gain=1 / 0.05, what=f"first loss of {framework}")
