"""The parent: one child process for each cell, one after another, and a line in records.jsonl when it has ended.

A cell that fails is a record with its reason, and the run goes on. Whatever ends the parent ends the child, and the
same command later measures the cells that are missing.
"""

from __future__ import annotations

import datetime as dt
import fcntl
import importlib.util
import json
import os
import select
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from swav_bench import __version__, environment, parity, records
from swav_bench.cells import Cell, known_implementation
from swav_bench.derive import derive
from swav_bench.probe import probe
from swav_bench.progress import Display
from swav_bench.records import Record
from swav_spec.errors import InvalidInput, require
from swav_spec.registry import BUILT_IN

LOGS, PARITY, LOCK = "logs", "parity", ".lock"
LONGEST_REASON = 500
#: A child that has sent its result may take this long to end.
GRACE_S = 10.0
_PACKAGES = ("swav_bench", "swav_spec", "swav_data", "swav_eval", "swav_torch", "swav_jax", "swav_tensorflow")


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
            check_installed(name, options.interpreters.get(name, sys.executable))
        for name in sorted({cell.implementation for cell in missing if cell.device == "gpu"}):
            check_gpu(name, options.interpreters.get(name, sys.executable))
        display.start(cells=len(cells), missing=missing, done=list(done.values()))
        raw_pixels: dict[str, Any] = {}
        for cell in missing:
            display.cell_started(cell)
            record = _Measurement(folder, cell, options, display).record(raw_pixels)
            records.append(folder, record)
            done[cell.id] = record
            display.cell_ended(record)
        return [done[cell.id] for cell in cells]


def interpreters(given: Sequence[str] | None) -> dict[str, str]:
    """Implementation -> interpreter, from arguments NAME=INTERPRETER.

    Raises:
        InvalidInput: an argument has another form, or the name is unknown.
    """
    found = {}
    for item in given or ():
        name, equals, interpreter = item.partition("=")
        require(bool(name and equals and interpreter), "python", item, "NAME=INTERPRETER, e.g. jax=/opt/jax/bin/python")
        known_implementation(name)
        found[name] = interpreter
    return found


def check_installed(name: str, interpreter: str) -> None:
    """Raises InvalidInput, with what to install, for an implementation that `interpreter` cannot import."""
    script = "import importlib.util, sys; sys.exit(importlib.util.find_spec(sys.argv[1]) is None)"
    _, extra, framework = BUILT_IN.get(name, (name, "", ""))
    module = framework or name.partition(":")[0].partition(".")[0]
    try:
        found = subprocess.run(
            [interpreter, "-P", "-c", script, module],
            env=child_environment(1, "cpu"),
            capture_output=True,
            timeout=60,
            check=False,
        )
    except OSError as error:
        reason = f"must be a Python to run {name} with ({error.strerror})"
        raise InvalidInput(f"python = {interpreter!r}: {reason}") from None
    if found.returncode:
        advice = f"install it with: pip install 'swav-bench[{extra}]'" if extra else "put its folder on PYTHONPATH"
        raise InvalidInput(f"implementation = {name!r}: {module} is not installed; {advice}")


def check_gpu(name: str, interpreter: str) -> None:
    """Raises InvalidInput, with what the implementation says, where it finds no GPU."""
    found = probe(name, interpreter, child_environment(1, "gpu"))["gpu"]
    if isinstance(found, str):
        raise InvalidInput(f"{name} cannot use a GPU here: {found}")


def child_environment(threads: int, device: str) -> dict[str, str]:
    """Variables of a child, with the sources of a plain checkout on its path whichever interpreter runs it."""
    installed = {sysconfig.get_paths()[kind] for kind in ("purelib", "platlib")}
    roots = []
    for package in _PACKAGES:
        found = importlib.util.find_spec(package)
        root = str(Path(found.origin).resolve().parent.parent) if found and found.origin else ""
        if root and root not in installed and root not in roots:
            roots.append(root)
    path = os.pathsep.join([*roots, *filter(None, [os.environ.get("PYTHONPATH")])])
    variables = dict(os.environ) | environment.for_child(threads, device)
    return variables | ({"PYTHONPATH": path} if path else {})


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
        self.phase = "starting"
        self.environment = environment.describe()
        self.result: dict[str, Any] | None = None
        self.log = folder / LOGS / f"{cell.id}.log"
        self.reference = folder / PARITY / f"{parity.key(cell)}.json"

    def record(self, raw_pixels: dict[str, Any]) -> Record:
        """Runs the child and says how it went; `raw_pixels` keeps a data set's baseline for the next cell."""
        started_at = dt.datetime.now(dt.UTC)
        start = time.perf_counter()
        deadline = start + self.options.timeout_s
        kills_before = _out_of_memory_kills()
        job = {
            "parent": os.getpid(),
            "cell": self.cell.to_job(),
            "parity": _read_json(self.reference),
            "raw_pixels": raw_pixels.get(self.cell.dataset),
        }
        with self._child(job) as (process, pipe):
            in_time = _lines(pipe, process, deadline, self._event)
            code = None
            if in_time:
                with suppress(subprocess.TimeoutExpired):
                    code = process.wait(timeout=GRACE_S)
        if self.result is not None:
            result = self.result
        elif code is None:
            result = _failed("timeout", f"no result after {self.options.timeout_s:g} s; it was {self.phase}")
        else:
            kills = _out_of_memory_kills()
            result = self._without_result(code, kills is not None and kills == kills_before)
        self._keep(result, raw_pixels)
        return self._whole(result, started_at, time.perf_counter() - start)

    @contextmanager
    def _child(self, job: dict[str, Any]) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
        """The child process and the pipe it reports to; it and all it has started are ended on leaving."""
        read_end, write_end = os.pipe()
        interpreter = self.options.interpreters.get(self.cell.implementation, sys.executable)
        try:
            with self.log.open("wb") as log:
                process = subprocess.Popen(
                    [interpreter, "-P", "-m", "swav_bench.child", str(write_end)],
                    stdin=subprocess.PIPE,
                    stdout=log,
                    stderr=log,
                    pass_fds=[write_end],
                    env=child_environment(self.options.threads, self.cell.device),
                    start_new_session=True,
                )
        except BaseException:
            os.close(read_end)
            raise
        finally:
            os.close(write_end)
        assert process.stdin is not None
        try:
            with suppress(BrokenPipeError):
                process.stdin.write(json.dumps(job).encode() + b"\n")
                process.stdin.flush()
            yield process, read_end
        finally:
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            with suppress(BrokenPipeError):
                process.stdin.close()
            os.close(read_end)

    def _event(self, event: dict[str, Any]) -> None:
        kind = event.pop("event")
        if kind == "phase":
            self.phase = event["name"]
            self.display.phase(self.phase)
        elif kind == "progress":
            self.display.step(event["step"], self.cell.steps, event["loss"])
        elif kind == "environment":
            self.environment = event["environment"]
        elif kind == "result":
            self.result = event

    def _without_result(self, code: int, no_memory_kill: bool) -> dict[str, Any]:
        if code == -signal.SIGKILL and not no_memory_kill:
            return _failed("oom", f"killed while {self.phase}, as the system does when memory has run out")
        if code < 0:
            return _failed("error", f"killed by signal {-code} ({_signal_name(-code)}) while {self.phase}")
        lines = self.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
        said = lines[-1] if lines else "it said nothing"
        return _failed("error", f"exit code {code} while {self.phase}: {said}")

    def _keep(self, result: dict[str, Any], raw_pixels: dict[str, Any]) -> None:
        """Leaves for later cells what they need of this one."""
        raw = result.pop("raw_pixels", None)
        if raw:
            raw_pixels[self.cell.dataset] = raw
        summary = result.pop("parity_summary", None)
        result.pop("learning", None)
        if summary and result["status"] in ("ok", "collapsed") and not self.reference.exists():
            kept = {"implementation": self.cell.implementation, "summary": summary}
            records.write_atomically(self.reference, json.dumps(kept))

    def _whole(self, result: dict[str, Any], started_at: dt.datetime, wall_s: float) -> Record:
        commit, dirty = environment.commit()
        reason = result["reason"]
        record: Record = dict.fromkeys(("config", "timing", "memory", "energy", "work", "parity", "accuracy"))
        record |= {"notes": [], "environment": self.environment} | result
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


def _lines(
    pipe: int, process: subprocess.Popen[bytes], deadline: float, handle: Callable[[dict[str, Any]], None]
) -> bool:
    """Hands on each JSON line until the child closes the pipe or ends; whether that was before the deadline."""
    waiting = b""
    while True:
        left = deadline - time.perf_counter()
        if left <= 0:
            return False
        ended = process.poll() is not None
        ready, _, _ = select.select([pipe], [], [], 0 if ended else min(left, 0.2))
        if ready:
            chunk = os.read(pipe, 1 << 16)
            if not chunk:
                return True
            *lines, waiting = (waiting + chunk).split(b"\n")
            for line in lines:
                handle(json.loads(line))
        elif ended:
            return True


def _failed(status: str, reason: str) -> dict[str, Any]:
    return {"status": status, "reason": reason}


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def _out_of_memory_kills() -> int | None:
    """Processes that Linux has killed for lack of memory since it started; None where it does not tell."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    counts = dict(line.split() for line in lines)
    return int(counts["oom_kill"]) if "oom_kill" in counts else None


def _read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8")) if path.exists() else None
    except ValueError:
        raise InvalidInput(f"{path.name} in {path.parent.name} cannot be read; delete it to compare afresh") from None
