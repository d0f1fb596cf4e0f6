"""Views on one CPU thread against PIL's pipeline with the same parameters: 1,000 images, 2x32+4x16, median of 5.

    pytest benchmarks/micro/test_pil_views.py --implementation torch

Both are timed in turns in a process of their own, after a first call that compiles, from pixels in memory. An
implementation that is slower than PIL fails; the reference may be.
"""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from swav_bench.children import child_environment
from swav_spec.testing.assertions import PIPELINE_LEVELS

pytestmark = pytest.mark.needs("views")


def test_against_pil(request):
    name, mode = request.config.getoption("--implementation"), request.config.getoption("--mode")
    script = Path(__file__).with_name("pil_views.py")
    child = subprocess.run(
        [sys.executable, str(script), name, mode],
        env=child_environment(1, "cpu"),
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert child.returncode == 0, child.stderr[-2000:]
    found = json.loads(child.stdout.strip().splitlines()[-1])
    own, pil = (np.array(found["seconds"][who]) for who in ("implementation", "pil"))
    facts = found["describe"]
    with request.config.pluginmanager.get_plugin("capturemanager").global_and_fixture_disabled():
        print(
            f"\nviews of 1,000 images of 32x32, 2x32+4x16, one thread: {facts['framework']} {facts['version']} "
            f"({facts['mode']}) {np.median(own):.3f} s, PIL {np.median(pil):.3f} s, "
            f"ratio {np.median(own) / np.median(pil):.2f} ({min(own / pil):.2f} to {max(own / pil):.2f}); "
            f"they differ by {found['levels']:.2f} levels on average"
        )
    assert found["levels"] < PIPELINE_LEVELS  # the same work
    assert name == "numpy" or np.median(own / pil) <= 1
