"""What a child process finds out about images with a network's weights: their features, or their prototypes.

Arrays are left as .npy files in the folder that the job names, so that no set is too large for them.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.lib.format import open_memmap

from swav_bench import api, weights
from swav_bench.api import Model
from swav_bench.weights import Weights
from swav_data.encoded import EncodedSet
from swav_data.images import ImageSet, Splits
from swav_data.sources import open_source
from swav_data.stream import Batch, Stream
from swav_spec import registry
from swav_spec.config import Execution
from swav_spec.errors import InvalidInput, require
from swav_spec.network import initial_weights

if TYPE_CHECKING:
    from swav_bench.child import Reporter

SPLITS = ("train", "validation", "test")
#: The split that is evaluated: the test images, or where there are none the validation images.
HELD_OUT = "held out"
LEARNT, RANDOM = "learnt", "random"
#: Side of the pictures on a contact sheet.
THUMB = 96
#: So many images that were left out are named.
REASONS = 10


class Features:
    """Features of the images of some splits, by one or more networks, as far as it has come.

    The job: "implementation", "device", "precision", "mode"; "weights", a path; "random", whether a network of random
    weights is asked, too; "data" and "splits"; "size" or None, "share", "batch", "workers", "on_bad_image"; "keep",
    some of "features", "embeddings" and "pixels"; "out", a folder.

    Left in the folder: SPLIT-labels.npy [N] int64, SPLIT-names.json, and SPLIT-NETWORK-KIND.npy [N, F] float32 with
    "learnt" or "random" for NETWORK (SPLIT-pixels.npy for pixels).

    Attributes:
        found: JSON values: weights, size, environment, classes, what the splits hold; `refused` if the input was bad.
        phase: what is being done.
        status, reason: see child.Task.
    """

    def __init__(self, job: Mapping[str, Any], reporter: Reporter) -> None:
        self.job = job
        self.reporter = reporter
        self.out = Path(job["out"])
        self.found: dict[str, Any] = {"refused": False}
        self.phase = "starting"
        self.status = "ok"
        self.reason: str | None = None

    def run(self) -> None:
        """Does the job; see child.Task.

        Raises:
            InvalidInput: weights or data cannot be used; `found` says that it was this.
        """
        try:
            self._run()
        except InvalidInput:
            self.found["refused"] = True
            raise

    def _run(self) -> None:
        # What may be refused comes before what takes long.
        self._enter("loading weights")
        learnt = weights.load(Path(self.job["weights"]))
        self._check(learnt)
        self._enter("opening the data")
        data = open_source(self.job["data"])
        chosen = self._chosen(data)
        self._enter("importing the framework")
        models = self._models(learnt)
        self.found |= {
            "weights": facts(learnt),
            "size": models[LEARNT].size,
            "data": data.train.name.rpartition("/")[0] or data.train.name,
            "classes": list(data.train.classes),
            "splits": {},
        }
        for split, images in chosen.items():
            self._enter(f"reading the {split} images")
            self._read(split, images, models)

    def _enter(self, phase: str) -> None:
        self.phase = phase
        self.reporter.phase(phase)

    def _check(self, learnt: Weights) -> None:
        if "embeddings" in self.job["keep"]:
            weights.require_head(learnt, "An embedding of each image")

    def _chosen(self, data: Splits[ImageSet | EncodedSet]) -> dict[str, ImageSet | EncodedSet]:
        parts = {split: part for split in SPLITS if (part := getattr(data, split)) is not None}
        asked = self.job["splits"] or list(parts)
        if HELD_OUT in asked:
            held_out = data.evaluation  # refused where there is none
            name = next(split for split, part in parts.items() if part is held_out)
            asked = [name if split == HELD_OUT else split for split in asked]
        for split in asked:
            require(split in parts, "split", split, f"one that {self.job['data']} has: {', '.join(parts)}")
        return {split: parts[split] for split in asked}

    def _models(self, learnt: Weights) -> dict[str, Model]:
        execution = Execution(self.job["device"], self.job["precision"], self.job["mode"])
        implementation: Any = registry.load(self.job["implementation"], execution)
        self.found["environment"] = implementation.describe()
        settings = {name: self.job[name] for name in ("size", "share", "batch")}
        models = {LEARNT: Model(learnt, implementation, **settings)}
        if self.job["random"]:
            drawn = initial_weights(learnt.network, 0)
            random = Weights(learnt.network, drawn, learnt.size, learnt.augmentation)
            models[RANDOM] = Model(random, implementation, **settings)
        return models

    def _read(self, split: str, images: ImageSet | EncodedSet, models: Mapping[str, Model]) -> None:
        keep = self.job["keep"]
        size, network = models[LEARNT].size, models[LEARNT].weights.network
        raw = min(api.RAW_SIDE, size)
        columns = {"features": network.features, "embeddings": network.embedding, "pixels": raw * raw * 3}
        others = (raw,) if "pixels" in keep and raw != size else ()
        with self._stream(images, size) as stream:
            files = {
                (name, kind): open_memmap(
                    self.out / f"{split}-{kind if name is None else f'{name}-{kind}'}.npy",
                    mode="w+",
                    dtype=np.float32,
                    shape=(stream.samples, columns[kind]),
                )
                for name, kind in self._files(models)
            }
            for rows, batch, filled in self._batches(split, stream):
                views = models[LEARNT].views(batch.images[filled], batch.heights[filled], batch.widths[filled], *others)
                for name, model in models.items():
                    outputs = model.of_view(views[0])
                    for kind in ("features", "embeddings"):
                        if (name, kind) in files:
                            files[name, kind][rows] = getattr(outputs, kind)[: len(batch.images)]
                if "pixels" in keep:
                    files[None, "pixels"][rows] = self._raw(models[LEARNT], views[-1])[: len(batch.images)]
            for file in files.values():
                file.flush()
            self._told(split, stream)

    def _files(self, models: Mapping[str, Model]) -> list[tuple[str | None, str]]:
        kinds = [kind for kind in self.job["keep"] if kind != "pixels"]
        files: list[tuple[str | None, str]] = [(name, kind) for name in models for kind in kinds]
        return [*files, (None, "pixels")] if "pixels" in self.job["keep"] else files

    def _raw(self, model: Model, view: Any) -> np.ndarray:
        """[B, side * side * 3], pixels in [-.5, .5] of each image's middle, as of swav_eval.probes.raw_pixels."""
        looks = model.weights.augmentation
        mean, std = (np.array(numbers, dtype=np.float32) for numbers in (looks.mean, looks.std))
        pixels = model.to_host(view) * std + mean - np.float32(0.5)
        return pixels.reshape(len(pixels), -1)

    def _stream(self, images: ImageSet | EncodedSet, size: int) -> Stream:
        return Stream(
            images,
            batch=self.job["batch"],
            seed=None,
            workers=self.job["workers"],
            canvas=api.canvas_of(size, self.job["share"]),
            on_bad_image=self.job["on_bad_image"],
        )

    def _batches(self, split: str, stream: Stream) -> Iterator[tuple[slice, Batch, np.ndarray]]:
        """Which rows of the set a batch is, the batch, and the positions that fill it up."""
        done = 0
        for batch in stream:
            count = len(batch.images)
            yield slice(done, done + count), batch, api.filled(count, stream.samples, self.job["batch"])
            done += count
            self.reporter.send("progress", split=split, done=done, samples=stream.samples)

    def _told(self, split: str, stream: Stream) -> None:
        images = stream.images
        np.save(self.out / f"{split}-labels.npy", images.labels)
        names = self._names(images)
        (self.out / f"{split}-names.json").write_text(json.dumps(names), encoding="utf-8")
        self.found["splits"][split] = {
            "samples": len(images),
            "skipped": len(stream.skipped),
            "skipped_reasons": list(stream.skipped[:REASONS]),
        }

    def _names(self, images: ImageSet | EncodedSet) -> list[str]:
        """The file of each image, seen from the data's folder, or its row."""
        if isinstance(images, ImageSet):
            return [f"row {row}" for row in range(len(images))]
        folder = f"{Path(self.job['data']).expanduser()}/"
        return [images[row].where.removeprefix(folder) for row in range(len(images))]


class Prototypes(Features):
    """The prototype of each image, and the images nearest to the most used prototypes.

    The job: as of Features, without "keep" and "random"; "prototypes" and "nearest", how many are shown.

    Left in the folder: SPLIT-labels.npy, SPLIT-names.json; SPLIT-prototype.npy [N] int64 and SPLIT-score.npy [N]
    float32, its score; SPLIT-shown.npy [P] int64, the most used prototypes; SPLIT-rows.npy [P, M] int64 and
    SPLIT-scores.npy [P, M] float32, the images of the highest scores; SPLIT-pictures.npy [P, M, side, side, 3] uint8.
    """

    def __init__(self, job: Mapping[str, Any], reporter: Reporter) -> None:
        super().__init__({"keep": (), "random": False, **job}, reporter)

    def _check(self, learnt: Weights) -> None:
        weights.require_head(learnt, "A prototype for each image")

    def _read(self, split: str, images: ImageSet | EncodedSet, models: Mapping[str, Model]) -> None:
        model = models[LEARNT]
        count = model.weights.network.prototypes
        with self._stream(images, model.size) as stream:
            nearest = Nearest(count, min(self.job["nearest"], stream.samples))
            prototype, score = np.empty(stream.samples, np.int64), np.empty(stream.samples, np.float32)
            for rows, batch, filled in self._batches(split, stream):
                (view,) = model.views(batch.images[filled], batch.heights[filled], batch.widths[filled])
                scores = model.of_view(view).scores[: len(batch.images)]
                prototype[rows], score[rows] = scores.argmax(axis=1), scores.max(axis=1)
                nearest.add(scores, rows.start)
            uses = np.bincount(prototype, minlength=count)
            shown = np.argsort(-uses, kind="stable")[: self.job["prototypes"]]
            self._enter("drawing the nearest images")
            pictures = np.array([[_picture(stream.images, int(row)) for row in nearest.rows[k]] for k in shown])
            self._told(split, stream)
        arrays: dict[str, np.ndarray] = {"prototype": prototype, "score": score, "shown": shown}
        arrays |= {"rows": nearest.rows[shown], "scores": nearest.scores[shown], "pictures": pictures}
        for name, array in arrays.items():
            np.save(self.out / f"{split}-{name}.npy", array)


class Nearest:
    """The M images of the highest scores with each of K prototypes, best first, over all that were added.

    Attributes:
        rows: [K, M] int64; scores: [K, M] float32. Of equal scores the earlier image comes first.
    """

    def __init__(self, prototypes: int, count: int) -> None:
        self.rows = np.full((prototypes, count), -1, dtype=np.int64)
        self.scores = np.full((prototypes, count), -np.inf, dtype=np.float32)

    def add(self, scores: np.ndarray, first: int) -> None:
        """Scores [B, K] of the images number first, first + 1, ..."""
        new = np.broadcast_to(np.arange(first, first + len(scores)), scores.T.shape)
        rows = np.concatenate([self.rows, new], axis=1)
        every = np.concatenate([self.scores, scores.T.astype(np.float32)], axis=1)
        best = np.argsort(-every, axis=1, kind="stable")[:, : self.rows.shape[1]]
        self.rows, self.scores = (np.take_along_axis(array, best, axis=1) for array in (rows, every))


def facts(found: Weights) -> dict[str, Any]:
    """What a report says of weights."""
    network = found.network
    return {
        "network": weights.network_name(network),
        "prototypes": None if found.backbone_only else network.prototypes,
        "origin": dict(found.origin),
    }


def _picture(images: ImageSet | EncodedSet, row: int) -> np.ndarray:
    """The largest square in an image's middle, [THUMB, THUMB, 3] uint8."""
    from PIL import Image

    from swav_data.canvas import Canvas
    from swav_data.decode import decode

    if isinstance(images, ImageSet):
        pixels = images.images[row, : images.heights[row], : images.widths[row]]
    else:
        pixels = decode(images[row], Canvas(2 * THUMB, 3 * THUMB))
    height, width = pixels.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = Image.fromarray(np.ascontiguousarray(pixels[top : top + side, left : left + side]))
    smooth = Image.Resampling.BILINEAR if side > THUMB else Image.Resampling.NEAREST
    return np.asarray(square.resize((THUMB, THUMB), smooth))
