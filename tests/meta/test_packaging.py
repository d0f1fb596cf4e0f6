"""The wheel holds everything: built, installed elsewhere, and run from there."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PACKAGES = (
    *("swav_spec", "swav_data", "swav_eval", "swav_bench"),
    *("swav_torch", "swav_jax", "swav_tensorflow", "swav_plain_torch"),
)


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """A folder that the freshly built wheel, and nothing else, is installed into."""
    built = tmp_path_factory.mktemp("built")
    _python("-m", "hatchling", "build", "--target", "wheel", "--directory", str(built), cwd=ROOT)
    (wheel,) = built.glob("*.whl")
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    _python("-m", "pip", "install", "--no-deps", "--no-index", "--target", str(elsewhere), str(wheel), cwd=built)
    return elsewhere, wheel


def test_wheel_holds_every_file_of_every_package(installed):
    _, wheel = installed
    held = set(zipfile.ZipFile(wheel).namelist())
    wanted = {
        str(path.relative_to(base))
        for base in (ROOT / "shared", ROOT / "impls", ROOT / "benchmarks")
        for package in PACKAGES
        for path in (base / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert wanted
    assert wanted <= held, sorted(wanted - held)


def test_packages_are_imported_from_where_the_wheel_was_installed(installed, tmp_path):
    elsewhere, _ = installed
    code = "import " + ", ".join(PACKAGES) + "; print('\\n'.join(m.__file__ for m in (" + ", ".join(PACKAGES) + ")))"
    files = _python("-c", code, cwd=tmp_path, path=elsewhere).stdout.split()
    assert len(files) == len(PACKAGES)
    assert all(Path(file).is_relative_to(elsewhere) for file in files), files


def test_command_runs_from_there(installed, tmp_path):
    elsewhere, _ = installed
    script = elsewhere / "bin" / "swav-bench"
    run = _python(str(script), "--help", cwd=tmp_path, path=elsewhere)
    for command in ("run", "report", "env"):
        assert command in run.stdout
    listed = _python(str(script), "list", cwd=tmp_path, path=elsewhere).stdout
    assert "textures" in listed


def _python(*arguments: str, cwd: Path, path: Path | None = None) -> subprocess.CompletedProcess:
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    if path is not None:
        environment["PYTHONPATH"] = str(path)
    run = subprocess.run(
        [sys.executable, *arguments], cwd=cwd, env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
    return run
