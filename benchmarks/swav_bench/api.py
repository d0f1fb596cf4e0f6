"""SwAV's features from Python, in the framework of your choice, in this process.

    from swav_bench import api

    model = api.load("run/", framework="torch")     # or a checkpoint, or a file that `swav-bench convert` has written
    features = model.embed(["cat.jpg", "dog.jpg"])  # [2, F]: paths, PIL images or uint8 arrays of any sizes
    prototypes = model.assign(images)               # [N]: the prototype of each image

Images are evaluated by their central view (swav_spec.multicrop.central_plan), with running statistics.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from swav_bench import weights as weight_files
from swav_bench.weights import Weights
from swav_data.canvas import Canvas, place
from swav_data.encoded import Encoded
from swav_spec import registry
from swav_spec.config import Augmentation, Config, CropGroup, DeviceKind, Execution, Precision, Schedule
from swav_spec.errors import InvalidInput, require
from swav_spec.multicrop import CropPlan, central_plan

#: Of the shorter side, that the central view shows: the usual 224 of 256 pixels.
SHARE = 224 / 256
#: Images given to the network at once.
BATCH = 64
#: Side of the views whose raw pixels are the baseline; more would make a hundred thousand numbers of each image.
RAW_SIDE = 32


class Outputs(NamedTuple):
    """What the network says of N images.

    Attributes:
        features: [N, F] of the backbone, pooled.
        embeddings: [N, D] of unit length.
        scores: [N, K], cosines of the embeddings and the prototypes.
    """

    features: np.ndarray
    embeddings: np.ndarray
    scores: np.ndarray


@dataclass(frozen=True)
class Central:
    """The central views of some images: what Views.views must know of them (swav_spec.config.Cropped)."""

    sizes: tuple[int, ...]
    augmentation: Augmentation

    @property
    def crops(self) -> tuple[CropGroup, ...]:
        return tuple(CropGroup(size, 1, (1.0, 1.0)) for size in self.sizes)

    @property
    def resolutions(self) -> tuple[tuple[int, int], ...]:
        return tuple((size, 1) for size in self.sizes)


class Model:
    """A network with its weights, in a framework.

    Attributes:
        weights: what it was made from.
        size: side of the views in pixels.
    """

    def __init__(
        self,
        weights: Weights,
        implementation: Any,
        *,
        size: int | None = None,
        share: float = SHARE,
        batch: int = BATCH,
    ) -> None:
        """See `load`; `implementation` fulfils Device, Views and Trainer."""
        require(
            "trainer" in implementation.fulfils, "framework", type(implementation).__name__, "one that has networks"
        )
        require(batch >= 1, "batch", batch, "at least 1")
        self.weights = weights
        self.size = weights.size if size is None else size
        require(0 < share <= 1, "share", share, "in (0, 1]")
        self._share, self._batch = share, batch
        self._implementation = implementation
        config = Config(
            batch=2,
            crops=(CropGroup(self.size, 2, (1.0, 1.0)),),
            network=weights.network,
            schedule=Schedule(steps=1, base_lr=0.0),
            augmentation=weights.augmentation,
        )
        self._state = implementation.init(config, weights.complete())

    def embed(self, images: np.ndarray | Sequence[Any]) -> np.ndarray:
        """Backbone features of images.

        Args:
            images: [N, H, W, 3] uint8, or N paths, PIL images and arrays [h, w, 3] uint8 of any sizes.

        Returns:
            [N, F] float32 (float64 in that precision).

        Raises:
            InvalidInput: there is no image, or one cannot be read or has another shape or type.
        """
        return self.outputs(images).features

    def assign(self, images: np.ndarray | Sequence[Any]) -> np.ndarray:
        """[N] int64: the prototype of the largest score of each image; arguments and errors as in `embed`.

        Raises:
            InvalidInput: besides, the weights are of a backbone alone.
        """
        weight_files.require_head(self.weights, "A prototype for each image")
        return self.outputs(images).scores.argmax(axis=1)

    def outputs(self, images: np.ndarray | Sequence[Any]) -> Outputs:
        """Features, embeddings and scores of images; arguments and errors as in `embed`.

        Embeddings and scores mean nothing where the weights are of a backbone alone.
        """
        count = len(images)
        require(count >= 1, "images", count, "at least one")
        parts = []
        for canvases, heights, widths in self._canvases(images):
            rows = filled(len(canvases), count, self._batch)
            (view,) = self.views(canvases[rows], heights[rows], widths[rows])
            parts.append([array[: len(canvases)] for array in self.of_view(view)])
        return Outputs(*(np.concatenate(arrays) for arrays in zip(*parts, strict=True)))

    def views(self, images: np.ndarray, heights: np.ndarray, widths: np.ndarray, *others: int) -> list[Any]:
        """Central views of a batch on the device, of this model's size and of others.

        An image that is as large as the view is shown as it is, and of any other its middle (central_plan).

        Args:
            images: [B, H, W, 3] uint8, each in the top left corner.
            heights, widths: [B] of the images in pixels.
            others: sides in pixels; each differs from the one before it.
        """
        plan = central_plan(self.size, heights, widths, share=self._share)
        whole = central_plan(self.size, heights, widths, share=1)
        alike = ((heights == self.size) & (widths == self.size))[None, :, None]
        (group,) = plan.groups
        group = group._replace(box=np.where(alike, whole.groups[0].box, group.box))
        sizes = (self.size, *others)
        groups = tuple(group._replace(size=size) for size in sizes)
        central = Central(sizes, self.weights.augmentation)
        device = self._implementation
        return list(device.views(device.to_device(images), CropPlan(plan.index, groups), central))

    def to_host(self, array: Any) -> np.ndarray:
        """A copy of an array on the device."""
        return np.asarray(self._implementation.to_host(array))

    def of_view(self, view: Any) -> Outputs:
        """What the network says of a view [B, size, size, 3] on the device.

        Raises:
            InvalidInput: a feature is not finite: the weights are none of a trained network.
        """
        found = self._implementation.forward(self._state, [view], train=False)
        outputs = Outputs(*map(self.to_host, found))
        if not all(np.isfinite(array).all() for array in outputs):
            raise InvalidInput("weights: they give features that are not finite")
        return outputs

    def _canvases(self, images: np.ndarray | Sequence[Any]) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Batches [B, H, W, 3] uint8 with the heights and widths of their images."""
        starts = range(0, len(images), self._batch)
        if isinstance(images, np.ndarray):
            allowed = "[N, H, W, 3] uint8"
            good = images.ndim == 4 and images.shape[3] == 3 and images.dtype == np.uint8
            require(good, "images", (images.shape, str(images.dtype)), allowed)
            for start in starts:
                part = images[start : start + self._batch]
                yield part, np.full(len(part), part.shape[1]), np.full(len(part), part.shape[2])
            return
        canvas = canvas_of(self.size, self._share)
        for start in starts:
            pixels = [_pixels(image, canvas) for image in images[start : start + self._batch]]
            canvases = np.empty((len(pixels), canvas.max_side, canvas.max_side, 3), dtype=np.uint8)
            yield canvases, *place(pixels, canvases).T


def load(
    path: str | Path,
    *,
    framework: str = "torch",
    device: DeviceKind = "cpu",
    precision: Precision = "float32",
    mode: str = "default",
    size: int | None = None,
    share: float = SHARE,
    batch: int = BATCH,
) -> Model:
    """The network in a run's folder, a checkpoint or a converted file, ready to be asked.

    Args:
        path: see swav_bench.weights.load. Files of PyTorch are converted first: `swav-bench convert`.
        framework: torch, jax, tensorflow, or package.module:Class of one's own. A process should use one of them only.
        device, precision, mode: see swav_spec.config.Execution.
        size: side of the views in pixels; by default that of the first crops in training.
        share: of the shorter side that a view shows, in (0, 1].
        batch: images given to the network at once.

    Raises:
        InvalidInput: the weights cannot be used, or the framework is not there.
    """
    found = weight_files.load(Path(path).expanduser())
    implementation = registry.load(framework, Execution(device, precision, mode))
    return Model(found, implementation, size=size, share=share, batch=batch)


def canvas_of(size: int, share: float) -> Canvas:
    """Bounds on images' sides that leave the central view its pixels."""
    short = max(256, math.ceil(size / share))
    return Canvas(short, math.ceil(1.5 * short))


def filled(count: int, total: int, batch: int) -> np.ndarray:
    """Positions [B] that fill `count` images of `total` up, so that few programs do for all batches."""
    return np.resize(np.arange(count), batch if total > batch else min(batch, 1 << (total - 1).bit_length()))


def _pixels(image: Any, canvas: Canvas) -> np.ndarray:
    from PIL import Image

    from swav_data.decode import decode, shrink

    if isinstance(image, (str, Path)):
        return decode(Encoded(where=str(image), path=str(Path(image).expanduser())), canvas)
    if isinstance(image, Image.Image):
        return np.array(shrink(image.convert("RGB"), canvas))
    array = np.asarray(image)
    good = array.ndim == 3 and array.shape[2] == 3 and min(array.shape) >= 1 and array.dtype == np.uint8
    require(good, "image", (array.shape, str(array.dtype)), "a path, a PIL image or an array [h, w, 3] uint8")
    return np.array(shrink(Image.fromarray(array), canvas))
