"""The folder of a training run, whole at any moment, however its processes end.

config.json     the resolved config, settings, seed, data and the sessions that have trained it
log.jsonl       one line for each fence, in order of steps
checkpoints/    step-NNNNNNNNN.safetensors, the last few, and best.safetensors
events.out.*    the log as TensorBoard reads it, where asked for
summary.json    how the run ended
child.log       what the training process has printed
"""

from __future__ import annotations

import fcntl
import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from swav_bench import checkpoint
from swav_bench.records import write_atomically
from swav_spec.errors import InvalidInput, require

FORMAT = "swav-bench run 1"
LogLine = dict[str, Any]


@dataclass(frozen=True)
class RunFolder:
    """Names of its parts, and how they are read and written."""

    path: Path

    @property
    def config(self) -> Path:
        """config.json."""
        return self.path / "config.json"

    @property
    def log(self) -> Path:
        """log.jsonl."""
        return self.path / "log.jsonl"

    @property
    def checkpoints(self) -> Path:
        """The folder of checkpoints."""
        return self.path / "checkpoints"

    @property
    def best(self) -> Path:
        """The checkpoint that was best so far."""
        return self.checkpoints / "best.safetensors"

    @property
    def summary(self) -> Path:
        """summary.json."""
        return self.path / "summary.json"

    @property
    def child_log(self) -> Path:
        """What the training process has printed."""
        return self.path / "child.log"

    @contextmanager
    def held(self) -> Iterator[None]:
        """The folder, made, locked against a second run, and cleaned of half-written files.

        The lock goes with the process, however it ends.

        Raises:
            InvalidInput: it cannot be written, holds something else, or is in use.
        """
        where = f"out = {str(self.path)!r}"
        if not self.config.exists():
            strange = [path.name for path in self._entries() if not self._is_ours(path)]
            require(
                not strange, "out", str(self.path), f"a new folder, or that of a run; it holds {', '.join(strange[:3])}"
            )
        try:
            self.checkpoints.mkdir(parents=True, exist_ok=True)
            lock = self._lock.open("w")
        except OSError as error:
            raise InvalidInput(f"{where}: must be a folder that can be written ({error.strerror})") from None
        with lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                raise InvalidInput(f"{where}: another run is using it; wait for it or name another") from None
            checkpoint.clean(self.checkpoints)
            for left in self.path.glob(".*.tmp"):
                left.unlink(missing_ok=True)
            try:
                yield
            except InvalidInput:
                if not self.config.exists():
                    self._remove_empty()
                raise

    def read(self, path: Path) -> dict[str, Any] | None:
        """What config.json or summary.json says; None where there is none.

        Raises:
            InvalidInput: it is no JSON table.
        """
        if not path.exists():
            return None
        try:
            found = json.loads(path.read_text(encoding="utf-8"))
        except ValueError as error:
            raise InvalidInput(f"{path}: cannot be read ({error})") from error
        require(isinstance(found, dict), str(path), found, "a JSON table")
        return dict(found)

    def write(self, path: Path, content: dict[str, Any]) -> None:
        """Writes config.json or summary.json, whole or not at all."""
        write_atomically(path, json.dumps(content, indent=1, allow_nan=False) + "\n")

    def append(self, line: LogLine) -> None:
        """Adds a line to the log in a single write."""
        text = (json.dumps(line, allow_nan=False, separators=(",", ":")) + "\n").encode()
        descriptor = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            before = os.fstat(descriptor).st_size
            if os.write(descriptor, text) != len(text):
                os.ftruncate(descriptor, before)
                raise OSError(f"{self.log.name}: the disk is full")
        finally:
            os.close(descriptor)

    def lines(self) -> list[LogLine]:
        """The log's whole lines up to the first that is none or whose step does not grow."""
        found: list[LogLine] = []
        for text in self.log.read_bytes().splitlines(keepends=True) if self.log.exists() else []:
            try:
                line = json.loads(text)
                step = int(line["step"])
            except (ValueError, KeyError, TypeError):
                break
            if not text.endswith(b"\n") or (found and step <= found[-1]["step"]):
                break
            found.append(line)
        return found

    def rewind(self, step: int) -> list[LogLine]:
        """Takes lines of later steps off the log, so that the run can go on from this one; returns those left."""
        kept = [line for line in self.lines() if line["step"] <= step]
        text = "".join(json.dumps(line, separators=(",", ":")) + "\n" for line in kept)
        if not self.log.exists() or self.log.read_bytes() != text.encode():
            write_atomically(self.log, text)
        return kept

    @property
    def _lock(self) -> Path:
        return self.path / ".lock"

    def _entries(self) -> list[Path]:
        try:
            return sorted(self.path.iterdir()) if self.path.exists() else []
        except OSError as error:
            raise InvalidInput(f"out = {str(self.path)!r}: must be a folder ({error.strerror})") from None

    def _is_ours(self, path: Path) -> bool:
        """Whether a run that had not come to training may have left it."""
        if path == self.checkpoints:
            return path.is_dir() and not any(path.iterdir())
        return path in (self._lock, self.child_log) or (path.name.startswith(".") and path.suffix == ".tmp")

    def _remove_empty(self) -> None:
        """Takes away what a run that was refused would leave."""
        for path in (self.child_log, self._lock):
            path.unlink(missing_ok=True)
        for folder in (self.checkpoints, self.path):
            with suppress(OSError):  # something is in it
                folder.rmdir()
