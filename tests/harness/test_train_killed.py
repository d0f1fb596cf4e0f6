"""kill -9 at ten random moments of a run loses nothing but the steps since the last checkpoint."""

from __future__ import annotations

import signal

import numpy as np
import psutil
from tests.harness.killing import check, kill_again_and_again

from swav_bench import checkpoint
from swav_bench.run_folder import RunFolder

STEPS = 40


def arguments(images, framework, out):
    given = ["--framework", framework, "--data", images, "--out", out, "--steps", STEPS, "--precision", "float64"]
    given += [
        "--batch",
        16,
        "--threads",
        1,
        "--log-every",
        1,
        "--checkpoint-every",
        1,
        "--no-evaluate",
        "--tensorboard",
    ]
    return ["train", *given]


def test_ten_kills_and_the_weights_of_a_run_without_one(command, images, tmp_path):
    killed, straight = RunFolder(tmp_path / "killed"), RunFolder(tmp_path / "straight")
    given = arguments(images, "fake:Slow", "killed")
    steps = kill_again_and_again(lambda: command(*given, background=True), killed, kills=10, longest_s=0.4, seed=1)
    assert len(set(steps)) > 3, "the kills did not hit the run"
    assert steps[-1] < STEPS
    assert command(*arguments(images, "fake:Fake", "straight")).returncode == 0
    found, wanted = (checkpoint.latest(folder.checkpoints).arrays for folder in (killed, straight))
    assert found.keys() == wanted.keys()
    assert all(np.array_equal(found[name], wanted[name]) for name in wanted)
    assert [line["step"] for line in killed.lines()] == list(range(1, STEPS + 1))
    assert [line["loss"] for line in killed.lines()] == [line["loss"] for line in straight.lines()]
    assert len(killed.log.read_bytes().splitlines()) == STEPS
    left = [path.name for path in killed.path.rglob(".*") if path.name != ".lock"]
    assert left == []


def test_ctrl_c_says_where_it_stopped_and_leaves_no_process(command, images, tmp_path):
    process = command(*arguments(images, "fake:Slow", "run"), background=True)
    assert any(line.startswith("step 1/") for line in process.stdout)
    children = psutil.Process(process.pid).children(recursive=True)
    process.send_signal(signal.SIGINT)
    _, said = process.communicate(timeout=60)
    assert process.returncode == 130
    step = check(RunFolder(tmp_path / "run"))
    last = f"The last checkpoint is step-{step:09d}.safetensors" if step else "There is no checkpoint yet"
    assert said == f"Stopped. {last}. The same command goes on.\n"
    assert children
    assert not psutil.wait_procs(children, timeout=10)[1]
