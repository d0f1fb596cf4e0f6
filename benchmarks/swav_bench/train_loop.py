"""What happens at the fences of a training run: looking, the log, checkpoints, accuracies.

A line of the log stands before the checkpoint that follows it, so that a run that goes on from a checkpoint has all
lines up to it, and takes off those after it.
"""

from __future__ import annotations

import contextlib
import datetime as dt
import functools
import math
import time
from collections.abc import Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np

from swav_bench import checkpoint, events, training, watch
from swav_bench.api import Central
from swav_bench.checkpoint import Checkpoint
from swav_bench.fences import Fences, is_multiple
from swav_bench.inputs import Reading
from swav_bench.one_batch import views_of
from swav_bench.run_config import Settings
from swav_bench.run_folder import FORMAT, LogLine, RunFolder
from swav_bench.training import NotFiniteError, Span
from swav_data.encoded import EncodedSet
from swav_data.images import ImageSet, Splits
from swav_data.stream import Stream
from swav_spec.config import Config
from swav_spec.multicrop import central_plan

Images = ImageSet | EncodedSet
#: Seconds from checkpoint to checkpoint where no number of steps was asked for.
CHECKPOINT_S = 120.0
#: Embeddings of so many images are looked at for their variance, not more often than this.
PROBE_IMAGES, PROBE_S = 64, 30.0
#: Fields of a log line -> TensorBoard's tags.
TAGS = {
    "loss": "train/loss",
    "lr": "train/lr",
    "code_entropy": "train/code_entropy",
    "prototypes_used": "train/prototypes_used",
    "embedding_variance": "train/embedding_variance",
    "samples_per_s": "train/samples_per_s",
    "knn_top1": "evaluation/knn_top1",
}


class CollapsedError(ArithmeticError):
    """The run was to be stopped at the first sign of collapse, and there was one."""


class Best(NamedTuple):
    """The best checkpoint so far: "knn_top1" of validation images, or "loss" since the checkpoint before."""

    by: str
    value: float
    step: int

    def beats(self, other: Best | None) -> bool:
        """Whether this one is to be kept in the place of the other."""
        if other is None or other.by != self.by:
            return True
        return self.value > other.value if self.by == "knn_top1" else self.value < other.value


class Owner(Protocol):
    """Whose loop it is.

    Attributes:
        settings, folder, reading: of the run.
        found: gets the step of each checkpoint.
        reporter: is told of each line and alarm.
    """

    settings: Settings
    folder: RunFolder
    reading: Reading
    found: dict[str, Any]
    reporter: Any


class Loop:
    """One session's fences; `fences`, `observe` and `visit` are what training.train takes."""

    def __init__(
        self,
        task: Owner,
        trainer: Any,
        config: Config,
        data: Splits[Images],
        before: Checkpoint | None,
        identity: dict[str, Any],
    ) -> None:
        self.task, self.trainer, self.config, self.data = task, trainer, config, data
        self.settings, self.folder, self.identity = task.settings, task.folder, identity
        self.per_epoch = len(data.train) // config.batch
        self.watch = watch.Watch(config)
        run = before.run if before else {}
        self.time_s = float(run.get("time_s", 0.0))
        self.best = Best(**run["best"]) if run.get("best") else None
        start = before.step if before else 0
        settings = self.settings
        self.knn_steps = settings.knn_every * self.per_epoch if self.has_evaluation else 0.0
        self.checkpoint_steps = settings.checkpoint_every
        marks = tuple(float(mark) for mark in (self.knn_steps, self.checkpoint_steps) if mark)
        self.fences = Fences(start, config.schedule.steps, every=settings.log_every, marks=marks)
        network = config.network
        self._beside: dict[str, float] = {
            "total": config.schedule.steps,
            "batch": config.batch,
            "prototypes": network.prototypes,
        }
        self._beside["ln_k"] = math.log(network.prototypes)
        lines = self.folder.rewind(start)
        self.events = events.EventFile(self.folder.path, map(_event, lines)) if settings.tensorboard else None
        self._losses: list[float] = []
        self._saved_at = self._probed_at = time.perf_counter()
        self._probe: list[Any] | None = None
        self._span: Span | None = None
        self._from = start
        self._alarmed: str | None = None

    @property
    def has_evaluation(self) -> bool:
        """Whether there are images to evaluate on."""
        return self.data.validation is not None or self.data.test is not None

    def observe(self, span: Span) -> None:
        """Keeps what `visit` needs; it is called next, with the state."""
        self._span = span
        self.fences.told(len(span.losses), span.wall_s)
        self.time_s += span.wall_s
        self._losses += span.losses.tolist()

    def visit(self, state: Any) -> None:
        """Looks, writes the line of this fence, says it, and saves."""
        span, config = self._span, self.config
        assert span is not None
        ends = self.knn_steps > 0 and span.done == self.fences.stop
        knn = self._knn(state) if ends or is_multiple(span.done, self.knn_steps) else None
        variance = self._variance(state, span.done)
        used = int(span.metrics["prototypes_used"])
        alarms = self.watch.look(span.done, span.losses.tolist(), prototypes_used=used, variance=variance)
        line = {
            "step": span.done,
            "epoch": span.done / self.per_epoch,
            "steps": len(span.losses),
            "loss": float(span.losses.mean()),
            "lr": float(span.metrics["lr"]),
            "code_entropy": float(span.metrics["code_entropy"]),
            "prototypes_used": used,
            "embedding_variance": variance,
            "knn_top1": knn,
            "samples_per_s": len(span.losses) * config.batch / span.wall_s,
            "input_waited": min(1.0, span.waited_s / span.wall_s),
            "time_s": self.time_s,
            "at": now(),
            "alarms": list(self.watch.active),
        }
        self.folder.append(line)
        if self.events:
            self.events.add(*_event(line))
        self.task.reporter.send("progress", **line, **self._beside)
        for alarm in alarms:
            print(alarm.sentence, flush=True)
            self.task.reporter.send("alarm", kind=alarm.kind, sentence=alarm.sentence)
            self._alarmed = self._alarmed or alarm.sentence
        stop = self.settings.stop_on_collapse and self._alarmed is not None
        if knn is not None and self.data.validation is not None:
            self._save(state, Best("knn_top1", knn, span.done))
        elif stop or self._is_due(span.done):
            self._save(state, None)
        if stop:
            raise CollapsedError(self._alarmed)

    def accuracy(self, state: Any, weights: Mapping[str, np.ndarray], notes: list[str]) -> dict[str, Any]:
        """Nearest neighbours and a linear probe, beside raw pixels and random weights.

        Args:
            state: at the end.
            weights: at the start.
            notes: gets what was left out.
        """
        from swav_bench import evaluation

        config, reading, trainer = self.config, self.task.reading, self.trainer
        known, asked = self.data.train, self.data.evaluation
        states = [state, trainer.init(config, weights)]
        if evaluation.of_one_size(known) and evaluation.of_one_size(asked):
            looked = [[evaluation.features(trainer, one, part.images) for part in (known, asked)] for one in states]
            raw = evaluation.raw_pixels(known, asked)
        else:
            known = evaluation.sample(known, evaluation.MOST_KNOWN, reading, notes)
            asked = evaluation.sample(asked, evaluation.MOST_ASKED, reading, notes)
            train, test = (evaluation.middles(trainer, states, part, config, reading) for part in (known, asked))
            looked = [list(pair) for pair in zip(train.features, test.features, strict=True)]
            raw = evaluation.judge(train.raw, test.raw, known, asked)
        learnt, random = (evaluation.judge(of_known, of_asked, known, asked) for of_known, of_asked in looked)
        split = "test" if self.data.test is not None else "validation"
        return {"split": split, "learnt": learnt, "random_weights": random, "raw_pixels": raw}

    def summary(
        self,
        status: str,
        reason: str | None,
        lines: list[LogLine],
        accuracy: dict[str, Any] | None,
        notes: list[str],
    ) -> dict[str, Any]:
        """What summary.json says."""
        return {
            "format": FORMAT,
            "status": status,
            "reason": reason,
            "step": lines[-1]["step"] if lines else self.task.found["step"],
            "steps": self.config.schedule.steps,
            "train_s": self.time_s,
            "final_loss": final_loss(lines, self.config),
            "ln_k": math.log(self.config.network.prototypes),
            "code_entropy": lines[-1]["code_entropy"] if lines else None,
            "prototypes_used": lines[-1]["prototypes_used"] if lines else None,
            "prototypes": self.config.network.prototypes,
            "best": self.best._asdict() if self.best else None,
            "accuracy": accuracy,
            "notes": notes,
        }

    def stopped(self, reason: str) -> dict[str, Any]:
        """Writes and returns the summary of a run that was stopped because it had collapsed."""
        summary = self.summary("collapsed", reason, self.folder.lines(), None, ["stopped before its last step"])
        self.folder.write(self.folder.summary, summary)
        return summary

    def _is_due(self, step: int) -> bool:
        if step == self.fences.stop:
            return True
        if self.checkpoint_steps:
            return is_multiple(step, self.checkpoint_steps)
        return time.perf_counter() - self._saved_at >= CHECKPOINT_S

    def _save(self, state: Any, judged: Best | None) -> None:
        """A checkpoint of the last fence, and the best if it is that.

        Raises:
            NotFiniteError: a tensor is not finite; nothing is written then.
        """
        assert self._span is not None
        arrays = self.trainer.to_arrays(state)
        for name, array in arrays.items():
            if not np.isfinite(array).all():
                raise NotFiniteError(f"{name} was not finite after step {self._span.done - 1}")
        if judged is None and not (self.knn_steps and self.data.validation is not None):
            judged = Best("loss", float(np.mean(self._losses)), self._span.done)
        self._losses = []
        settings, better = self.settings, judged is not None and judged.beats(self.best)
        self.best = judged if better else self.best
        run = {
            "seed": settings.seed,
            "data": self.identity,
            **{name: getattr(settings, name) for name in ("framework", "device", "precision", "mode")},
            "time_s": self.time_s,
            "best": self.best._asdict() if self.best else None,
        }
        whole = Checkpoint(self.config, arrays, run)
        if better:
            checkpoint.write(self.folder.best, whole)
        checkpoint.save(self.folder.checkpoints, whole, keep=settings.keep)
        self.task.found["step"] = whole.step
        self._saved_at = time.perf_counter()

    @functools.cached_property
    def _neighbours(self) -> tuple[Images, Images]:
        """Training images, and those asked about while training: of validation where there are any."""
        from swav_bench import evaluation

        chosen = self.data.validation if self.data.validation is not None else self.data.evaluation
        known = evaluation.sample(self.data.train, evaluation.MOST_KNOWN, self.task.reading, [])
        return known, evaluation.sample(chosen, evaluation.MOST_ASKED, self.task.reading, [])

    def _knn(self, state: Any) -> float:
        from swav_bench import evaluation
        from swav_eval import probes

        self.task.reporter.phase("asking nearest neighbours")
        reading, (known, asked) = self.task.reading, self._neighbours
        if evaluation.of_one_size(known) and evaluation.of_one_size(asked):
            train, test = (evaluation.features(self.trainer, state, part.images) for part in (known, asked))
        else:
            train, test = (
                evaluation.middles(self.trainer, [state], part, self.config, reading).features[0]
                for part in (known, asked)
            )
        found = probes.knn_top1(
            train,
            known.labels,
            test,
            asked.labels,
            classes=len(known.classes),
            k=evaluation.neighbours(len(known)),
            temperature=evaluation.TEMPERATURE,
        )
        self.task.reporter.phase("training")
        return found

    def _variance(self, state: Any, step: int) -> float | None:
        """Variance of the embeddings of some images, where it is time to look."""
        looked = self._probe is not None
        if step < self.watch.grace or (
            looked and step < self.fences.stop and time.perf_counter() - self._probed_at < PROBE_S
        ):
            return None
        if self._probe is None:
            self._probe = self._probe_views()
        # Running statistics lag behind early on, where collapse is most likely.
        _, embeddings, _ = self.trainer.forward(state, self._probe, train=True)
        self._probed_at = time.perf_counter()
        return watch.embedding_variance(self.trainer.to_host(embeddings))

    def _probe_views(self) -> list[Any]:
        """The middles of some training images, on the device."""
        images, count = self.data.train, min(PROBE_IMAGES, len(self.data.train))
        with Stream(images, batch=count, seed=None) as stream, contextlib.closing(stream.batches(None)) as batches:
            first = next(batches)
        size = self.config.crops[0].size
        central = Central((size,), self.config.augmentation)
        plan = central_plan(size, first.heights, first.widths)
        return views_of(self.trainer, self.trainer.to_device(first.images), plan, central)


def final_loss(lines: list[LogLine], config: Config) -> float | None:
    """Mean loss of the last tenth of the steps, as far as the log has it; None without a line."""
    last = training.final_steps(config.schedule.steps)
    chosen = [line for line in lines if line["step"] > config.schedule.steps - last] or lines[-1:]
    steps = sum(line["steps"] for line in chosen)
    return sum(line["loss"] * line["steps"] for line in chosen) / steps if steps else None


def _event(line: LogLine) -> tuple[int, float, dict[str, float]]:
    values = {tag: line[name] for name, tag in TAGS.items() if line.get(name) is not None}
    return line["step"], dt.datetime.fromisoformat(line["at"]).timestamp(), values


def now() -> str:
    """The time of day, UTC, ISO 8601."""
    return dt.datetime.now(dt.UTC).isoformat(timespec="milliseconds")
