"""Global Sinkhorn where the rows really lie on two ranks: the authors' recorded codes come out on both."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from tests.parity.two_ranks import PRECISION, two_rank_cases

from swav_spec.testing.assertions import assert_golden

ROOT = Path(__file__).parents[2]
COLUMNS = ("shared", "impls", "benchmarks", ".")


def ranks(outs, *arguments, **variables):
    """Starts a process for each file to write, waits for all, and reads what they wrote."""
    path = os.pathsep.join([*(str(ROOT / part) for part in COLUMNS), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": path} | variables
    command = [sys.executable, "-m", "tests.parity.two_ranks"]
    started = [
        subprocess.Popen(
            [*command, *arguments[:1], str(out), *([str(rank)] if len(outs) > 1 else []), *arguments[1:]],
            cwd=ROOT,
            env=environment,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank, out in enumerate(outs)
    ]
    for process in started:
        _, said = process.communicate(timeout=300)
        assert process.returncode == 0, said
    found = []
    for out in outs:
        with np.load(out, allow_pickle=False) as file:
            found.append({name: file[name] for name in file.files})
    return found


@pytest.fixture(scope="module")
def torch_codes(tmp_path_factory):
    folder = tmp_path_factory.mktemp("torch")
    first, second = ranks([folder / "0.npz", folder / "1.npz"], "torch", str(folder / "rendezvous"))
    return {name: np.concatenate([first[name], second[name]]) for name in first}


@pytest.fixture(scope="module")
def jax_codes(tmp_path_factory):
    # In front: XLA reads no flag that stands behind a word without dashes, which thread settings often are.
    flags = f"--xla_force_host_platform_device_count=2 {os.environ.get('XLA_FLAGS', '')}"
    (codes,) = ranks([tmp_path_factory.mktemp("jax") / "codes.npz"], "jax", XLA_FLAGS=flags)
    return codes


@pytest.mark.parametrize("framework", ["torch", "jax"])
def test_codes_of_two_real_ranks(request, framework):
    codes = request.getfixturevalue(f"{framework}_codes")
    wanted = two_rank_cases()
    assert len(wanted) == 88
    assert set(codes) == {case.name for case in wanted}
    for case in wanted:
        assert_golden(codes[case.name], case.output("q", PRECISION), precision=PRECISION, what=case.name)
