"""What a network has learnt: nearest neighbours and a linear probe of its frozen features; and of raw pixels."""

from __future__ import annotations

from typing import Any

import numpy as np

from swav_data.images import ImageSet
from swav_eval import probes

#: Images given to Trainer.embed at a time; the last chunk is filled up, so that one program does for all.
CHUNK = 256
#: Neighbours that vote, at most a hundredth of the training images: 200 are more than a class of a small set has.
NEIGHBOURS = 200
TEMPERATURE = 0.1


def features(trainer: Any, state: Any, images: np.ndarray) -> np.ndarray:
    """Backbone features [N, F] float32 of whole images [N, H, W, 3] uint8, with running statistics."""
    chunks = []
    for start in range(0, len(images), CHUNK):
        chunk = images[start : start + CHUNK]
        filled = np.resize(chunk, (min(CHUNK, len(images)), *chunk.shape[1:]))
        found, _ = trainer.embed(state, trainer.to_device(filled))
        chunks.append(np.asarray(trainer.to_host(found), dtype=np.float32)[: len(chunk)])
    return np.concatenate(chunks)


def judge(train: np.ndarray, test: np.ndarray, known: ImageSet, asked: ImageSet) -> dict[str, Any]:
    """Figures of the features of the images `known` and of those `asked` about (swav_eval.probes.evaluate)."""
    return dict(
        probes.evaluate(
            train,
            known.labels,
            test,
            asked.labels,
            classes=len(known.classes),
            k=max(1, min(NEIGHBOURS, len(known) // 100)),
            temperature=TEMPERATURE,
        )
    )


def raw_pixels(known: ImageSet, asked: ImageSet) -> dict[str, Any]:
    """The same figures of the pixels themselves."""
    return judge(probes.raw_pixels(known.images), probes.raw_pixels(asked.images), known, asked)
