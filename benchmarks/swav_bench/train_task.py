"""What a training process does with its settings: data, state or checkpoint, training, evaluation."""

from __future__ import annotations

import contextlib
import datetime as dt
import hashlib
import math
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from swav_bench import __version__, checkpoint, environment, run_config, training, watch
from swav_bench.checkpoint import Checkpoint
from swav_bench.inputs import Feed, Reading, Resident, Streamed
from swav_bench.run_folder import FORMAT, RunFolder
from swav_bench.train_loop import CollapsedError, Images, Loop, final_loss, now
from swav_bench.training import NotFiniteError
from swav_data.canvas import Canvas
from swav_data.encoded import EncodedSet
from swav_data.images import ImageSet, Splits
from swav_data.sources import load, open_source
from swav_data.stream import without_bad
from swav_spec import config as configs
from swav_spec import registry
from swav_spec.config import Config
from swav_spec.errors import InvalidInput, require
from swav_spec.network import initial_weights

if TYPE_CHECKING:
    from swav_bench.child import Reporter

#: Decoded training images that are held on the device unless told otherwise, in bytes.
RESIDENT_BYTES = 2 * 2**30
#: So many images, evenly spaced, say how large decoded images are.
LOOKED_AT = 32


class Training:
    """One run, or what is left of it.

    Attributes:
        found: `refused`: the sentence if the settings or the data cannot be used; `finished`: whether the run had
            ended before; `step`: of the last checkpoint; `summary`: how the run ended.
        phase, status, reason: see child.Task.
    """

    def __init__(self, job: Mapping[str, Any], reporter: Reporter) -> None:
        self.settings = run_config.from_job(job["settings"])
        self.reporter = reporter
        self.folder = RunFolder(Path(self.settings.out))
        self.reading = Reading(workers=self.settings.workers, on_bad_image=self.settings.on_bad_image)
        self.found: dict[str, Any] = {"refused": None, "finished": False, "step": None, "summary": None}
        self.phase = "starting"
        self.status = "ok"
        self.reason: str | None = None

    def run(self) -> None:
        """Trains.

        Raises:
            InvalidInput: the settings, the data or the folder cannot be used.
            NotFiniteError: training broke down.
            Exception: whatever the framework raises.
        """
        try:
            self._run()
        except InvalidInput as error:
            self.found["refused"] = str(error)
            raise

    def _run(self) -> None:
        self._enter("opening the data")
        opened = self._opened()
        config = self.settings.config(len(opened.train))
        identity = _identity(opened.train)
        before = self._checkpoint(config, identity)
        if before and self._has_ended(config, before):
            return
        for remark in [] if before else self.settings.remarks(config):
            self._note(remark)
        resident = self._is_resident(opened.train)
        data = self._loaded() if resident else opened
        for reason in data.train.skipped[:1]:
            self._note(f"{len(data.train.skipped)} training images were left out; the first: {reason}")
        self._enter("importing the framework")
        trainer = self._trainer()
        self._record_session(config, identity, trainer, before, resident=resident)
        self._enter("preparing the state")
        weights = initial_weights(config.network, self.settings.seed)
        state = trainer.from_arrays(config, before.arrays) if before else trainer.init(config, weights)
        loop = Loop(self, trainer, config, data, before, identity)
        del before
        with contextlib.ExitStack() as stack:
            feed = self._feed(trainer, data.train, config, stack)
            try:
                state = self._train(trainer, state, feed, loop)
            except CollapsedError as error:
                self.status, self.reason = "collapsed", str(error)
                self.found["summary"] = loop.stopped(str(error))
                return
        self._finish(state, loop, weights)
        self._enter("done")

    def _enter(self, phase: str) -> None:
        self.phase = phase
        print(f"{dt.datetime.now(dt.UTC):%H:%M:%S}  {phase}", flush=True)
        self.reporter.phase(phase)

    def _note(self, sentence: str) -> None:
        print(sentence, flush=True)
        self.reporter.send("note", sentence=sentence)

    def _opened(self) -> Splits[Images]:
        opened = open_source(self.settings.data)
        if self.reading.on_bad_image == "skip" and isinstance(opened.train, EncodedSet):
            self._enter("looking at every image")
            good = without_bad(opened.train, workers=self.reading.workers)
            return Splits(good, opened.validation, opened.test)
        return opened

    def _is_resident(self, images: Images) -> bool:
        if self.settings.input == "auto":
            return isinstance(images, ImageSet) or decoded_bytes(images) <= RESIDENT_BYTES
        return self.settings.input == "resident"

    def _loaded(self) -> Splits[Images]:
        self._enter("decoding the images")
        loaded = load(self.settings.data, on_bad_image=self.reading.on_bad_image)
        return Splits(loaded.train, loaded.validation, loaded.test)

    def _checkpoint(self, config: Config, identity: dict[str, Any]) -> Checkpoint | None:
        """The folder's last checkpoint, if what is asked for is the same run.

        Raises:
            InvalidInput: it is another run, field by field, or the checkpoint cannot be read.
        """
        folder = self.folder
        said = folder.read(folder.config)
        if said is not None:
            require(said.get("format") == FORMAT, f"{folder.config}: format", said.get("format"), repr(FORMAT))
            checkpoint.require_same_config(configs.from_dict(said["config"]), config, folder.config)
            self._require_same(said["run"], identity, folder.config)
        found = checkpoint.latest(folder.checkpoints)
        if found is not None:
            where = checkpoint.steps(folder.checkpoints)[-1]
            checkpoint.require_same_config(found.config, config, where)
            self._require_same(found.run, identity, where)
            self.found["step"] = found.step
        return found

    def _require_same(self, run: Mapping[str, Any], identity: Mapping[str, Any], where: Path) -> None:
        seed = self.settings.seed
        require(run.get("seed") == seed, "seed", seed, f"{run.get('seed')}, as in {where}")
        require(run.get("data") == identity, "data", dict(identity), f"those that {where} is of: {run.get('data')}")

    def _has_ended(self, config: Config, before: Checkpoint) -> bool:
        summary = self.folder.read(self.folder.summary)
        if before.step < config.schedule.steps or summary is None or summary["step"] < config.schedule.steps:
            return False
        self.found |= {"finished": True, "summary": summary}
        self.status, self.reason = summary["status"], summary["reason"]
        return True

    def _trainer(self) -> Any:
        name = self.settings.framework
        trainer: Any = registry.load(name, self.settings.execution)
        require("trainer" in trainer.fulfils, "framework", name, "one that fulfils the trainer")
        return trainer

    def _record_session(
        self, config: Config, identity: dict[str, Any], trainer: Any, before: Checkpoint | None, *, resident: bool
    ) -> None:
        """config.json, with this session added to those before it."""
        folder, settings = self.folder, self.settings
        run = {"seed": settings.seed, "data": identity}
        same = ("framework", "device", "precision", "mode")
        session = {name: getattr(settings, name) for name in same} | {
            "from_step": before.step if before else 0,
            "input": "resident" if resident else "stream",
            "threads": settings.threads,
            "at": now(),
            "swav_bench_version": __version__,
            "commit": environment.commit()[0],
            "environment": environment.describe() | {"implementation": trainer.describe()},
        }
        earlier = (folder.read(folder.config) or {}).get("sessions", [])
        if before:
            self._note(f"Goes on from step {before.step:,} of {config.schedule.steps:,}.")
            other = [f"{name} {before.run.get(name)}" for name in same if before.run.get(name) != session[name]]
            if other:
                self._note(f"That checkpoint was made with {', '.join(other)}: it goes on, but not bit for bit.")
        content = {
            "format": FORMAT,
            "recipe": settings.recipe,
            "changes": dict(settings.changes),
            "run": run,
            "config": configs.to_dict(config),
            "settings": {name: value for name, value in settings.to_job().items() if name not in ("out", "changes")},
            "sessions": [*earlier, session],
        }
        folder.write(folder.config, content)

    def _feed(self, trainer: Any, images: Images, config: Config, stack: contextlib.ExitStack) -> Feed:
        if self._holds(images):
            assert isinstance(images, ImageSet)
            self._enter("sending the images to the device")
            return Resident(trainer, images, config, seed=self.settings.seed)
        workers, prefetch = self.reading.workers, self.reading.prefetch
        streamed = Streamed(trainer, images, config, seed=self.settings.seed, workers=workers, prefetch=prefetch)
        return stack.enter_context(streamed)

    def _holds(self, images: Images) -> bool:
        return isinstance(images, ImageSet) and self.settings.input != "stream"

    def _train(self, trainer: Any, state: Any, feed: Feed, loop: Loop) -> Any:
        self._enter("training")
        try:
            return training.train(
                trainer,
                state,
                feed,
                fences=loop.fences,
                until=loop.fences.stop,
                observe=loop.observe,
                visit=loop.visit,
            )
        except NotFiniteError as error:
            kept = self.found["step"]
            last = "There is no checkpoint yet" if kept is None else f"The last checkpoint is of step {kept:,}"
            raise NotFiniteError(f"{error}. {watch.remedies(loop.config)}. {last}; nothing else was written") from error

    def _finish(self, state: Any, loop: Loop, weights: Mapping[str, np.ndarray]) -> None:
        config = loop.config
        lines = self.folder.lines()
        loss = final_loss(lines, config)
        if loss is not None and config.schedule.steps >= watch.grace(config) and watch.at_ln_k(loss, config):
            ln_k = math.log(config.network.prototypes)
            self.status = "collapsed"
            self.reason = f"the loss ended at {loss:.3f}, within {watch.MARGIN:.0%} of ln K = {ln_k:.3f}"
        accuracy: dict[str, Any] | None = None
        notes: list[str] = []
        if self.settings.evaluate and loop.has_evaluation:
            self._enter("evaluating")
            accuracy = loop.accuracy(state, weights, notes)
        self.found["summary"] = loop.summary(self.status, self.reason, lines, accuracy, notes)
        self.folder.write(self.folder.summary, self.found["summary"])


def decoded_bytes(images: EncodedSet) -> int:
    """Bytes that the images take in memory, on a canvas as large as the largest needs; as judged by some of them."""
    from swav_data.decode import decode

    sides = []
    for row in np.unique(np.linspace(0, len(images) - 1, LOOKED_AT).astype(int)):
        with contextlib.suppress(InvalidInput):  # said when its turn comes
            sides.append(decode(images[int(row)], Canvas()).shape[:2])
    height, width = np.max(sides, axis=0) if sides else (Canvas().max_side, Canvas().max_side)
    return len(images) * int(height) * int(width) * 3


def _identity(images: Images) -> dict[str, Any]:
    """What makes the training images the same ones, without their place on this machine."""
    digest = hashlib.sha256("\n".join(images.classes).encode() + images.labels.astype("<i8").tobytes())
    return {"name": images.name, "images": len(images), "labels_sha256": digest.hexdigest()}
