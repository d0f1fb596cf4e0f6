"""What a child process does for `swav-bench protocol`: trains a classifier, and judges it after every epoch.

Images come from one stream, whether they are in memory or decoded as they are needed. The same is done with random
weights, and raw pixels are judged by logistic regression, so that no figure stands alone.
"""

from __future__ import annotations

import contextlib
import dataclasses
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from swav_bench import api, weights
from swav_bench.inputs import Arguments, Streamed
from swav_bench.training import NotFiniteError
from swav_data.encoded import EncodedSet
from swav_data.images import ImageSet
from swav_data.sources import open_source
from swav_data.stream import Batch, Stream, without_bad
from swav_eval.knn import top_share
from swav_eval.linear import linear
from swav_spec import registry, supervised
from swav_spec.config import Execution
from swav_spec.errors import InvalidInput, require
from swav_spec.multicrop import CropPlan
from swav_spec.network import initial_weights
from swav_spec.supervised import Supervised

if TYPE_CHECKING:
    from swav_bench.child import Reporter

FORMAT = "swav-bench classifier 1"
LEARNT, RANDOM = "learnt", "random"
#: Images that are judged at a time.
CHUNK = 256
#: Batches that the normalisations of a random network see before it is frozen; their old statistics keep .9^n.
SETTLING = 50
#: Seconds between two reports of the steps done.
TELL_S = 0.5
#: Images that are left out, of which so many are named.
REASONS = 10
Images = ImageSet | EncodedSet


class Data(NamedTuple):
    """The images that labels are used of, those that the classifier is judged by, and how many there were to learn."""

    known: Images
    asked: Images
    available: int


class LabelledBatches(Streamed):
    """Batches on the device with their labels and plans: what Classifier.classifier_step takes after the state."""

    method = "classifier_step"

    def sent(self, batch: Batch, plan: CropPlan) -> Arguments:
        images, plan = super().sent(batch, plan)
        return images, self._trainer.to_device(batch.labels.astype(np.int32)), plan


class Protocol:
    """One protocol with one framework, as far as it has come.

    The job: "implementation", "device", "precision", "mode"; "weights", a path; "data"; "config", a Supervised as a
    table; "seed", "workers", "on_bad_image"; "baselines", whether random weights and raw pixels are judged;
    "classifier", the file that the classifier is left in.

    Attributes:
        found: JSON values: weights, data, config, curves and figures; "labels" and "predictions" of the last epoch;
            "refused" if the input was bad.
        phase: what is being done.
        status, reason: see child.Task.
    """

    def __init__(self, job: Mapping[str, Any], reporter: Reporter) -> None:
        self.job = job
        self.reporter = reporter
        self.found: dict[str, Any] = {"refused": False}
        self.phase = "starting"
        self.status = "ok"
        self.reason: str | None = None
        self._trainer: Any = None

    def run(self) -> None:
        """Does the job; see child.Task.

        Raises:
            InvalidInput: weights, data or settings cannot be used; `found` says that it was this.
            NotFiniteError: training broke down.
        """
        try:
            self._prepare()
        except InvalidInput:
            self.found["refused"] = True
            raise
        run = self._run(LEARNT, self._learnt.tensors)
        arrays = self._trainer.classifier_arrays(run.state)
        weights.write_tensors(Path(self.job["classifier"]), arrays, {"format": FORMAT})
        self.found |= run.figures
        self.found |= {"labels": self._data.asked.labels.tolist(), "predictions": run.logits.argmax(axis=1).tolist()}
        del run
        if self.job["baselines"]:
            self.found[RANDOM] = self._random()
            self._enter("judging raw pixels")
            self.found["raw_pixels"] = self._raw_pixels()

    def _prepare(self) -> None:
        # What may be refused comes before what takes long.
        self._enter("loading weights")
        self._learnt = weights.load(Path(self.job["weights"]))
        self._enter("opening the data")
        config = supervised.from_dict(self.job["config"])
        self._data = self._opened(config)
        self.config = supervised.with_data(config, len(self._data.known))
        self._canvas = api.canvas_of(self.config.size, self.config.share)
        self._enter("importing the framework")
        execution = Execution(self.job["device"], self.job["precision"], self.job["mode"])
        self._trainer = registry.load(self.job["implementation"], execution)
        fulfilled = "classifier" in self._trainer.fulfils
        require(fulfilled, "framework", self.job["implementation"], "one that fulfils Classifier")
        known, asked, available = self._data
        self.found |= {
            "environment": self._trainer.describe(),
            "weights": {
                "network": weights.network_name(self._learnt.network),
                "origin": dict(self._learnt.origin),
            },
            "data": {
                "name": known.name.rpartition("/")[0] or known.name,
                "evaluated_on": asked.name.rpartition("/")[2],
                "train_samples": available,
                "labelled_samples": len(known),
                "test_samples": len(asked),
                "skipped": len(known.skipped) + len(asked.skipped),
                "skipped_reasons": list((known.skipped + asked.skipped)[:REASONS]),
            },
            "classes": list(known.classes),
            "config": supervised.to_dict(self.config),
            "chance": float(np.bincount(asked.labels).max() / len(asked)),
        }

    def _opened(self, config: Supervised) -> Data:
        data = open_source(self.job["data"])
        rows = supervised.labelled_subset(data.train.labels, config.fraction, self.job["seed"])
        known: Images = data.train.take(rows)
        asked: Images = data.evaluation
        require(len(known.classes) >= 2, "classes", known.classes, "at least 2")
        if self.job["on_bad_image"] == "skip":
            self._enter("looking for images that cannot be decoded")
            settings = {"workers": self.job["workers"]}
            known, asked = (without_bad(p, **settings) if isinstance(p, EncodedSet) else p for p in (known, asked))
        return Data(known, asked, len(data.train))

    def _enter(self, phase: str) -> None:
        self.phase = phase
        self.reporter.phase(phase)

    def _run(self, name: str, tensors: Mapping[str, np.ndarray]) -> Run:
        """The protocol from these weights."""
        trainer, config = self._trainer, self.config
        self._enter("compiling")
        state = self._initial(config, tensors)
        curve: list[dict[str, Any]] = []
        logits = np.empty(0)
        with contextlib.ExitStack() as stack:
            feed = stack.enter_context(self._feed(config))
            asked = stack.enter_context(self._stream(self._data.asked, CHUNK))
            steps = config.steps_per_epoch
            arguments = stack.enter_context(contextlib.closing(feed.arguments(range(config.epochs * steps))))
            for epoch in range(config.epochs):
                self._enter(f"{name} weights, epoch {epoch + 1} of {config.epochs}")
                started = time.perf_counter()
                state, loss, correct = self._epoch(state, arguments, steps)
                if not np.isfinite(loss):
                    raise NotFiniteError(f"the loss was {loss} in epoch {epoch + 1} ({name} weights)")
                trained = time.perf_counter()
                logits = self._logits(state, asked)
                if not np.isfinite(logits).all():
                    raise NotFiniteError(f"logits were not finite after epoch {epoch + 1} ({name} weights)")
                line = {
                    "epoch": epoch + 1,
                    **supervised.lr_of(config, epoch)._asdict(),
                    "loss": loss,
                    "train_top1": correct / (steps * config.batch),
                    **self._tops(logits),
                    "train_s": trained - started,
                    "test_s": time.perf_counter() - trained,
                }
                curve.append(line)
                self.reporter.send("epoch", weights=name, epochs=config.epochs, **line)
        trainer.fence(state)
        return Run(state, logits, figures(curve))

    def _initial(self, config: Supervised, tensors: Mapping[str, np.ndarray]) -> Any:
        classes = len(self._data.known.classes)
        return self._trainer.init_classifier(config, self._learnt.network, tensors, classes, self.job["seed"])

    def _feed(self, config: Supervised) -> LabelledBatches:
        settings: Any = config  # has all of a Config that a stream looks at
        return LabelledBatches(
            self._trainer,
            self._data.known,
            settings,
            seed=self.job["seed"],
            workers=self.job["workers"],
            canvas=self._canvas,
        )

    def _stream(self, images: Images, batch: int) -> Stream:
        return Stream(images, batch=batch, seed=None, workers=self.job["workers"], canvas=self._canvas)

    def _epoch(self, state: Any, arguments: Iterator[Arguments], steps: int) -> tuple[Any, float, int]:
        """The state after so many steps, their mean loss, and how many images were called right."""
        trainer, history, told = self._trainer, [], time.perf_counter()
        for step in range(steps):
            state, metrics = trainer.classifier_step(state, *next(arguments))
            history.append(metrics)
            if time.perf_counter() - told > TELL_S:
                self.reporter.send("progress", step=step + 1, steps=steps)
                told = time.perf_counter()
        trainer.fence(state, history[-1])
        losses = [float(trainer.to_host(metrics["loss"])) for metrics in history]
        correct = sum(int(trainer.to_host(metrics["correct"])) for metrics in history)
        return state, float(np.mean(losses)), correct

    def _logits(self, state: Any, stream: Stream) -> np.ndarray:
        """[M, C] of the images that are asked about, in their order."""
        trainer, found = self._trainer, []
        with contextlib.closing(stream.batches(None)) as batches:
            for batch in batches:
                images, heights, widths = _filled(batch, stream)
                plan = supervised.evaluation_plan(self.config, heights, widths)
                logits = trainer.classify(state, trainer.to_device(images), plan)
                found.append(np.asarray(trainer.to_host(logits))[: len(batch.images)])
        return np.concatenate(found)

    def _tops(self, scores: np.ndarray) -> dict[str, float | None]:
        labels = self._data.asked.labels
        return {
            "top1": top_share(scores, labels, 1),
            "top5": top_share(scores, labels, 5) if scores.shape[1] >= 6 else None,
        }

    def _random(self) -> dict[str, Any]:
        """The protocol from random weights; a break-down is a finding there, not a failure."""
        drawn = initial_weights(self._learnt.network, self.job["seed"])
        try:
            if self.config.frozen:
                drawn = self._settled(drawn)
            return {"reason": None, **self._run(RANDOM, drawn).figures}
        except NotFiniteError as error:
            return {"reason": str(error), "last": None, "best": None, "curve": []}

    def _settled(self, drawn: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Random weights whose running statistics are those of these images.

        A frozen network that has seen no image normalises with mean 0 and variance 1: its features grow from block to
        block, and a classifier on them shows how far its learning rate is off, not what random features are worth.
        """
        self._enter("settling the normalisations of random weights")
        config = dataclasses.replace(
            self.config, trunk_lr=0.0, head_lr=0.0, epochs=-(-SETTLING // self.config.steps_per_epoch)
        )
        state = self._initial(config, drawn)
        with self._feed(config) as feed, contextlib.closing(feed.arguments(range(SETTLING))) as arguments:
            for given in arguments:
                state, _ = self._trainer.classifier_step(state, *given)
        arrays: dict[str, np.ndarray] = self._trainer.classifier_arrays(state)
        return {name: array for name, array in arrays.items() if name not in (supervised.WEIGHT, supervised.BIAS)}

    def _raw_pixels(self) -> dict[str, Any]:
        """Logistic regression on the pixels of the images' evaluation views, api.RAW_SIDE pixels wide at most."""
        known, asked = self._data.known, self._data.asked
        largest = int(np.bincount(known.labels).max())
        if largest < 2:
            return {"reason": "its strength is chosen on a second image of a class, and no class has one"}
        train, test = self._pixels(known), self._pixels(asked)
        fitted = linear(train, known.labels, test, classes=len(known.classes), seed=self.job["seed"])
        return {"reason": None, **self._tops(fitted.scores), "c": fitted.strength, "converged": fitted.converged}

    def _pixels(self, images: Images) -> np.ndarray:
        looks = self.config.augmentation
        small = dataclasses.replace(self.config, size=min(api.RAW_SIDE, self.config.size))
        found = []
        with self._stream(images, CHUNK) as stream:
            for batch in stream:
                pixels, heights, widths = _filled(batch, stream)
                plan = supervised.evaluation_plan(small, heights, widths)
                (view,) = self._trainer.views(self._trainer.to_device(pixels), plan, small)
                view = np.asarray(self._trainer.to_host(view))[: len(batch.images)]
                found.append((view * np.array(looks.std) + np.array(looks.mean) - 0.5).reshape(len(view), -1))
        return np.concatenate(found).astype(np.float32)


class Run(NamedTuple):
    """What a protocol ends with: the state, the logits [M, C] of the last epoch, and its figures."""

    state: Any
    logits: np.ndarray
    figures: dict[str, Any]


def figures(curve: list[dict[str, Any]]) -> dict[str, Any]:
    """The last epoch, which is what counts; the best one (the first of equals), which was chosen on the test images."""
    best = max(curve, key=lambda line: line["top1"])
    kept = ("epoch", "top1", "top5")
    return {
        "last": {name: curve[-1][name] for name in kept},
        "best": {name: best[name] for name in kept},
        "curve": curve,
    }


def _filled(batch: Batch, stream: Stream) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images, heights and widths of a batch; a smaller last one is filled up, so that one program does for all."""
    count = min(stream.batch, stream.samples)
    images, heights, widths = (
        np.resize(part, (count, *part.shape[1:])) for part in (batch.images, batch.heights, batch.widths)
    )
    return images, heights, widths
