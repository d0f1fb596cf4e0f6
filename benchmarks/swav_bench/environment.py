"""Where a measurement was made: machine, versions, settings, commit. No host name, no user, no paths."""

from __future__ import annotations

import os
import platform
import re
import socket
import subprocess
from functools import cache
from importlib import metadata
from pathlib import Path
from typing import Any

import psutil

from swav_bench import nvml

#: Of a note of a record, in characters.
LONGEST_NOTE = 300
PACKAGES = ("numpy", "torch", "jax", "jaxlib", "flax", "optax", "tensorflow", "tensorflow-cpu", "keras", "scikit-learn")
VARIABLES = (
    "OMP_NUM_THREADS",
    "MKL_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "XLA_FLAGS",
    "XLA_PYTHON_CLIENT_PREALLOCATE",
    "XLA_PYTHON_CLIENT_MEM_FRACTION",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "TF_FORCE_GPU_ALLOW_GROWTH",
    "TF_XLA_FLAGS",
    "TF_ENABLE_ONEDNN_OPTS",
    "NVIDIA_TF32_OVERRIDE",
    "PYTORCH_CUDA_ALLOC_CONF",
    "CUBLAS_WORKSPACE_CONFIG",
)


def describe() -> dict[str, Any]:
    """`environment` of a record, as this process and its interpreter see it; `implementation` is left null."""
    gpu = nvml.first_gpu()
    return {
        "os": f"{platform.system()} {platform.release()}",
        "architecture": platform.machine(),
        "cpu": _cpu(),
        "cpu_count": _cpu_count(),
        "memory_bytes": int(psutil.virtual_memory().total),
        "python": platform.python_version(),
        "packages": {name: version for name in PACKAGES if (version := _version(name))},
        "variables": {name: without_paths(os.environ[name]) for name in VARIABLES if name in os.environ},
        "gpus": [gpu.describe()] if gpu else [],
        "implementation": None,
        "compile_cache": "off",
    }


def for_child(threads: int, device: str) -> dict[str, str]:
    """Environment variables of a measured process: its threads, no memory taken in advance, no cache of programs.

    Two spinning thread pools on two cores were four times slower than one thread each, so threads are set everywhere.
    """
    count = str(threads)
    variables = dict.fromkeys(("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"), count)
    variables |= {
        "TF_NUM_INTRAOP_THREADS": count,
        "TF_NUM_INTEROP_THREADS": count,
        "TF_CPP_MIN_LOG_LEVEL": "2",
        "JAX_ENABLE_COMPILATION_CACHE": "false",
        "TORCHINDUCTOR_FORCE_DISABLE_CACHES": "1",
        "PYTHONUNBUFFERED": "1",
    }
    if device == "gpu":
        variables |= {"XLA_PYTHON_CLIENT_PREALLOCATE": "false", "TF_FORCE_GPU_ALLOW_GROWTH": "true"}
    elif threads == 1:
        flags = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
        given = os.environ.get("XLA_FLAGS", "")
        variables["XLA_FLAGS"] = given if flags in given else f"{given} {flags}".strip()
    return variables


@cache
def commit() -> tuple[str | None, bool | None]:
    """Commit of the source tree that this file belongs to, and whether sources differ from it; None, None elsewhere."""
    here = Path(__file__).resolve()

    def git(*arguments: str) -> str | None:
        try:
            done = subprocess.run(
                ["git", "-C", str(here.parent), *arguments],  # noqa: S607 - git is where the PATH says
                capture_output=True,
                text=True,
                check=True,
                timeout=20,
            )
        except (OSError, subprocess.SubprocessError):
            return None
        return done.stdout.strip()

    # A package installed into an environment inside some other repository is not that repository's source.
    if git("ls-files", "--error-unmatch", here.name) is None:
        return None, None
    changed = git("status", "--porcelain", "--untracked-files=no", "--", ":/", ":(exclude,top)results")
    return git("rev-parse", "HEAD"), bool(changed)


def said(error: Exception) -> str:
    """An error's kind and words, fit for a note of a record: at most LONGEST_NOTE characters, without paths."""
    return without_paths(f"{type(error).__name__}: {error}")[:LONGEST_NOTE]


def without_paths(text: str) -> str:
    """The text on one line, without control characters, with folders and this machine's name left out."""
    text = " ".join(re.sub(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+", " ", text).split())
    text = re.sub(r"(?<![\w/.:])(?:[A-Za-z]:)?(?:[\\/][\w.+@~-]+)+[\\/]([\w.+@~-]+)", r"\1", text)
    name = socket.gethostname()
    return text.replace(name, "this-machine") if len(name) > 3 else text


def _version(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def _cpu() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:  # pragma: no cover - a system without /proc
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith(("model name", "Hardware"))]
    return names[0] if names else platform.processor() or "unknown"


def _cpu_count() -> int:
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
