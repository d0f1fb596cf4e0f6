"""The largest batch that fits: tried by doubling, then by bisection, each try in a process of its own; and its speed.

A try trains a few steps, enough for every buffer, the queue and its use to be there, on images of the data set taken
round and round, so that the data set's size is no limit. It counts as too large when memory ran out, however that
showed: as an exception, by a signal, or at a limit.
"""

from __future__ import annotations

import dataclasses
import resource
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from swav_bench import cells, environment, memory
from swav_bench.training import NotFiniteError
from swav_data.sources import load
from swav_spec import registry
from swav_spec.config import Config, Schedule
from swav_spec.errors import require
from swav_spec.multicrop import crop_plan
from swav_spec.network import initial_weights

if TYPE_CHECKING:
    from swav_bench.cells import Cell
    from swav_bench.child import Reporter

#: Batches that are tried are multiples of the cell's batch over this; they end at this many times the cell's.
GRAIN, LIMIT = 8, 64
#: Steps of a try with everything in use: the update's buffers exist after the first, the last ones show the peak.
STEPS = 3


class Search(NamedTuple):
    """What `search` found.

    Attributes:
        fits: the largest batch that went through, None if none did.
        too_large: the smallest that did not, None if all did.
    """

    fits: int | None
    too_large: int | None


def search(fits: Callable[[int], bool], *, start: int, step: int, limit: int) -> Search:
    """The largest batch that fits, among the multiples of `step` up to `limit`, and the smallest that does not.

    From `start` it doubles until one does not fit, or halves until one fits, and bisects what is left in between.

    Args:
        fits: whether a batch goes through; if one does, all smaller ones are taken to.
        start: the first to try, a multiple of `step`.
        step: at least 2, the smallest batch.
        limit: at least `start`; rounded down to a multiple of `step`.
    """
    require(step >= 2, "step", step, "at least 2")
    require(start >= step and start % step == 0, "start", start, f"a multiple of {step}")
    require(limit >= start, "limit", limit, f"at least {start}")
    largest = limit // step
    low, high = 0, None  # in steps: the largest that fits, 0 for none yet; the smallest that does not
    batch = start // step
    while True:
        if fits(batch * step):
            low = batch
            if low == largest:
                break
        else:
            high = batch
        if high is None:
            batch = min(2 * low, largest)
        elif high - low <= 1:
            break
        else:
            batch = (low + high) // 2
    return Search(low * step or None, None if high is None else high * step)


def measure(cell: Cell, attempt: Callable[[Cell], dict[str, Any]], *, limit_bytes: int | None = None) -> dict[str, Any]:
    """Result of a cell of task "largest_batch": `status`, `reason` and parts of the record.

    Args:
        cell: its batch is the first to be tried.
        attempt: runs a child that tries a cell; gives its result, as of Try.
        limit_bytes: of main memory in a try, if any. Frameworks do not expect to be refused some, and crash: so any
            error after a batch that fits is taken for that.
    """
    step = max(2, cell.batch // GRAIN)
    start = cell.batch // step * step
    limit = LIMIT * start
    if cell.queue_rows:
        limit = min(limit, cell.queue_rows)  # a queue shorter than the batch is refused
    tries: list[dict[str, Any]] = []
    reason: str | None

    def fits(batch: int) -> bool:
        result = attempt(dataclasses.replace(cell, batch=batch))
        tries.append({name: result.get(name) for name in ("status", "reason", "peak_bytes")} | {"batch": batch})
        tries[-1]["reason"] = tries[-1]["reason"] and environment.without_paths(tries[-1]["reason"])
        status = result["status"]
        crashed = limit_bytes is not None and status == "error" and any(one["status"] == "ok" for one in tries)
        if status not in ("ok", "oom") and not crashed:
            raise _StoppedError
        return bool(status == "ok")

    try:
        within = search(fits, start=start, step=step, limit=limit)
    except _StoppedError:
        last = tries[-1]
        fitting, full = ([one["batch"] for one in tries if one["status"] == how] for how in ("ok", "oom"))
        within = Search(max(fitting, default=None), min(full, default=None))
        status, reason = last["status"], f"the try of batch {last['batch']} failed otherwise: {last['reason']}"
    else:
        status = "oom" if within.fits is None else "ok"
        reason = f"not even batch {within.too_large} fits" if within.fits is None else None
    batch = {"batch": within.fits, "smallest_too_large": within.too_large, "step": step, "tries": tries}
    notes = (
        [] if limit_bytes is None else [f"tries had {limit_bytes >> 20} MiB of main memory beyond their framework's"]
    )
    return {"status": status, "reason": reason, "largest_batch": batch, "notes": notes}


#: What a record of a largest batch takes over from a training run with it.
TIMES = ("config", "timing", "memory", "energy", "overhead")


def with_times(found: dict[str, Any], run: Mapping[str, Any]) -> dict[str, Any]:
    """The result of `measure` with the speed, memory and energy of a training run with the batch found.

    Args:
        found: of `measure`, status ok.
        run: of measure.Measurement for that batch; if it failed that is a note, and the batch fits all the same.
    """
    batch, notes = found["largest_batch"]["batch"], found["notes"]
    if run["status"] != "ok":
        return found | {"notes": [*notes, f"batch {batch} fits, but training with it failed: {run['reason']}"]}
    said = f"speed and memory are of batch {batch}, whose first step was not compared with others'"
    return found | {name: run.get(name) for name in TIMES} | {"notes": [*notes, said, *run["notes"]]}


class _StoppedError(Exception):
    """A try failed, but not for lack of memory."""


class Try:
    """One batch of a few steps; see child.Task."""

    def __init__(self, job: Mapping[str, Any], reporter: Reporter) -> None:
        self.reporter = reporter
        self.cell = cells.from_job(job["cell"])
        self.memory_limit_bytes: int | None = job["memory_limit_bytes"]
        self.found: dict[str, Any] = {}
        self.phase = "starting"
        self.status = "ok"
        self.reason: str | None = None

    def run(self) -> None:
        """Trains a few steps."""
        self._enter("loading data")
        data = load(self.cell.dataset).train
        config = self._config(len(data))
        self._enter("importing the framework")
        trainer: Any = registry.load(self.cell.implementation, self.cell.execution)
        here = environment.describe() | {"implementation": trainer.describe()}
        self.reporter.send("environment", environment=here)
        if self.memory_limit_bytes is not None:
            _limit_memory(self.memory_limit_bytes)
        self._enter("compiling")
        trainer.reset_peak()
        images = trainer.to_device(data.images)
        state = trainer.init(config, initial_weights(config.network, self.cell.seed))
        samples = np.arange(config.batch)
        index = samples % len(data)
        for step in range(config.schedule.steps):
            plan = crop_plan(
                config,
                seed=self.cell.seed,
                epoch=step,
                samples=samples,
                heights=data.heights[index],
                widths=data.widths[index],
                index=index,
            )
            state, metrics = trainer.step(state, images, plan)
            trainer.fence(state, metrics)
            self._enter("training")
        if not np.isfinite(trainer.to_host(metrics["loss"])):
            raise NotFiniteError(f"the loss was {float(trainer.to_host(metrics['loss']))}")
        allocated = trainer.peak_memory_bytes()
        self.found["peak_bytes"] = memory.process_peak_bytes() if allocated is None else allocated
        self._enter("done")

    def _config(self, samples: int) -> Config:
        """The cell's, no longer than it takes for the queue to be in use and the prototypes to be trained."""
        config = self.cell.config(samples=max(samples, self.cell.batch))
        filled = config.queue_rows // config.batch
        # Nothing is to be learnt, and a rate of another batch could break it down.
        schedule = Schedule(steps=filled + STEPS, base_lr=0.0)
        return dataclasses.replace(config, schedule=schedule, queue_start=0, freeze_steps=0)

    def _enter(self, phase: str) -> None:
        if phase != self.phase:
            self.phase = phase
            self.reporter.phase(f"batch {self.cell.batch}, {phase}")


def _limit_memory(allowance: int) -> None:
    """Lets this process have so many bytes of address space more than it has, as a small machine or GPU would."""
    statm = Path("/proc/self/statm").read_text(encoding="ascii").split()
    taken = int(statm[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (taken + allowance, resource.getrlimit(resource.RLIMIT_AS)[1]))
