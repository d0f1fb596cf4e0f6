"""The first step of a cell as the parity gate judges it.

Precisions lower than float32 are judged in float32, in a process before the measured one: there it would count in the
peak memory, which not every framework can count anew, and take the room that the cell itself may just have.
"""

from __future__ import annotations

import contextlib
import gc
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from swav_bench import cells, inputs, parity, training
from swav_bench.cells import Cell
from swav_bench.inputs import Reading
from swav_data.encoded import EncodedSet
from swav_data.images import ImageSet, Splits
from swav_data.sources import load, open_source
from swav_data.stream import without_bad
from swav_spec import registry
from swav_spec.config import Precision
from swav_spec.network import initial_weights

if TYPE_CHECKING:
    from swav_bench.child import Reporter


class FirstStep:
    """The first step in the precision that is judged, for a cell of a lower one; see child.Task.

    The job has `cell`, in the precision that is judged; `lower`, the precision to be measured; `whole`, whether the
    batch is the one to be measured; `reading`.
    """

    def __init__(self, job: Mapping[str, Any], reporter: Reporter) -> None:
        self.cell = cells.from_job(job["cell"])
        self.lower: Precision = job["lower"]
        self.whole: bool = job["whole"]
        self.reading = Reading(**job["reading"])
        self.reporter = reporter
        self.found: dict[str, Any] = {}
        self.phase = "starting"
        self.status = "ok"
        self.reason: str | None = None

    def run(self) -> None:
        """Takes it; `found` has `summary`, see parity.summary, and `lower_loss`, None where the measured step tells."""
        self._enter("loading data")
        data = images(self.cell, self.reading, self._enter).train
        weights = initial_weights(self.cell.config(samples=len(data)).network, self.cell.seed)
        self._enter(self.cell.precision)
        self.found["summary"] = take(self.cell, data, weights)
        self.found["lower_loss"] = None
        if not self.whole or own_views(self.cell):
            self._enter(self.lower)
            lower = cells.from_job(self.cell.to_job() | {"precision": self.lower})
            self.found["lower_loss"] = take(lower, data, weights)["loss"]
        self._enter("done")

    def _enter(self, phase: str) -> None:
        self.phase = f"checking the first step of batch {self.cell.batch}, {phase}"
        self.reporter.phase(self.phase)


def images(cell: Cell, reading: Reading, enter: Callable[[str], None]) -> Splits[ImageSet | EncodedSet]:
    """A cell's images: all in memory where they will lie on the device, else as they are stored."""
    if cell.input == "resident":
        loaded = load(cell.dataset, on_bad_image=reading.on_bad_image)
        return Splits(loaded.train, loaded.validation, loaded.test)
    opened = open_source(cell.dataset)
    if reading.on_bad_image == "skip" and isinstance(opened.train, EncodedSet):
        enter("looking at every image")
        good = without_bad(opened.train, workers=reading.workers)
        return Splits(good, opened.validation, opened.test)
    return opened


def own_views(cell: Cell) -> bool:
    """Whether steps make views that are not the specification's, as the implementation does not fulfil Views."""
    fulfils = getattr(registry.find(cell.implementation), "fulfils", ("views",))
    return cell.input != "views" and "views" not in fulfils


def take(cell: Cell, data: ImageSet | EncodedSet, weights: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Summary of the cell's first step, see parity.summary, on the specification's views where it makes its own."""
    config, seed = cell.config(samples=len(data)), cell.seed
    trainer: Any = registry.load(cell.implementation, cell.execution)
    spans: list[training.Span] = []
    with contextlib.ExitStack() as stack:
        feed: inputs.Feed = (
            inputs.ReadyViews(trainer, data, config, seed=seed)
            if cell.input == "views" or own_views(cell)
            else stack.enter_context(inputs.Streamed(trainer, data, config, seed=seed))
        )
        state = training.train(trainer, trainer.init(config, weights), feed, fences=[1], observe=spans.append)
    found = parity.summary(float(spans[0].losses[0]), trainer.to_arrays(state))
    del trainer, feed, state
    gc.collect()
    return found
