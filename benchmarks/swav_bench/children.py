"""Child processes: whatever needs a framework is done in one of its own, apart from this process and from the others.

A child gets a job, {"task": ..., ...}, as a JSON line, and tells what happens as JSON lines (child.py). Whatever ends
this process ends the child.
"""

from __future__ import annotations

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
from typing import Any, NamedTuple

from swav_bench import environment
from swav_bench.cells import known_implementation
from swav_bench.child import OUT_OF_MEMORY
from swav_bench.probe import probe
from swav_spec.config import DeviceKind
from swav_spec.errors import InvalidInput, require
from swav_spec.registry import BUILT_IN, PEERS

#: A child that has sent its result may take this long to end.
GRACE_S = 10.0
#: Lines of a child's log in which the cause of its abort is looked for.
LAST_WORDS = 50
_PACKAGES = (
    *("swav_bench", "swav_spec", "swav_data", "swav_eval"),
    *("swav_torch", "swav_jax", "swav_tensorflow", "swav_plain_torch"),
)
Event = dict[str, Any]


@dataclass(frozen=True)
class Process:
    """How a child is started.

    Attributes:
        implementation: that it will load.
        log: where everything goes that it prints.
        device: that it will use.
        threads: its CPU threads.
        interpreters: implementation -> Python that has its framework; this one by default.
    """

    implementation: str
    log: Path
    device: DeviceKind = "cpu"
    threads: int = 1
    interpreters: Mapping[str, str] = field(default_factory=dict)

    @property
    def interpreter(self) -> str:
        """The Python that runs it."""
        return self.interpreters.get(self.implementation, sys.executable)


class Ended(NamedTuple):
    """How a child ended.

    Attributes:
        status: "ok" where it sent a result (which may tell of a failure), else "timeout", "oom" or "error".
        reason: one sentence where there is no result.
        result: what it sent last.
    """

    status: str
    reason: str
    result: dict[str, Any] | None


def run(
    task: str,
    job: Mapping[str, Any],
    process: Process,
    handle: Callable[[Event], None],
    *,
    timeout_s: float | None = None,
) -> Ended:
    """Runs one child from start to end.

    Args:
        task: see child.TASKS.
        job: JSON values for it.
        process: how it is started.
        handle: is told of each event but the result: {"event": "phase", "name": ...} and others of the task.
        timeout_s: from its start to its end.

    Raises:
        InvalidInput: the interpreter cannot be started, or the log cannot be written.
        KeyboardInterrupt, Exception: of `handle`; the child has been ended then.
    """
    deadline = None if timeout_s is None else time.perf_counter() + timeout_s
    kills_before = _out_of_memory_kills()
    phase, result = "starting", None

    def event(event: Event) -> None:
        nonlocal phase, result
        if event["event"] == "result":
            result = {name: value for name, value in event.items() if name != "event"}
            return
        if event["event"] == "phase":
            phase = event["name"]
        handle(event)

    code = None
    with _started({"task": task, "parent": os.getpid(), **job}, process) as (child, pipe):
        if _lines(pipe, child, deadline, event):
            with suppress(subprocess.TimeoutExpired):
                code = child.wait(timeout=GRACE_S)
    if result is not None:
        return Ended("ok", "", result)
    if code is None:
        return Ended("timeout", f"no result after {round(timeout_s or GRACE_S, 1):g} s; it was {phase}", None)
    kills = _out_of_memory_kills()
    return Ended(*_without_result(code, phase, process.log, no_memory_kill=kills is not None and kills == kills_before))


def interpreters(given: Sequence[str] | None) -> dict[str, str]:
    """Implementation -> interpreter, from arguments NAME=INTERPRETER; torch's is its peers' too, if not told otherwise.

    Raises:
        InvalidInput: an argument has another form, or the name is unknown.
    """
    found = {}
    for item in given or ():
        name, equals, interpreter = item.partition("=")
        require(bool(name and equals and interpreter), "python", item, "NAME=INTERPRETER, e.g. jax=/opt/jax/bin/python")
        known_implementation(name)
        found[name] = interpreter
    if "torch" in found:
        found = dict.fromkeys(sorted(PEERS), found["torch"]) | found
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
def _started(job: dict[str, Any], process: Process) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    """The child process and the pipe it reports to; it and all it has started are ended on leaving."""
    try:
        log = process.log.open("wb")
    except OSError as error:
        raise InvalidInput(f"log = {str(process.log)!r}: cannot be written ({error.strerror})") from error
    read_end, write_end = os.pipe()
    try:
        with log:
            child = subprocess.Popen(
                [process.interpreter, "-P", "-m", "swav_bench.child", str(write_end)],
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=log,
                pass_fds=[write_end],
                env=child_environment(process.threads, process.device),
                start_new_session=True,
            )
    except OSError as error:
        os.close(read_end)
        raise InvalidInput(f"python = {process.interpreter!r}: cannot be started ({error.strerror})") from error
    finally:
        os.close(write_end)
    assert child.stdin is not None
    try:
        with suppress(BrokenPipeError):
            child.stdin.write(json.dumps(job).encode() + b"\n")
            child.stdin.flush()
        yield child, read_end
    finally:
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(child.pid, signal.SIGKILL)
        child.wait()
        with suppress(BrokenPipeError):
            child.stdin.close()
        os.close(read_end)


def _lines(
    pipe: int, process: subprocess.Popen[bytes], deadline: float | None, handle: Callable[[Event], None]
) -> bool:
    """Hands on each JSON line until the child closes the pipe or ends; whether that was before the deadline."""
    waiting = b""
    while True:
        left = 0.2 if deadline is None else deadline - time.perf_counter()
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


def _without_result(code: int, phase: str, log: Path, *, no_memory_kill: bool) -> tuple[str, str, None]:
    if code == -signal.SIGKILL and not no_memory_kill:
        return "oom", f"killed while {phase}, as the system does when memory has run out", None
    lines = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    said = lines[-1] if lines else "it said nothing"
    if code < 0:
        # Allocators that cannot raise say so and abort.
        full = any(words in line.lower() for line in lines[-LAST_WORDS:] for words in OUT_OF_MEMORY)
        reason = f"killed by signal {-code} ({_signal_name(-code)}) while {phase}"
        return ("oom", f"{reason}: {said}", None) if full else ("error", reason, None)
    return "error", f"exit code {code} while {phase}: {said}", None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return "unknown"


def _out_of_memory_kills() -> int | None:
    """Processes that Linux has killed for lack of memory since it started; None where it does not tell."""
    try:
        lines = Path("/proc/vmstat").read_text(encoding="ascii").splitlines()
    except OSError:  # pragma: no cover - a system without /proc
        return None
    counts = dict(line.split() for line in lines)
    return int(counts["oom_kill"]) if "oom_kill" in counts else None
