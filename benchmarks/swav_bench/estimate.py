"""About how long a cell will take and how much memory, before it runs: for people who plan, and for time budgets.

By count where nothing is known: the step's arithmetic over an assumed rate, compiling by the number of convolutions,
memory by the activations that are kept for the backward pass. The assumed rates below are round numbers and no claims.
Each record of a similar cell on the same machine corrects them, so that a run learns while it goes on.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from swav_bench.cells import Cell
from swav_bench.records import Record
from swav_spec import config as configs
from swav_spec.config import Config, Precision
from swav_spec.network import convolutions, count_parameters, step_flops
from swav_spec.registry import PEERS

#: Arithmetic per second that a step is taken to reach: on a GPU, and on one thread of a CPU.
_GPU: Mapping[Precision, float] = {"float64": 15e12, "float32": 25e12, "tf32": 60e12, "bfloat16": 110e12}
_THREAD: Mapping[Precision, float] = {"float64": 15e9, "float32": 35e9, "tf32": 35e9, "bfloat16": 10e9}
#: Seconds for a pixel of a view that Pillow makes, on a thread.
_PILLOW_S = 1e-7
#: The shortest step: on either device something is started for each of the many operations.
_SHORTEST_STEP_S = 3e-3
#: Seconds to start a process with a framework, and bytes that it takes.
_IMPORT_S = {"torch": 5.0, "plain-torch": 5.0, "lightly": 6.0, "jax": 5.0, "tensorflow": 8.0}
_IMPORT_BYTES = {"torch": 400e6, "plain-torch": 400e6, "lightly": 500e6, "jax": 550e6, "tensorflow": 950e6}
#: Seconds of tracing and compiling for each convolution at each resolution, by the mode asked for.
_COMPILE_S = {"compile": 0.8, "jit": 0.4, "xla": 0.6, "graph": 0.15, "cudagraph": 0.05, "eager": 0.02}
_DEFAULT_MODE = {"jax": "jit", "tensorflow": "graph"}
#: Programs of a cell: the step and the bare encoder's. Where the gate needs float32, one more in a process before.
_PROGRAMS = 1.6
#: Seconds to load or make a data set and to judge what was learnt on it; other sets are taken to be small.
_DATA_S = {"noise": 5.0, "textures": 5.0, "digits": 2.0}
#: Share of the training's time that the bare encoder is timed for.
_ENCODER = 1.1
#: Seconds for tasks that are no training run; tries of the largest batch start a process each.
_KERNELS_S, _TRIES = 60.0, 9
#: Copies of what a convolution gives that wait for the backward pass: it, its normalisation, its rectification.
_KEPT = 3
#: Copies of the weights: themselves, gradients, momentum.
_COPIES = 3


@dataclass(frozen=True)
class Estimate:
    """What a cell will take, about.

    Attributes:
        wall_s: seconds from the start of its process to its end.
        memory_bytes: of the device's memory (on a CPU the process's).
        similar: records that it rests on; 0 where it is by count alone.
    """

    wall_s: float
    memory_bytes: float
    similar: int = 0


class Estimator:
    """Estimates, from counts and the records so far."""

    def __init__(self, known: Iterable[Record] = (), *, threads: int = 1) -> None:
        self._threads = threads
        self._seen: dict[tuple[Any, ...], list[tuple[float, float, float]]] = {}
        for record in known:
            self.learn(record)

    def learn(self, record: Record) -> None:
        """Takes a record into account; one without a time that counts is passed over."""
        cell = record["cell"]
        if record["wall_s"] is None or record["status"] not in ("ok", "collapsed"):
            return
        if cell["task"] != "train":
            found = (record["wall_s"], 1.0, 1.0)
        else:
            config, memory = configs.from_dict(record["config"]), record["memory"]
            measured = memory["allocator_peak_bytes"] or memory["process_peak_bytes"]
            counted = _bytes(config, cell["precision"]) + _around(cell, config)
            found = (
                max(0.0, record["wall_s"] - record["learning"]["train_s"]),
                record["timing"]["step_s_median"] / self._step_s(cell, config),
                measured / counted if measured else 1.0,
            )
        for key in _keys(cell):
            self._seen.setdefault(key, []).append(found)

    def cell(self, cell: Cell) -> Estimate:
        """What `cell` will take."""
        fields = cell.to_dict()
        config = cell.config(samples=cell.batch)
        similar = next((self._seen[key] for key in _keys(fields) if key in self._seen), [])
        start_s, step, memory = (
            (statistics.median(column) for column in zip(*similar, strict=True))
            if similar
            else (_start_s(fields, config), 1.0, 1.0)
        )
        wall_s = start_s
        if cell.task == "train":
            wall_s += _ENCODER * config.schedule.steps * step * self._step_s(fields, config)
        return Estimate(
            wall_s=wall_s,
            memory_bytes=memory * (_bytes(config, cell.precision) + _around(fields, config)),
            similar=len(similar),
        )

    def _step_s(self, cell: Mapping[str, Any], config: Config) -> float:
        rate = _GPU[cell["precision"]] if cell["device"] == "gpu" else self._threads * _THREAD[cell["precision"]]
        views_s = 0.0
        if cell["implementation"] in PEERS:
            views_s = config.batch * sum(size**2 for size in config.view_sizes) * _PILLOW_S / self._threads
        return max(step_flops(config) / rate, _SHORTEST_STEP_S) + views_s


def _keys(cell: Mapping[str, Any]) -> list[tuple[Any, ...]]:
    """What cells have in common whose figures tell of each other's, the most alike first."""
    same = [cell[name] for name in ("implementation", "mode", "device", "precision", "task", "recipe", "network")]
    shape = [cell[name] for name in ("crops", "multi_crop", "batch", "input", "dataset")]
    return [(*same, *shape), tuple(same)]


def _start_s(cell: Mapping[str, Any], config: Config) -> float:
    """Everything but training: imports, data, compiling."""
    name = cell["implementation"]
    mode = _DEFAULT_MODE.get(name, "eager") if cell["mode"] == "default" else cell["mode"]
    units = sum(1 for _ in convolutions(config.network)) * len(config.resolutions)
    compiling = _COMPILE_S.get(mode, 0.02) * units
    begin = _IMPORT_S.get(name, 2.0) + _DATA_S.get(cell["dataset"], 2.0)
    if cell["task"] == "kernels":
        return begin + _KERNELS_S
    if cell["task"] == "largest_batch":
        return _TRIES * (begin + compiling) + begin + _PROGRAMS * compiling
    before = begin + compiling if cell["precision"] in ("tf32", "bfloat16") else 0.0
    return before + begin + _PROGRAMS * compiling


def _bytes(config: Config, precision: Precision) -> float:
    """Of weights and their copies, activations, views, scores and queue while a step is under way."""
    width = {"float64": 8, "bfloat16": 2}.get(precision, 4)
    exact = 8 if precision == "float64" else 4
    network = config.network
    total = 0.0
    for size in config.view_sizes:
        kept = sum(conv.outputs * (-(-size // conv.reduction)) ** 2 for conv in convolutions(network))
        total += config.batch * (kept * _KEPT * width + 3 * size**2 * exact)
    scores = config.views * config.batch * network.prototypes + len(config.assigned) * config.queue_rows * (
        network.prototypes + network.embedding
    )
    return total + 4 * scores * exact + _COPIES * count_parameters(network) * exact


def _around(cell: Mapping[str, Any], config: Config) -> float:
    """Bytes of what is there whatever the step: on a CPU the framework; the resident images."""
    images = {"noise": 403e6, "noise-32": 13e6, "textures": 11e6}.get(cell["dataset"], 0.0)
    framework = _IMPORT_BYTES.get(cell["implementation"], 120e6) if cell["device"] == "cpu" else 0.0
    return framework + (images if cell["input"] == "resident" else config.batch * 4e5)
