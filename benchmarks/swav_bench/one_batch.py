"""What one step is given, for measurements beside the training: a batch of images, its plan and its views."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from swav_spec import views as specified
from swav_spec.config import Config, Cropped
from swav_spec.multicrop import CropPlan

if TYPE_CHECKING:
    from swav_bench.inputs import Feed


class OneBatch(NamedTuple):
    """A step's input.

    Attributes:
        images, plan: as Trainer.step takes them; None where the feed has ready-made views.
        views: on the device.
    """

    images: Any | None
    plan: CropPlan | None
    views: list[Any]


def one_batch(trainer: Any, feed: Feed, config: Config) -> OneBatch:
    """What a feed gives to the first step of a run, and its views."""
    with contextlib.closing(feed.arguments(range(1))) as arguments:
        given = next(arguments)
    if feed.method == "step_on_views":
        return OneBatch(None, None, list(given[0]))
    images, plan = given
    return OneBatch(images, plan, views_of(trainer, images, plan, config))


def views_of(trainer: Any, images: Any, plan: CropPlan, config: Cropped) -> list[Any]:
    """The views of a batch, on the device: the specification's, where the implementation does not fulfil Views."""
    if "views" in trainer.fulfils:
        made: list[Any] = trainer.views(images, plan, config)
        return made
    dtype = np.float64 if trainer.execution.precision == "float64" else np.float32
    whole = np.asarray(trainer.to_host(images))
    return [trainer.to_device(view.astype(dtype)) for view in specified.views(whole, plan, config)]
