"""The parent: one child process for each cell, one after another, and a line in records.jsonl when it has ended.

A cell that fails is a record with its reason, and the run goes on. Whatever ends the parent ends the child, and the
same command later measures the cells that are missing. A time budget ends a run as Ctrl-C does: what has ended counts,
the rest is "not run".
"""

from __future__ import annotations

import dataclasses
import datetime as dt
import fcntl
import json
import math
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from swav_bench import __version__, children, environment, largest, parity, records
from swav_bench.cells import Cell
from swav_bench.derive import derive
from swav_bench.estimate import Estimator
from swav_bench.inputs import Reading
from swav_bench.progress import Display, printable
from swav_bench.records import Record
from swav_spec.errors import InvalidInput, require

LOGS, PARITY, TRACES, LOCK = "logs", "parity", "traces", ".lock"
LONGEST_REASON = 500
#: Where float32 has no room for a batch, its half is tried, and so on, so many times.
HALVINGS = 4


@dataclass(frozen=True)
class Options:
    """How cells are run.

    Attributes:
        timeout_s: for one cell, from the start of its process to its end.
        threads: CPU threads of a measured process.
        retry_failed: cells whose newest record is not ok are run again.
        interpreters: implementation -> Python that has its framework; this one by default.
        parts: the parts of a step are timed as well.
        trace: a few steps are traced by the framework's profiler, into the folder's traces/.
        reading: how images are read that are not in memory.
        memory_limit_bytes: main memory that a try of the largest batch may take beyond its framework's.
        budget_s: for all cells together; None is without end.
    """

    timeout_s: float
    threads: int = 1
    retry_failed: bool = False
    interpreters: Mapping[str, str] = field(default_factory=dict)
    parts: bool = False
    trace: bool = False
    reading: Reading = field(default_factory=Reading)
    memory_limit_bytes: int | None = None
    budget_s: float | None = None

    def __post_init__(self) -> None:
        require(self.budget_s is None or self.budget_s > 0, "time budget", self.budget_s, "more than 0 seconds")
        require(self.timeout_s > 0, "timeout", self.timeout_s, "more than 0 seconds")
        require(self.threads >= 1, "threads", self.threads, "at least 1")


def run(folder: Path, cells: Sequence[Cell], options: Options, display: Display) -> list[Record]:
    """Measures the cells that have no record yet in `folder`, which is made if need be.

    Within a time budget, a cell that is not expected to end in time is left out and smaller ones after it are tried;
    the first one is always tried. A cell that the end of the budget stops leaves no record.

    Returns:
        The newest record of each of `cells`, in their order; one of status "not_run" for each that was not reached.

    Raises:
        InvalidInput: the folder cannot be used, another run uses it, or an implementation's framework is not installed.
        KeyboardInterrupt: the running cell's process is ended and leaves no record.
    """
    start = time.perf_counter()
    with _usable(folder):
        for problem in records.repair(folder):
            display.note(problem)
        plan = _extend_plan(folder, cells)
        done = records.finished(folder)
        missing = [cell for cell in cells if _is_missing(done.get(cell.id), options)]
        for name in sorted({cell.implementation for cell in missing}):
            children.check_installed(name, options.interpreters.get(name, sys.executable))
        for name in sorted({cell.implementation for cell in missing if cell.device == "gpu"}):
            children.check_gpu(name, options.interpreters.get(name, sys.executable))
        display.start(cells=len(cells), missing=missing, done=list(done.values()))
        estimator = Estimator(done.values(), threads=options.threads)
        shared = _Shared()
        told: set[tuple[str, ...]] = set()
        measured = 0
        for cell in missing:
            left = math.inf if options.budget_s is None else options.budget_s - (time.perf_counter() - start)
            if left <= 0 or (measured and estimator.cell(cell).wall_s > left):
                display.cell_skipped(cell)
                continue
            display.cell_started(cell)
            limited = replace(options, timeout_s=min(options.timeout_s, left))
            record = _Measurement(folder, cell, limited, display, shared).record()
            if record["status"] == "timeout" and limited.timeout_s < options.timeout_s:
                display.cell_skipped(cell)
                continue
            records.append(folder, record)
            done[cell.id] = record
            measured += 1
            estimator.learn(record)
            display.cell_ended(record)
            _tell_skipped(record, told, display)
        return [done.get(cell.id) or records.not_run(cell.to_dict(), plan) for cell in cells]


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


def _extend_plan(folder: Path, cells: Sequence[Cell]) -> dict[str, Any]:
    """plan.json with these cells after those that it had."""
    plan = records.read_plan(folder)
    known = plan.get("cells", [])
    ids = {cell["id"] for cell in known}
    added = [cell.to_dict() for cell in cells if cell.id not in ids]
    if added or not plan:
        here = environment.describe()
        plan = {"version": __version__, "environment": here, "cells": [*known, *added]}
        records.write_plan(folder, plan)
    return plan


def _tell_skipped(record: Record, told: set[tuple[str, ...]], display: Display) -> None:
    """Says which images were left out, once for each list of them."""
    data = record["data"]
    reasons = tuple(data["skipped_reasons"]) if data else ()
    if reasons and reasons not in told:
        told.add(reasons)
        display.note(f"{data['skipped']} images were left out, {data['train_samples']} are trained on:")
        for reason in reasons:
            display.note(f"  {printable(reason)}")
        if data["skipped"] > len(reasons):
            display.note(f"  and {data['skipped'] - len(reasons)} more")


def _is_missing(record: Record | None, options: Options) -> bool:
    return record is None or (options.retry_failed and record["status"] != "ok")


@dataclass
class _Shared:
    """What cells leave for later ones.

    Attributes:
        raw_pixels: kind of input and data set -> their baseline.
        first_steps: what `first_step` was asked -> its result.
    """

    raw_pixels: dict[str, Any] = field(default_factory=dict)
    first_steps: dict[tuple[str, ...], dict[str, Any]] = field(default_factory=dict)


class _Measurement:
    """One cell, from starting its process to its record."""

    def __init__(self, folder: Path, cell: Cell, options: Options, display: Display, shared: _Shared) -> None:
        self.folder, self.cell, self.options, self.display = folder, cell, options, display
        self.shared = shared
        self.environment = environment.describe()
        self.log = folder / LOGS / f"{cell.id}.log"
        # Of a stream it is other pixels: see evaluation.py.
        self._pixels = f"{cell.input} {cell.dataset}"
        self.reference = folder / PARITY / f"{parity.key(cell)}.json"

    def record(self) -> Record:
        """Runs the children that it takes, and says how it went."""
        started_at = dt.datetime.now(dt.UTC)
        start = time.perf_counter()
        deadline = start + self.options.timeout_s
        if self.cell.task == "largest_batch":
            result = self._largest(deadline)
        elif self.cell.task == "kernels":
            result = self._child("kernels", {"cell": self.cell.to_job()}, deadline)
        else:
            result = self._trained(deadline)
        return self._whole(result, started_at, time.perf_counter() - start)

    def _trained(self, deadline: float) -> dict[str, Any]:
        """Of a training run, after the first step that is judged."""
        judged = self._first_step(deadline)
        if judged and judged["status"] != "ok":
            return _failed(judged["status"], judged["reason"])
        result = self._child("measure", self._job(self.cell, judged, self._other()), deadline)
        self._keep(result)
        return result

    def _job(self, cell: Cell, judged: dict[str, Any] | None, other: dict[str, Any] | None) -> dict[str, Any]:
        """Of measure.Measurement: a cell, its first step as it is judged, and that of another to compare with."""
        return {
            "cell": cell.to_job(),
            "first_step": judged,
            "parity": other,
            "raw_pixels": self.shared.raw_pixels.get(self._pixels),
            "reading": dataclasses.asdict(self.options.reading),
            "parts": self.options.parts,
            "trace": str(self.folder / TRACES / self.cell.id) if self.options.trace else None,
        }

    def _first_step(self, deadline: float) -> dict[str, Any] | None:
        """What the parity gate judges of a precision lower than float32; None where it judges the cell's own step.

        Float32 takes more memory: where the batch does not fit, half of it is tried, and so on. What has been
        compared with already says which batch it was.
        """
        judged = parity.judged_precision(self.cell.precision)
        if judged == self.cell.precision:
            return None
        other = self._other()
        batch = other["batch"] if other else self.cell.batch
        while True:
            # The first step uses no queue yet, so cells with one and without share it.
            cell = replace(self.cell, precision=judged, batch=batch, queue_rows=0)
            whole = batch == self.cell.batch
            key = (cell.implementation, cell.mode, self.cell.precision, str(whole), parity.key(cell))
            result = self.shared.first_steps.get(key)
            if result is None:
                job = {"cell": cell.to_job(), "lower": self.cell.precision, "whole": whole}
                job["reading"] = dataclasses.asdict(self.options.reading)
                result = self._child("first step", job, deadline)
                if result["status"] in ("ok", "oom"):
                    self.shared.first_steps[key] = result
            if result["status"] != "oom" or batch // 2 < max(2, self.cell.batch >> HALVINGS):
                return result | {"batch": batch}
            batch //= 2

    def _largest(self, deadline: float) -> dict[str, Any]:
        """Of a search for the largest batch, and of a training run with it."""
        limit = self.options.memory_limit_bytes
        result = largest.measure(self.cell, lambda cell: self._try(cell, deadline), limit_bytes=limit)
        if result["status"] == "ok":
            found = replace(self.cell, task="train", batch=result["largest_batch"]["batch"])
            result = largest.with_times(result, self._child("measure", self._job(found, None, None), deadline))
        return result

    def _try(self, cell: Cell, deadline: float) -> dict[str, Any]:
        job = {"cell": cell.to_job(), "memory_limit_bytes": self.options.memory_limit_bytes}
        return self._child("try batch", job, deadline, self.log.with_suffix(f".{cell.batch}.log"))

    def _child(self, task: str, job: dict[str, Any], deadline: float, log: Path | None = None) -> dict[str, Any]:
        """Result of a child of this cell, within what is left of the cell's time."""
        left = deadline - time.perf_counter()
        if left <= 0:
            return _failed("timeout", f"the cell's {self.options.timeout_s:g} s were over")
        ended = children.run(
            task,
            job,
            children.Process(
                implementation=self.cell.implementation,
                device=self.cell.device,
                threads=self.options.threads,
                interpreters=self.options.interpreters,
                log=log or self.log,
            ),
            self._event,
            timeout_s=left,
        )
        return ended.result or _failed(ended.status, ended.reason)

    def _event(self, event: dict[str, Any]) -> None:
        kind = event["event"]
        if kind == "phase":
            self.display.phase(event["name"])
        elif kind == "progress":
            self.display.step(event["step"], self.cell.steps, event["loss"])
        else:  # what the child runs on
            self.environment = event["environment"]

    def _keep(self, result: dict[str, Any]) -> None:
        """Leaves for later cells what they need of this one."""
        raw = result.pop("raw_pixels", None)
        if raw:
            self.shared.raw_pixels[self._pixels] = raw
        step = result.pop("parity_summary", None)
        if step and result["status"] in ("ok", "collapsed") and not self.reference.exists():
            records.write_atomically(self.reference, json.dumps({"implementation": self.cell.implementation, **step}))

    def _other(self) -> dict[str, Any] | None:
        """The first step to compare with: `implementation`, `batch`, `summary`."""
        kept = _read_json(self.reference)
        return kept and {"batch": self.cell.batch} | kept  # older folders do not name the batch: it was the whole

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
