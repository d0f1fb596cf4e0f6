"""What a measured process does with its cell: data, weights, first step, parity gate, timed training, evaluation."""

from __future__ import annotations

import contextlib
import gc
import math
import statistics
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from swav_bench import cells, environment, inputs, memory, nvml, parity, training
from swav_bench.timing import Blocks, blocks
from swav_data.images import ImageSet, Splits
from swav_data.sources import load, open_source
from swav_spec import config as configs
from swav_spec import registry, tolerance
from swav_spec.config import Execution
from swav_spec.errors import require
from swav_spec.network import initial_weights

if TYPE_CHECKING:
    from swav_bench.child import Reporter

#: The final loss is the mean over this share of the steps, at least ten of them.
FINAL_SHARE = 0.1
#: A run whose final loss is within this share of ln K has collapsed: all images get the same codes.
COLLAPSE_MARGIN = 0.03
#: So many images that were left out are named in the record.
REASONS = 10
#: A loss that arrives this share of a block after its fence, and this many seconds, shows a fence that does not wait.
LATE_SHARE, LATE_S = 0.1, 1e-3


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
        data = load(self.cell.dataset)
        config = self.cell.config(samples=len(data.train))
        self.found["config"] = configs.to_dict(config)
        weights = initial_weights(config.network, self.cell.seed)
        plan = blocks(config)
        # The twin goes first: what the last implementation sets for the whole process is what the timed one runs under.
        twin = self._twin_summary(config, weights, data.train)
        self._enter("importing the framework")
        trainer = self._load(self.cell.execution)
        self._enter("compiling")
        trainer.reset_peak()
        with contextlib.ExitStack() as stack:
            feed = self._feed(trainer, data.train, config, stack)
            self.found["data"] = {
                "train_samples": feed.samples,
                "skipped": len(feed.skipped),
                "skipped_reasons": list(feed.skipped[:REASONS]),
            }
            started = time.perf_counter()
            state = trainer.init(config, weights)
            spans: list[training.Span] = []
            state = self._train(trainer, state, feed, [1], spans.append)
            first_s = time.perf_counter() - started
            self._enter("checking the first step")
            if not self._agrees(config, trainer.to_arrays(state), spans[0], twin):
                return
            state = self._timed(trainer, state, feed, plan, spans[0], first_s)
        if self.status == "ok" and (data.test is not None or data.validation is not None):
            self._evaluate(trainer, state, weights, data)
        self._enter("done")

    def _feed(self, trainer: Any, data: ImageSet, config: configs.Config, stack: contextlib.ExitStack) -> inputs.Feed:
        """Where the cell's steps get their input from; what it holds open is closed with the stack."""
        if self.cell.input == "views":
            return inputs.ReadyViews(trainer, data, config, seed=self.cell.seed)
        if self.cell.input == "stream":
            images = open_source(self.cell.dataset).train
            return stack.enter_context(inputs.Streamed(trainer, images, config, seed=self.cell.seed))
        return inputs.Resident(trainer, data, config, seed=self.cell.seed)

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

    def _twin_summary(
        self, config: configs.Config, weights: Mapping[str, np.ndarray], data: ImageSet
    ) -> dict[str, Any] | None:
        """The first step in the precision that the gate judges, where the cell's own is lower."""
        judged = parity.judged_precision(self.cell.precision)
        if judged == self.cell.precision:
            return None
        self._enter(f"checking the first step in {judged}")
        twin: Any = registry.load(self.cell.implementation, Execution(self.cell.device, judged, self.cell.mode))
        feed = inputs.Resident(twin, data, config, seed=self.cell.seed)
        spans: list[training.Span] = []
        state = self._train(twin, twin.init(config, weights), feed, [1], spans.append)
        summary = parity.summary(float(spans[0].losses[0]), twin.to_arrays(state))
        del twin, feed, state
        gc.collect()
        return summary

    def _agrees(
        self,
        config: configs.Config,
        arrays: Mapping[str, np.ndarray],
        first: training.Span,
        twin: dict[str, Any] | None,
    ) -> bool:
        loss = float(first.losses[0])
        own = twin or parity.summary(loss, arrays)
        self.found["parity_summary"] = own
        other = self.job["parity"]
        if other is not None:
            compared = parity.compare(own, other["summary"], other["implementation"], config, self.cell.precision)
            self.found["parity"] = compared
            self.reason = parity.verdict(compared)
        bound = tolerance.bound(self.cell.precision)
        if twin and not abs(loss - twin["loss"]) <= bound * abs(twin["loss"]):
            self.reason = f"the first loss in {self.cell.precision} is {loss:.6g}, in float32 {twin['loss']:.6g}"
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
        self._curve(spans, state.config)
        late, block = (statistics.median(times) for times in zip(*((s.late_s, s.wall_s) for s in timed), strict=True))
        if late > max(LATE_SHARE * block, LATE_S):
            self.status = "wrong"
            self.reason = (
                f"its fence does not wait: the loss came {late:.3g} s after the end of a block of {block:.3g} s"
            )
        return state

    def _energy(
        self, joules: float, window_s: float, plan: Blocks, before: dict[str, Any], after: dict[str, Any]
    ) -> None:
        if before["other_processes"]:
            self.found["notes"].append(f"{before['other_processes']} other processes were on the GPU")
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
        last = max(10, round(FINAL_SHARE * len(losses)))
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

    def _evaluate(self, trainer: Any, state: Any, weights: Mapping[str, np.ndarray], data: Splits[ImageSet]) -> None:
        # Not imported earlier: scikit-learn's memory is none of the training's.
        from swav_bench import evaluation

        self._enter("evaluating")
        config = state.config
        known, asked = data.train, data.evaluation
        split = "test" if data.test is not None else "validation"

        def judged(current: Any) -> dict[str, Any]:
            train, test = (evaluation.features(trainer, current, part.images) for part in (known, asked))
            return evaluation.judge(train, test, known, asked)

        learnt = judged(state)
        random = judged(trainer.init(config, weights))
        raw = self.job["raw_pixels"] or evaluation.raw_pixels(known, asked)
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
        if abs(learning["final_loss"] - learning["ln_k"]) <= COLLAPSE_MARGIN * learning["ln_k"]:
            self.status = "collapsed"
            self.reason = (
                f"the loss ended at {learning['final_loss']:.3f}, within {COLLAPSE_MARGIN:.0%} of "
                f"ln K = {learning['ln_k']:.3f}: all images get the same codes"
            )
