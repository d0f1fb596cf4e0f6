"""The parent: one child process for each cell, one after another, and a line in records.jsonl when it has ended.

A cell that fails is a record with its reason, and the run goes on. Whatever ends the parent ends the child, and the
same command later measures the cells that are missing.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swav_bench import __version__, children, environment, parity, records
from swav_bench.cells import Cell
from swav_bench.derive import derive
from swav_bench.progress import Display
from swav_bench.records import Record
from swav_spec.errors import InvalidInput, require

LOGS, PARITY, LOCK = "logs", "parity", ".lock"
LONGEST_REASON = 500


@dataclass(frozen=True)
class Options:
    """How cells are run.

    Attributes:
        timeout_s: for one cell, from the start of its process to its end.
        threads: CPU threads of a measured process.
        retry_failed: cells whose newest record is not ok are run again.
        interpreters: implementation -> Python that has its framework; this one by default.
    """

    timeout_s: float
    threads: int = 1
    retry_failed: bool = False
    interpreters: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        require(self.timeout_s > 0, "timeout", self.timeout_s, "more than 0 seconds")
        require(self.threads >= 1, "threads", self.threads, "at least 1")


def run(folder: Path, cells: Sequence[Cell], options: Options, display: Display) -> list[Record]:
    """Measures the cells that have no record yet in `folder`, which is made if need be.

    Returns:
        The newest record of each of `cells`, in their order.

    Raises:
        InvalidInput: the folder cannot be used, another run uses it, or an implementation's framework is not installed.
        KeyboardInterrupt: the running cell's process is ended and leaves no record.
    """
    with _usable(folder):
        for problem in records.repair(folder):
            display.note(problem)
        _extend_plan(folder, cells)
        done = records.finished(folder)
        missing = [cell for cell in cells if _is_missing(done.get(cell.id), options)]
        for name in sorted({cell.implementation for cell in missing}):
            children.check_installed(name, options.interpreters.get(name, sys.executable))
        for name in sorted({cell.implementation for cell in missing if cell.device == "gpu"}):
            children.check_gpu(name, options.interpreters.get(name, sys.executable))
        display.start(cells=len(cells), missing=missing, done=list(done.values()))
        raw_pixels: dict[str, Any] = {}
        for cell in missing:
            display.cell_started(cell)
            record = _Measurement(folder, cell, options, display).record(raw_pixels)
            records.append(folder, record)
            done[cell.id] = record
            display.cell_ended(record)
        return [done[cell.id] for cell in cells]


@contextmanager
def _usable(folder: Path) -> Iterator[None]:
    """The folder, made and locked against a second run; the lock goes with the process, however it ends."""
    try:
        for part in (folder, folder / LOGS, folder / PARITY):
            part.mkdir(parents=True, exist_ok=True)
        lock = (folder / LOCK).open("w")
    except OSError as error:
        raise InvalidInput(
            f"results folder = {str(folder)!r}: must be a folder that can be written ({error.strerror})"
        ) from None
    with lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise InvalidInput(
                f"results folder = {str(folder)!r}: another run is using it; wait for it or name another"
            ) from None
        try:
            yield
        except OSError as error:
            raise InvalidInput(
                f"results folder = {str(folder)!r}: cannot be written ({error.strerror or error})"
            ) from error


def _extend_plan(folder: Path, cells: Sequence[Cell]) -> None:
    plan = records.read_plan(folder)
    known = plan.get("cells", [])
    ids = {cell["id"] for cell in known}
    added = [cell.to_dict() for cell in cells if cell.id not in ids]
    if added or not plan:
        here = environment.describe()
        records.write_plan(folder, {"version": __version__, "environment": here, "cells": [*known, *added]})


def _is_missing(record: Record | None, options: Options) -> bool:
    return record is None or (options.retry_failed and record["status"] != "ok")


class _Measurement:
    """One cell, from starting its process to its record."""

    def __init__(self, folder: Path, cell: Cell, options: Options, display: Display) -> None:
        self.folder, self.cell, self.options, self.display = folder, cell, options, display
        self.environment = environment.describe()
        self.log = folder / LOGS / f"{cell.id}.log"
        self.reference = folder / PARITY / f"{parity.key(cell)}.json"

    def record(self, raw_pixels: dict[str, Any]) -> Record:
        """Runs the child and says how it went; `raw_pixels` keeps a data set's baseline for the next cell."""
        started_at = dt.datetime.now(dt.UTC)
        start = time.perf_counter()
        job = {
            "cell": self.cell.to_job(),
            "parity": _read_json(self.reference),
            "raw_pixels": raw_pixels.get(self.cell.dataset),
        }
        ended = children.run(
            "measure",
            job,
            children.Process(
                implementation=self.cell.implementation,
                device=self.cell.device,
                threads=self.options.threads,
                interpreters=self.options.interpreters,
                log=self.log,
            ),
            self._event,
            timeout_s=self.options.timeout_s,
        )
        result = ended.result or _failed(ended.status, ended.reason)
        self._keep(result, raw_pixels)
        return self._whole(result, started_at, time.perf_counter() - start)

    def _event(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "phase":
            self.display.phase(event["name"])
        elif kind == "progress":
            self.display.step(event["step"], self.cell.steps, event["loss"])
        elif kind == "environment":
            self.environment = event["environment"]

    def _keep(self, result: dict[str, Any], raw_pixels: dict[str, Any]) -> None:
        """Leaves for later cells what they need of this one."""
        raw = result.pop("raw_pixels", None)
        if raw:
            raw_pixels[self.cell.dataset] = raw
        summary = result.pop("parity_summary", None)
        if summary and result["status"] in ("ok", "collapsed") and not self.reference.exists():
            kept = {"implementation": self.cell.implementation, "summary": summary}
            records.write_atomically(self.reference, json.dumps(kept))

    def _whole(self, result: dict[str, Any], started_at: dt.datetime, wall_s: float) -> Record:
        commit, dirty = environment.commit()
        reason = result["reason"]
        record: Record = records.empty() | {"notes": [], "environment": self.environment} | result
        record |= {
            "schema": records.SCHEMA,
            "reason": environment.without_paths(reason)[:LONGEST_REASON] if reason else None,
            "cell": self.cell.to_dict(),
            "started_at": started_at.strftime("%Y-%m-%dT%H:%M:%SZ"),
            "wall_s": wall_s,
            "commit": commit,
            "dirty": dirty,
            "swav_bench_version": __version__,
        }
        try:
            record = derive(record)
            records.validate(record)
        except (InvalidInput, ArithmeticError, LookupError, TypeError) as error:
            # A stranger's implementation may report anything; what it reports must not end the run.
            self.environment = environment.describe()
            return self._whole(_failed("error", f"its figures make no valid record: {error}"), started_at, wall_s)
        return record


def _failed(status: str, reason: str) -> dict[str, Any]:
    return {"status": status, "reason": reason}


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    except ValueError:
        raise InvalidInput(f"{path.name} in {path.parent.name} cannot be read; delete it to compare afresh") from None
