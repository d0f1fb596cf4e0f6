"""The process that does one task with one framework: `python -m swav_bench.child FD`, started by children.py.

Its job is one JSON line on standard input, which stays open: when it ends, the parent is gone and so is this process.
What it finds goes to the pipe FD as JSON lines, {"event": ..., ...}: "environment", "phase", "progress" and at the end
one "result": `status`, `reason` and what the task found. Whatever anything prints goes to the process's log.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import signal
import sys
import threading
import traceback
from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, Protocol, TextIO

from swav_spec.errors import InvalidInput

#: What frameworks say when memory has run out, in lower case.
OUT_OF_MEMORY = (
    "out of memory",
    "resource_exhausted",
    "resource exhausted",
    "oom when allocating",
    "bad_alloc",
    "can't allocate memory",
    "cannot allocate memory",
    "failed to map segment",
)


class Reporter:
    """Sends events to the parent."""

    def __init__(self, pipe: TextIO) -> None:
        self._pipe = pipe

    def send(self, event: str, **values: Any) -> None:
        """Writes one line; NaN and infinities are errors, which a record may not hold either."""
        self._pipe.write(json.dumps({"event": event, **values}, allow_nan=False) + "\n")
        self._pipe.flush()

    def phase(self, name: str) -> None:
        """Says what comes next, for the progress display and for the reason of a timeout."""
        self.send("phase", name=name)


def main() -> None:
    """Does the job and exits 0 whenever it could report how that went."""
    with os.fdopen(int(sys.argv[1]), "w", encoding="utf-8") as pipe:
        job = json.loads(sys.stdin.readline())
        _die_with(job["parent"])
        reporter = Reporter(pipe)
        reporter.send("result", **run(job, reporter))


#: What a job's "task" stands for: a class, see Task, that is made from (job, reporter).
TASKS = MappingProxyType(
    {
        "first step": "swav_bench.first_step:FirstStep",
        "measure": "swav_bench.measure:Measurement",
        "train": "swav_bench.train_task:Training",
        "kernels": "swav_bench.kernels:Kernels",
        "try batch": "swav_bench.largest:Try",
        "features": "swav_bench.features_task:Features",
        "prototypes": "swav_bench.features_task:Prototypes",
        "protocol": "swav_bench.protocol_task:Protocol",
        "read torch file": "swav_bench.torch_files:Reading",
        "write torch file": "swav_bench.torch_files:Writing",
    }
)


class Task(Protocol):
    """A task, as far as it has come.

    Attributes:
        found: JSON values of the result; what a failure leaves is still worth telling.
        phase: what is being done.
        status, reason: "ok", or why a task that went through does not count.
    """

    found: dict[str, Any]
    phase: str
    status: str
    reason: str | None

    def run(self) -> None:
        """Does it."""


def run(job: Mapping[str, Any], reporter: Reporter) -> dict[str, Any]:
    """The result of a job: `status`, `reason` and whatever was found; failures are results too."""
    from swav_bench.training import NotFiniteError

    module, _, name = TASKS[job["task"]].partition(":")
    task: Task = getattr(importlib.import_module(module), name)(job, reporter)
    status: str
    reason: str | None
    try:
        task.run()
    except InvalidInput as error:
        status, reason = "error", str(error)
    except NotFiniteError as error:
        status, reason = "error", f"training broke down: {error}"
    except Exception as error:  # noqa: BLE001 - whatever a framework raises is this task's result, not the command's end
        traceback.print_exc()
        text = f"{type(error).__name__}: {error}"
        full = isinstance(error, MemoryError) or any(words in text.lower() for words in OUT_OF_MEMORY)
        status, reason = ("oom" if full else "error"), f"while {task.phase}: {text}"
    else:
        status, reason = task.status, task.reason
    return {"status": status, "reason": reason, **task.found}


def _die_with(parent: int) -> None:
    """Ends this process when its parent ends, however that happens."""
    if sys.platform == "linux":  # pragma: no branch - other systems have the thread below
        set_parent_death_signal = 1
        ctypes.CDLL(None, use_errno=True).prctl(set_parent_death_signal, signal.SIGKILL)
    if os.getppid() != parent:  # pragma: no cover - the parent ended while this process was starting
        os._exit(1)

    def watch() -> None:  # pragma: no cover - ends the process, and what it has covered with it
        sys.stdin.read()
        os._exit(1)

    threading.Thread(target=watch, daemon=True, name="parent-watch").start()


if __name__ == "__main__":
    main()
