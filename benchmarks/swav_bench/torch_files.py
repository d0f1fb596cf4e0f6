"""PyTorch's own files, read and written in a child process that has PyTorch: pickles are read with weights_only.

That unpickler builds tensors and plain containers and calls nothing that a file names.
"""

from __future__ import annotations

import importlib
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from swav_bench import children, weights
from swav_bench.children import Process
from swav_spec.errors import InvalidInput

if TYPE_CHECKING:
    from swav_bench.child import Reporter

SUFFIXES = (".pth", ".pt", ".pth.tar")


def read(path: Path, interpreters: Mapping[str, str] | None = None) -> weights.Tensors:
    """The state dict in a file of torch.save: the file's own dictionary, or the one under "state_dict".

    Args:
        path: the file.
        interpreters: implementation -> Python that has its framework; "torch" is used.

    Raises:
        InvalidInput: PyTorch is not installed, or the file cannot be read, would have to be executed, or holds
            something else than named tensors.
    """
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "tensors.safetensors"
        _run("read torch file", {"source": str(path.absolute()), "out": str(plain)}, Path(folder), interpreters)
        return weights.read_tensors(plain)[1]


def write(path: Path, tensors: weights.Tensors, interpreters: Mapping[str, str] | None = None) -> None:
    """Writes tensors as torch.save writes a state dict, whole or not at all.

    Raises:
        InvalidInput: PyTorch is not installed, or the file cannot be written.
    """
    with tempfile.TemporaryDirectory() as folder:
        plain, temporary = Path(folder) / "tensors.safetensors", path.with_name(f".{path.name}.part")
        weights.write_tensors(plain, tensors)
        try:
            job = {"source": str(plain), "out": str(temporary.absolute()), "asked": str(path)}
            _run("write torch file", job, Path(folder), interpreters)
            temporary.replace(path)
        finally:
            temporary.unlink(missing_ok=True)


def _run(task: str, job: dict[str, Any], folder: Path, interpreters: Mapping[str, str] | None) -> None:
    process = Process("torch", folder / "log.txt", interpreters=interpreters or {})
    children.check_installed(process.implementation, process.interpreter)
    ended = children.run(task, job, process, lambda _: None)
    result = ended.result or {"status": ended.status, "reason": ended.reason}
    if result["status"] != "ok":
        raise InvalidInput(result["reason"])


class _Task:
    def __init__(self, job: Mapping[str, Any], reporter: Reporter) -> None:
        self.found: dict[str, Any] = {}
        self.phase = "importing PyTorch"
        self.status = "ok"
        self.reason: str | None = None
        self.source, self.out = Path(job["source"]), Path(job["out"])
        self._reporter = reporter

    def torch(self) -> Any:
        """PyTorch, by its name: only a process of its own may have a framework."""
        torch = importlib.import_module("torch")
        self.phase = f"handling {self.source.name}"
        return torch


class Reading(_Task):
    """Turns a file of torch.save into safetensors."""

    def run(self) -> None:
        torch = self.torch()
        try:
            found = torch.load(self.source, map_location="cpu", weights_only=True)
        except Exception as error:  # torch.load raises nearly anything on files of other kinds
            said = str(error).strip().splitlines()
            raise InvalidInput(
                f"weights {self.source}: cannot be read as tensors and plain containers, and nothing else in a file of "
                f"PyTorch is read ({type(error).__name__}: {said[0] if said else 'no reason given'})"
            ) from error
        if isinstance(found, dict) and isinstance(found.get("state_dict"), dict):
            found = found["state_dict"]
        if not isinstance(found, dict) or not found:
            raise InvalidInput(f"weights {self.source}: holds no state dict but {type(found).__name__}")
        others = [str(name) for name, value in found.items() if not isinstance(value, torch.Tensor)]
        if others:
            raise InvalidInput(f"weights {self.source}: holds other things than tensors: {', '.join(others[:8])}")
        tensors = {}
        for name, tensor in found.items():
            half = tensor.dtype in (torch.float16, torch.bfloat16)
            tensors[str(name)] = (tensor.float() if half else tensor).detach().numpy()
        weights.write_tensors(self.out, tensors)


class Writing(_Task):
    """Turns safetensors into a file of torch.save, which will have the name that was asked for."""

    def __init__(self, job: Mapping[str, Any], reporter: Reporter) -> None:
        super().__init__(job, reporter)
        self.asked = job["asked"]

    def run(self) -> None:
        torch = self.torch()
        _, tensors = weights.read_tensors(self.source)
        try:
            torch.save({name: torch.from_numpy(np.array(tensor)) for name, tensor in tensors.items()}, self.out)
        except (OSError, RuntimeError) as error:
            raise InvalidInput(f"out = {self.asked!r}: cannot be written ({error})") from error
