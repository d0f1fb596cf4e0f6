"""Checkpoints: all that a run needs to go on, in one safetensors file, whatever framework wrote it.

Arrays are those of `Trainer.to_arrays` (published names and layouts); the config, the position in the data and the
figures so far stand as JSON in the file's header. A file appears whole or not at all, and nothing is ever unpickled.
"""

from __future__ import annotations

import json
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import save as to_bytes

from swav_spec import config as configs
from swav_spec.config import Config
from swav_spec.errors import InvalidInput, require

FORMAT = "swav-bench checkpoint 1"
_NAME = re.compile(r"step-(\d{9})\.safetensors")


@dataclass(frozen=True)
class Checkpoint:
    """A state on the host.

    Attributes:
        config: of the run.
        arrays: of `Trainer.to_arrays`.
        run: JSON values that the training loop needs besides: seed, data, figures so far.
    """

    config: Config
    arrays: dict[str, np.ndarray]
    run: dict[str, Any] = field(default_factory=dict)

    @property
    def step(self) -> int:
        """Steps done."""
        return int(self.arrays["step"])


def save(folder: Path, checkpoint: Checkpoint, *, keep: int = 3) -> Path:
    """Writes step-NNNNNNNNN.safetensors into the folder, then removes all but the last `keep` (best.safetensors stays).

    Returns:
        The file's path.

    Raises:
        InvalidInput: an array holds a value that is not finite; nothing is written then.
        OSError: the disk is full or the folder cannot be written; earlier checkpoints stay.
    """
    require(keep >= 1, "keep", keep, "at least 1")
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / f"step-{checkpoint.step:09d}.safetensors"
    write(path, checkpoint)
    for old in steps(folder)[:-keep]:
        old.unlink(missing_ok=True)
    return path


def write(path: Path, checkpoint: Checkpoint) -> None:
    """Writes one file, whole or not at all; see `save` for what it raises."""
    for name, array in checkpoint.arrays.items():
        if not np.isfinite(array).all():
            raise InvalidInput(f"checkpoint {path.name}: {name} holds a value that is not finite; nothing was written")
    header = {
        "format": FORMAT,
        "config": json.dumps(configs.to_dict(checkpoint.config)),
        "run": json.dumps(checkpoint.run),
    }
    # safetensors wants C order; a transposed view would be written in the wrong order otherwise.
    contents = to_bytes({name: np.asarray(array, order="C") for name, array in checkpoint.arrays.items()}, header)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with temporary.open("wb") as file:
            file.write(contents)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def read(path: Path) -> Checkpoint:
    """The checkpoint in a file.

    Raises:
        InvalidInput: the file is missing, cut off, corrupt or something else.
    """
    from safetensors import safe_open

    if not path.is_file():
        raise InvalidInput(f"checkpoint {path}: there is no such file")
    try:
        with safe_open(path, framework="numpy") as file:
            header = file.metadata() or {}
            arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a dict
    except (SafetensorError, OSError) as error:
        raise InvalidInput(f"checkpoint {path}: cannot be read ({error})") from error
    require(header.get("format") == FORMAT, f"checkpoint {path}: format", header.get("format"), repr(FORMAT))
    try:
        return Checkpoint(configs.from_dict(json.loads(header["config"])), arrays, json.loads(header["run"]))
    except (json.JSONDecodeError, KeyError) as error:
        raise InvalidInput(f"checkpoint {path}: its header is damaged ({error!r})") from error


def steps(folder: Path) -> list[Path]:
    """The folder's checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*.safetensors") if _NAME.fullmatch(path.name))


def latest(folder: Path) -> Checkpoint | None:
    """The folder's last checkpoint, or None where there is none; see `read` for what it raises."""
    paths = steps(folder)
    return read(paths[-1]) if paths else None


def clean(folder: Path) -> list[Path]:
    """Removes what a process that was killed while writing has left; to be called while nobody else writes here."""
    left = sorted(folder.glob(".*.part")) if folder.is_dir() else []
    for path in left:
        path.unlink(missing_ok=True)
    return left


def require_same_config(found: Config, wanted: Config, where: Path) -> None:
    """Raises InvalidInput naming every field in which a checkpoint's config differs from the run's."""
    differences = _differences(configs.to_dict(found), configs.to_dict(wanted), "")
    if differences:
        raise InvalidInput(f"{where} is of another config: " + "; ".join(differences))


def _differences(found: Any, wanted: Any, name: str) -> list[str]:
    if isinstance(found, dict) and isinstance(wanted, dict):
        fields = [*found, *(key for key in wanted if key not in found)]
        return [
            line
            for key in fields
            for line in _differences(found.get(key), wanted.get(key), f"{name}.{key}" if name else key)
        ]
    return [] if found == wanted else [f"{name} is {found!r} there and {wanted!r} here"]
