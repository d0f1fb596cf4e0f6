"""What a measured process does with its cell: data, weights, first step, parity gate, timed training, evaluation."""

from __future__ import annotations

import contextlib
import math
import statistics
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from swav_bench import (
    cells,
    environment,
    first_step,
    inputs,
    memory,
    nvml,
    overhead,
    parity,
    parts,
    trace,
    training,
    watch,
)
from swav_bench.one_batch import one_batch
from swav_bench.timing import Blocks, blocks
from swav_data.encoded import EncodedSet
from swav_data.images import ImageSet, Splits
from swav_spec import config as configs
from swav_spec import registry, tolerance
from swav_spec.config import Execution
from swav_spec.errors import require
from swav_spec.network import initial_weights

if TYPE_CHECKING:
    from swav_bench.child import Reporter

#: So many images that were left out are named in the record.
REASONS = 10
#: A loss that arrives this share of a block after its fence, and this many seconds, shows a fence that does not wait.
#: For so long another thread of this process, which makes plans ahead, may keep Python's lock.
LATE_SHARE, LATE_S = 0.1, sys.getswitchinterval()
#: A cell is limited by its input if its loop waits for it for a larger share of the time than this. Unless the device
#: is then busy for more than so many further steps: it had enough to do while the loop waited.
INPUT_WAIT_SHARE, BACKLOG_STEPS = 0.1, 1.5


class Measurement:
    """One cell's measurement, as far as it has come.

    Attributes:
        found: parts of the record, raw values only; what a failure leaves is still worth a record.
        phase: what is being done.
        status, reason: ok, or why a measurement that went through does not count.
    """

    def __init__(self, job: Mapping[str, Any], reporter: Reporter) -> None:
        self.job = job
        self.reporter = reporter
        self.cell = cells.from_job(job["cell"])
        self.reading = inputs.Reading(**job.get("reading", {}))
        self.found: dict[str, Any] = {"notes": []}
        self.phase = "starting"
        self.status = "ok"
        self.reason: str | None = None
        self._started = time.perf_counter()
        self._gpu = nvml.first_gpu() if self.cell.device == "gpu" else None

    def run(self) -> None:
        """Measures.

        Raises:
            InvalidInput: the job asks for what is not there.
            NotFiniteError: training broke down.
            Exception: whatever the framework raises.
        """
        self._enter("loading data")
        data = first_step.images(self.cell, self.reading, self._enter)
        config = self.cell.config(samples=len(data.train))
        self.found["config"] = configs.to_dict(config)
        weights = initial_weights(config.network, self.cell.seed)
        plan = blocks(config)
        own_views = first_step.own_views(self.cell)
        # It goes first: what the last implementation sets for the whole process is what the timed one runs under.
        judged = self._judged(weights, data.train, own_views=own_views)
        self._enter("importing the framework")
        trainer = self._load(self.cell.execution)
        self._enter("compiling")
        trainer.reset_peak()
        with contextlib.ExitStack() as stack:
            feed = self._feed(trainer, data.train, config, stack)
            streamed = feed if isinstance(feed, inputs.Streamed) else None
            self.found["data"] = {
                "train_samples": feed.samples,
                "skipped": len(feed.skipped),
                "skipped_reasons": [environment.without_paths(reason) for reason in feed.skipped[:REASONS]],
                "workers": streamed.workers if streamed else None,
                "prefetch": self.reading.prefetch if streamed else None,
            }
            started = time.perf_counter()
            state = trainer.init(config, weights)
            spans: list[training.Span] = []
            state = self._train(trainer, state, feed, [1], spans.append)
            first_s = time.perf_counter() - started
            self._enter("checking the first step")
            if not self._agrees(config, trainer.to_arrays(state), spans[0], judged, own_views=own_views):
                return
            state = self._timed(trainer, state, feed, plan, spans[0], first_s)
            if self.status == "ok":
                self._beside(trainer, state, feed, plan)
        # Nothing is learnt from the views of one batch.
        if self.status == "ok" and self.cell.input != "views" and (data.test or data.validation):
            self._evaluate(trainer, state, weights, data)
        self._enter("done")

    def _feed(
        self, trainer: Any, data: ImageSet | EncodedSet, config: configs.Config, stack: contextlib.ExitStack
    ) -> inputs.Resident | inputs.Streamed | inputs.ReadyViews:
        """Where the cell's steps get their input from; what it holds open is closed with the stack."""
        seed = self.cell.seed
        if self.cell.input == "views":
            return inputs.ReadyViews(trainer, data, config, seed=seed)
        if self.cell.input == "stream":
            workers, prefetch = self.reading.workers, self.reading.prefetch
            streamed = inputs.Streamed(trainer, data, config, seed=seed, workers=workers, prefetch=prefetch)
            return stack.enter_context(streamed)
        assert isinstance(data, ImageSet)
        return inputs.Resident(trainer, data, config, seed=seed)

    def _enter(self, phase: str) -> None:
        self.phase = phase
        print(f"{time.perf_counter() - self._started:8.2f} s  {time.process_time():8.2f} s CPU  {phase}", flush=True)
        self.reporter.phase(phase)

    def _load(self, execution: Execution) -> Any:
        implementation: Any = registry.load(self.cell.implementation, execution)
        require(
            "trainer" in implementation.fulfils,
            "implementation",
            self.cell.implementation,
            "one that fulfils the trainer",
        )
        here = environment.describe() | {"implementation": implementation.describe()}
        self.found["environment"] = here
        self.reporter.send("environment", environment=here)
        return implementation

    def _train(
        self,
        trainer: Any,
        state: Any,
        feed: inputs.Feed,
        fences: list[int],
        observe: Callable[[training.Span], None],
    ) -> Any:
        def told(span: training.Span) -> None:
            self.reporter.send("progress", step=span.done, loss=float(span.losses[-1]))
            observe(span)

        return training.train(trainer, state, feed, fences=fences, observe=told)

    def _judged(
        self, weights: Mapping[str, np.ndarray], data: ImageSet | EncodedSet, *, own_views: bool
    ) -> dict[str, Any] | None:
        """The first step that the gate judges instead of the cell's own: `summary`, `batch`, `lower_loss`.

        Of a precision lower than float32 it has been taken before this process; of an implementation that makes views
        of its own it is the first step on the specification's.
        """
        before: dict[str, Any] | None = self.job["first_step"]
        if before is not None or not own_views:
            return before
        self._enter("checking the first step on the specification's views")
        summary = first_step.take(self.cell, data, weights)
        return {"summary": summary, "batch": self.cell.batch, "lower_loss": None}

    def _agrees(
        self,
        config: configs.Config,
        arrays: Mapping[str, np.ndarray],
        first: training.Span,
        judged: dict[str, Any] | None,
        *,
        own_views: bool,
    ) -> bool:
        loss, notes = float(first.losses[0]), self.found["notes"]
        own = judged or {"summary": parity.summary(loss, arrays), "batch": self.cell.batch, "lower_loss": None}
        self.found["parity_summary"] = {"batch": own["batch"], "summary": own["summary"]}
        whole = own["batch"] == self.cell.batch
        if not whole:
            notes.append(f"its first step was checked on {own['batch']} images, as float32 does not fit with more")
        other = self.job["parity"]
        if other is not None and other["batch"] != own["batch"]:
            notes.append(f"it was not compared with {other['implementation']}, whose had {other['batch']} images")
        elif other is not None:
            compared = parity.compare(
                own["summary"], other["summary"], other["implementation"], config, self.cell.precision
            )
            self.found["parity"] = compared
            self.reason = parity.verdict(compared)
        if own_views:
            said = "the first step was compared on the specification's, training made its own"
            notes.append(f"its views are its own: {said}")
        # Of views of its own, or of fewer images, the process before has taken the step in this precision as well.
        lower, wide = (loss if whole and not own_views else own["lower_loss"]), own["summary"]["loss"]
        if lower is not None and not abs(lower - wide) <= tolerance.bound(self.cell.precision) * abs(wide):
            self.reason = f"the first loss in {self.cell.precision} is {lower:.6g}, in float32 {wide:.6g}"
        if self.reason:
            self.status = "wrong"
        return self.reason is None

    def _timed(
        self, trainer: Any, state: Any, feed: inputs.Feed, plan: Blocks, first: training.Span, first_s: float
    ) -> Any:
        self._enter("warming up")
        spans, marks = [first], []

        def mark() -> None:
            gpu = self._gpu
            marks.append((trainer.compilations(), gpu.energy() if gpu else None, gpu.condition() if gpu else None))

        def observe(span: training.Span) -> None:
            spans.append(span)
            if span.done == plan.warmup:
                self._enter("training")
                mark()

        state = self._train(trainer, state, feed, plan.fences[1:], observe)
        mark()
        timed = spans[2:]
        (compiled, start, before), (recompiled, end, after) = marks
        self.found["timing"] = {
            "time_to_first_step_s": first_s,
            "compilations": compiled,
            "recompilations": None if compiled is None else recompiled - compiled,
            "warmup_steps": plan.warmup,
            "steps_per_block": plan.steps,
            "block_s": [span.wall_s for span in timed],
            "input_waited_s": [span.waited_s for span in timed],
            "cores_busy": sum(span.cpu_s for span in timed) / sum(span.wall_s for span in timed),
        }
        self.found["memory"] = {
            "allocator_peak_bytes": trainer.peak_memory_bytes(),
            "process_peak_bytes": memory.process_peak_bytes(),
            "nvml_process_bytes": self._gpu.process_bytes() if self._gpu else None,
        }
        if start and end and before and after:
            self._energy(end.joules - start.joules, end.time_s - start.time_s, plan, before, after)
        elif start and not end:
            self.found["notes"].append("energy is left out: the GPU stopped answering NVML while it was training")
        self._input_limit(timed, plan)
        self._curve(spans, state.config)
        late, block = (statistics.median(times) for times in zip(*((s.late_s, s.wall_s) for s in timed), strict=True))
        if late > max(LATE_SHARE * block, LATE_S):
            self.status = "wrong"
            self.reason = (
                f"its fence does not wait: the loss came {late:.3g} s after the end of a block of {block:.3g} s"
            )
        return state

    def _beside(self, trainer: Any, state: Any, feed: inputs.Feed, plan: Blocks) -> None:
        """SwAV's overhead over its encoder and, where asked for, the parts of a step and a trace of some."""
        notes, train_s = self.found["notes"], self.found["learning"]["train_s"]
        if callable(getattr(trainer, "encoder_step", None)):
            with self._noting_failure("timing the bare encoder"):
                self.found["overhead"] = overhead.measure(trainer, state, plan, train_s)
        else:
            notes.append("overhead is not known: the implementation has no encoder_step")
        if self.job.get("parts") and "overhead" in self.found:
            with self._noting_failure("timing the parts of a step"):
                batch = one_batch(trainer, feed, state.config)
                self.found["parts"] = parts.measure(trainer, state, batch, self.found["overhead"], train_s, notes)
        if (folder := self.job.get("trace")) and not callable(getattr(trainer, "trace", None)):
            notes.append("there is no trace: the implementation has none to offer")
        elif folder:
            with self._noting_failure("tracing"):
                files = trace.record(trainer, state, feed, Path(folder))
                notes.append(f"{trace.STEPS} steps were traced: {', '.join(files)}")

    @contextlib.contextmanager
    def _noting_failure(self, phase: str) -> Iterator[None]:
        """Enters the phase; if it fails that is a note, as what was measured before is as good as it was."""
        self._enter(phase)
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever a framework raises
            traceback.print_exc()
            said = environment.said(error)
            self.found["notes"].append(f"{phase} failed: {said}")

    def _input_limit(self, timed: Sequence[training.Span], plan: Blocks) -> None:
        """Notes where the device had to wait for its input."""
        share = sum(span.waited_s for span in timed) / sum(span.wall_s for span in timed)
        backlog = statistics.median(plan.steps * span.fence_s / span.wall_s for span in timed)
        if share > INPUT_WAIT_SHARE and backlog <= BACKLOG_STEPS:
            self.found["notes"].append(f"limited by its input: it waited for it {share:.0%} of the time")

    def _energy(
        self, joules: float, window_s: float, plan: Blocks, before: dict[str, Any], after: dict[str, Any]
    ) -> None:
        others = max(before["other_processes"] or 0, after["other_processes"] or 0)
        if others:
            self.found["notes"].append(f"{others} other processes were on the GPU")
        if window_s < nvml.SHORTEST_WINDOW_S:
            self.found["notes"].append(f"energy is left out: {window_s:.1f} s of training are too short to count it")
            return
        self.found["energy"] = {
            "joules": joules,
            "window_s": window_s,
            "samples": plan.count * plan.steps * self.cell.batch,
            "before": before,
            "after": after,
        }

    def _curve(self, spans: list[training.Span], config: configs.Config) -> None:
        losses = np.concatenate([span.losses for span in spans])
        last = training.final_steps(len(losses))
        self.found["learning"] = {
            "loss_curve": [[span.done, float(span.losses.mean())] for span in spans],
            "final_loss": float(losses[-last:].mean()),
            "final_loss_steps": last,
            "ln_k": math.log(config.network.prototypes),
            "code_entropy": float(spans[-1].metrics["code_entropy"]),
            "prototypes_used": int(spans[-1].metrics["prototypes_used"]),
            "prototypes": config.network.prototypes,
            "train_s": sum(span.wall_s for span in spans),
        }

    def _evaluate(
        self, trainer: Any, state: Any, weights: Mapping[str, np.ndarray], data: Splits[ImageSet | EncodedSet]
    ) -> None:
        # Not imported earlier: scikit-learn's memory is none of the training's.
        from swav_bench import evaluation

        self._enter("evaluating")
        config = state.config
        known, asked = data.train, data.evaluation
        split = "test" if data.test is not None else "validation"

        raw, judge = self.job["raw_pixels"], evaluation.judge
        if evaluation.of_one_size(known) and evaluation.of_one_size(asked):
            looked = [
                [evaluation.features(trainer, current(), part.images) for part in (known, asked)]
                for current in (lambda: state, lambda: trainer.init(config, weights))
            ]
            raw = raw or evaluation.raw_pixels(known, asked)
        else:
            notes, states = self.found["notes"], [state, trainer.init(config, weights)]
            known = evaluation.sample(known, evaluation.MOST_KNOWN, self.reading, notes)
            asked = evaluation.sample(asked, evaluation.MOST_ASKED, self.reading, notes)
            train, test = (evaluation.middles(trainer, states, part, config, self.reading) for part in (known, asked))
            looked = [list(of_state) for of_state in zip(train.features, test.features, strict=True)]
            raw = raw or judge(train.raw, test.raw, known, asked)
        learnt, random = (judge(of_known, of_asked, known, asked) for of_known, of_asked in looked)
        self.found["raw_pixels"] = raw
        learning = self.found["learning"]
        self.found["accuracy"] = {
            "knn_top1": learnt["knn_top1"],
            "linear_top1": learnt["linear_top1"],
            "raw_knn_top1": raw["knn_top1"],
            "raw_linear_top1": raw["linear_top1"],
            "random_knn_top1": random["knn_top1"],
            "random_linear_top1": random["linear_top1"],
            "chance": learnt["chance"],
            "knn_k": learnt["knn_k"],
            "knn_temperature": learnt["knn_temperature"],
            "split": split,
        }
        if watch.at_ln_k(learning["final_loss"], config):
            self.status = "collapsed"
            self.reason = (
                f"the loss ended at {learning['final_loss']:.3f}, within {watch.MARGIN:.0%} of "
                f"ln K = {learning['ln_k']:.3f}: all images get the same codes"
            )
