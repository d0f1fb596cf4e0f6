"""What a network has learnt: nearest neighbours and a linear probe of its frozen features; and of raw pixels.

Images of one size in memory are looked at whole. Of others, which may be of any size and more than fit in memory, the
middle is looked at (swav_spec.multicrop.central_plan), chunk by chunk as they are decoded, at the size of the recipe's
first crops.
"""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from typing import Any, NamedTuple, TypeGuard

import numpy as np

from swav_bench.api import RAW_SIDE, Central
from swav_bench.inputs import Reading
from swav_bench.one_batch import views_of
from swav_data.encoded import EncodedSet
from swav_data.epochs import epoch_order
from swav_data.images import ImageSet
from swav_data.stream import Stream, without_bad
from swav_eval import probes
from swav_spec.config import Config
from swav_spec.multicrop import central_plan

#: Images given to Trainer.embed at a time; the last chunk is filled up, so that one program does for all.
CHUNK = 256
#: Neighbours that vote, at most a hundredth of the training images: 200 are more than a class of a small set has.
NEIGHBOURS = 200
TEMPERATURE = 0.1
#: Images that are not in memory, at most so many of which are evaluated: a sample, the same for all implementations.
MOST_KNOWN, MOST_ASKED = 20_000, 10_000


class Middles(NamedTuple):
    """What was found of N images' middles.

    Attributes:
        features: [N, F] float32 for each state.
        raw: [N, 3 * RAW_SIDE^2] float32, pixels around mid-grey.
    """

    features: list[np.ndarray]
    raw: np.ndarray


def of_one_size(images: ImageSet | EncodedSet) -> TypeGuard[ImageSet]:
    """Whether they are in memory and all as large as their canvas, so that they can be looked at whole."""
    if not isinstance(images, ImageSet):
        return False
    height, width = images.images.shape[1:3]
    return bool((images.heights == height).all() and (images.widths == width).all())


def sample(images: ImageSet | EncodedSet, most: int, reading: Reading, notes: list[str]) -> ImageSet | EncodedSet:
    """At most so many of the images, without those that `reading` leaves out; `notes` gets what that changed."""
    chosen = images
    if len(images) > most:
        chosen = images.take(np.sort(epoch_order(len(images), 0, 0)[:most]))
        notes.append(f"evaluated with {most:,} of the {len(images):,} images of {images.name}")
    if isinstance(chosen, EncodedSet) and reading.on_bad_image == "skip":
        before = len(chosen.skipped)
        chosen = without_bad(chosen, workers=reading.workers)
        if out := chosen.skipped[before:]:
            notes.append(f"{len(out)} images of {images.name} were left out of the evaluation; the first: {out[0]}")
    return chosen


def middles(
    trainer: Any, states: Sequence[Any], images: ImageSet | EncodedSet, config: Config, reading: Reading
) -> Middles:
    """Backbone features of the images' middles by each state, with running statistics, and the middles' pixels.

    Raises:
        InvalidInput: an image cannot be decoded.
        WorkerLost: a worker process ended.
    """
    looks, size = config.augmentation, config.crops[0].size
    chunk = min(CHUNK, len(images), config.batch * config.crops[0].count)  # no more memory than a step needs
    found: list[list[np.ndarray]] = [[] for _ in range(len(states) + 1)]
    source = Stream(images, batch=chunk, seed=None, workers=reading.workers, prefetch=reading.prefetch)
    with source, contextlib.closing(source.batches(None)) as made:
        for batch in made:
            filled = (np.resize(part, (chunk, *part.shape[1:])) for part in (batch.images, batch.heights, batch.widths))
            pixels, heights, widths = filled
            sent, kept = trainer.to_device(pixels), slice(len(batch.samples))
            views = views_of(trainer, sent, central_plan(size, heights, widths), Central((size,), looks))
            for state, features in zip(states, found, strict=False):
                features.append(np.asarray(trainer.to_host(trainer.forward(state, views, train=False)[0]))[kept])
            plan = central_plan(RAW_SIDE, heights, widths)
            (small,) = views_of(trainer, sent, plan, Central((RAW_SIDE,), looks))
            raw = np.asarray(trainer.to_host(small))[kept] * np.array(looks.std) + np.array(looks.mean) - 0.5
            found[-1].append(raw.reshape(len(raw), -1))
    *features, raw = (np.concatenate(parts).astype(np.float32) for parts in found)
    return Middles(features, raw)


def features(trainer: Any, state: Any, images: np.ndarray) -> np.ndarray:
    """Backbone features [N, F] float32 of whole images [N, H, W, 3] uint8, with running statistics."""
    chunks = []
    for start in range(0, len(images), CHUNK):
        chunk = images[start : start + CHUNK]
        filled = np.resize(chunk, (min(CHUNK, len(images)), *chunk.shape[1:]))
        found, _ = trainer.embed(state, trainer.to_device(filled))
        chunks.append(np.asarray(trainer.to_host(found), dtype=np.float32)[: len(chunk)])
    return np.concatenate(chunks)


def judge(
    train: np.ndarray, test: np.ndarray, known: ImageSet | EncodedSet, asked: ImageSet | EncodedSet
) -> dict[str, Any]:
    """Figures of the features of the images `known` and of those `asked` about (swav_eval.probes.evaluate)."""
    return dict(
        probes.evaluate(
            train,
            known.labels,
            test,
            asked.labels,
            classes=len(known.classes),
            k=neighbours(len(known)),
            temperature=TEMPERATURE,
        )
    )


def neighbours(samples: int) -> int:
    """How many neighbours vote, of so many training images."""
    return max(1, min(NEIGHBOURS, samples // 100))


def raw_pixels(known: ImageSet, asked: ImageSet) -> dict[str, Any]:
    """The same figures of the pixels themselves."""
    return judge(probes.raw_pixels(known.images), probes.raw_pixels(asked.images), known, asked)
