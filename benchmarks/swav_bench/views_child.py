"""The views that an implementation makes, in a process of its own.

    python -m swav_bench.views_child JOB.npz VIEWS.npz

Two frameworks in one process disturb each other, so whoever compares their pixels asks one child for each.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from swav_bench.children import child_environment
from swav_spec import registry
from swav_spec.config import Config, DeviceKind, Execution, from_dict, to_dict
from swav_spec.errors import InvalidInput
from swav_spec.multicrop import CropPlan, crop_plan

INVALID = 2  # exit code
TIMEOUT_S = 600
_ARRAYS = ("images", "heights", "widths", "samples")


class Case(NamedTuple):
    """Images and how they are cropped.

    Attributes:
        images: [B, H, W, 3] uint8.
        heights, widths, samples: [B] int64, as for crop_plan.
        config: its crops and augmentation are used.
        seed: of the run. The epoch is 0.
    """

    images: np.ndarray
    heights: np.ndarray
    widths: np.ndarray
    samples: np.ndarray
    config: Config
    seed: int = 0

    def plan(self) -> CropPlan:
        """The crops of these images in the first epoch."""
        return crop_plan(
            self.config, seed=self.seed, epoch=0, samples=self.samples, heights=self.heights, widths=self.widths
        )


def views_of(
    implementation: str,
    cases: Mapping[str, Case],
    *,
    mode: str = "default",
    device: DeviceKind = "cpu",
    interpreter: str = sys.executable,
) -> dict[str, list[np.ndarray]]:
    """What Views.views of an implementation gives in float32 for each case, on the host.

    Raises:
        InvalidInput: the implementation cannot be loaded, or its process fails; says what it said last.
    """
    with tempfile.TemporaryDirectory() as name:
        job, result = Path(name) / "job.npz", Path(name) / "views.npz"
        _write_job(job, cases, {"implementation": implementation, "mode": mode, "device": device})
        command = [interpreter, "-P", "-m", "swav_bench.views_child", str(job), str(result)]
        try:
            done = subprocess.run(
                command,
                env=child_environment(1, device),
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=TIMEOUT_S,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise InvalidInput(f"implementation = {implementation!r}: made no views in {TIMEOUT_S} s") from None
        except OSError as error:
            raise InvalidInput(f"python = {interpreter!r}: cannot be started ({error.strerror})") from None
        if done.returncode:
            said = done.stderr.strip().splitlines() or [f"exit code {done.returncode}"]
            prefix = "" if done.returncode == INVALID else f"implementation = {implementation!r}: failed: "
            raise InvalidInput(prefix + said[-1])
        with np.load(result, allow_pickle=False) as arrays:
            return {
                case: [arrays[f"{case}/{run}"] for run in range(len(cases[case].config.resolutions))] for case in cases
            }


def _write_job(path: Path, cases: Mapping[str, Case], job: dict[str, Any]) -> None:
    job["cases"] = {name: {"config": to_dict(case.config), "seed": case.seed} for name, case in cases.items()}
    arrays = {f"{name}/{field}": getattr(case, field) for name, case in cases.items() for field in _ARRAYS}
    np.savez(path, **{"job": np.array(json.dumps(job)), **arrays})


def main() -> None:
    """Does the job of the first file and leaves "<case>/<run of equal resolution>" in the second."""
    views: dict[str, np.ndarray] = {}
    with np.load(sys.argv[1], allow_pickle=False) as arrays:
        job = json.loads(str(arrays["job"]))
        try:
            implementation: Any = registry.load(job["implementation"], Execution(job["device"], "float32", job["mode"]))
            for name, facts in job["cases"].items():
                images, heights, widths, samples = (arrays[f"{name}/{field}"] for field in _ARRAYS)
                case = Case(images, heights, widths, samples, from_dict(facts["config"]), facts["seed"])
                made = implementation.views(implementation.to_device(case.images), case.plan(), case.config)
                views |= {f"{name}/{run}": implementation.to_host(array) for run, array in enumerate(made)}
        except InvalidInput as error:
            print(error, file=sys.stderr)
            sys.exit(INVALID)
    np.savez(sys.argv[2], **views)  # type: ignore[arg-type]


if __name__ == "__main__":
    main()
