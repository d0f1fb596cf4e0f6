"""Single operations of the method alone, at sizes that follow from a cell's batch; at batch 256 the published ones.

Rows of Sinkhorn, queue and loss are multiples of the batch; prototypes, embeddings and tensors are the network's, crops
the recipe's. Inputs are random, never zeros. Bytes are the least that an operation must move: its inputs read once, its
outputs written once.
"""

from __future__ import annotations

import dataclasses
import math
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from swav_bench import cells, environment, memory, nvml
from swav_bench.timing import time_calls
from swav_spec import config as configs
from swav_spec import recipes, registry
from swav_spec.config import Config
from swav_spec.errors import require
from swav_spec.multicrop import crop_plan
from swav_spec.network import count_parameters, parameter_names, tensor_shapes

if TYPE_CHECKING:
    from swav_bench.child import Reporter

#: For the blocks of one operation, and calls between two fences at most.
BUDGET_S, CALLS = 0.5, 1000
#: Images that crops are taken from: ImageNet's as usually resized; others are as large as the crop.
IMAGE_SIDES = {224: 256}
#: Crops of small images, beside the recipe's own.
SMALL = "textures"


class Kernel(NamedTuple):
    """An operation at a size.

    Attributes:
        name: of the contract's method.
        size: in words.
        bytes: see above.
        make: puts its inputs on the device and gives what calls it once.
    """

    name: str
    size: str
    bytes: int
    make: Callable[[], Callable[[], Any]]


class Kernels:
    """All operations that an implementation has, one after another, in one process; see child.Task."""

    def __init__(self, job: Mapping[str, Any], reporter: Reporter) -> None:
        self.reporter = reporter
        self.cell = cells.from_job(job["cell"])
        self.found: dict[str, Any] = {"notes": [], "kernels": []}
        self.phase = "starting"
        self.status = "ok"
        self.reason: str | None = None

    def run(self) -> None:
        """Measures; an operation that fails is a note, and the others are measured.

        Raises:
            InvalidInput: the implementation has none of the operations.
        """
        self._enter("importing the framework")
        implementation: Any = registry.load(self.cell.implementation, self.cell.execution)
        here = environment.describe() | {"implementation": implementation.describe()}
        self.found["environment"] = here
        self.reporter.send("environment", environment=here)
        config = self.cell.config(samples=self.cell.batch)
        self.found["config"] = configs.to_dict(config)
        gpu = nvml.first_gpu() if self.cell.device == "gpu" else None
        others = gpu.condition()["other_processes"] if gpu else None
        if others:
            self.found["notes"].append(f"{others} other processes were on the GPU")
        implementation.reset_peak()
        for kernel in kernels(implementation, config):
            self._measure(implementation, kernel)
        require(
            bool(self.found["kernels"]),
            "implementation",
            self.cell.implementation,
            "one with an operation to measure" + "".join(f"; {note}" for note in self.found["notes"][:1]),
        )
        self.found["memory"] = {
            "allocator_peak_bytes": implementation.peak_memory_bytes(),
            "process_peak_bytes": memory.process_peak_bytes(),
            "nvml_process_bytes": gpu.process_bytes() if gpu else None,
        }
        self._enter("done")

    def _measure(self, implementation: Any, kernel: Kernel) -> None:
        self._enter(f"{kernel.name} {kernel.size}")
        try:
            calls = time_calls(kernel.make(), implementation.fence, budget_s=BUDGET_S, per_block=CALLS)
        except Exception as error:  # noqa: BLE001 - most often a size that does not fit; the others may
            traceback.print_exc()
            said = environment.said(error)
            self.found["notes"].append(f"{kernel.name} {kernel.size} failed: {said}")
            return
        self.found["kernels"].append(
            {
                "name": kernel.name,
                "size": kernel.size,
                "bytes": kernel.bytes,
                "calls_per_block": calls.per_block,
                "block_s": calls.block_s,
            }
        )

    def _enter(self, phase: str) -> None:
        self.phase = phase
        print(f"{time.process_time():8.2f} s CPU  {phase}", flush=True)
        self.reporter.phase(phase)


def kernels(implementation: Any, config: Config) -> Iterator[Kernel]:
    """What is measured of an implementation."""
    maths = maths_of(implementation)
    double = implementation.execution.precision == "float64"
    dtype = np.dtype(np.float64 if double else np.float32)
    if maths is not None:
        random = _Random(implementation, dtype)
        yield from _sinkhorn(maths, config, random)
        yield from _loss(maths, config, random)
        yield from _queue(maths, config, random)
        yield _larc_sgd(maths, config, random)
    if "views" in implementation.fulfils:
        small = dataclasses.replace(recipes.recipe(SMALL), batch=config.batch)
        for chosen in dict.fromkeys([config.crops, small.crops]):
            yield _views(implementation, dataclasses.replace(config, crops=chosen, assigned=(0, 1)), dtype)


def maths_of(implementation: Any) -> Any | None:
    """What has the methods of Maths: the implementation where it fulfils that, else its `timed_maths`, else None.

    The latter are right for SwAV's inputs, but not for all that Maths must take.
    """
    return implementation if "maths" in implementation.fulfils else getattr(implementation, "timed_maths", None)


class _Random:
    """Random arrays on the device: the same for every implementation."""

    def __init__(self, device: Any, dtype: np.dtype) -> None:
        self._device, self.dtype = device, dtype
        self._generator = np.random.Generator(np.random.PCG64(0))

    def uniform(self, shape: Sequence[int]) -> Any:
        """In [-1, 1), as cosines are."""
        values = self._generator.random(shape, dtype=self.dtype)
        np.multiply(values, 2, out=values)
        np.subtract(values, 1, out=values)
        return self._device.to_device(values)

    def codes(self, shape: Sequence[int]) -> Any:
        """Rows that sum to 1."""
        values = self._generator.random(shape, dtype=self.dtype) + 0.01
        return self._device.to_device((values / values.sum(axis=-1, keepdims=True)).astype(self.dtype))


def _sinkhorn(maths: Any, config: Config, random: _Random) -> Iterator[Kernel]:
    batch, prototypes = config.batch, config.network.prototypes
    for rows, columns, keep in (
        (batch, prototypes, batch),
        (16 * batch, prototypes, 16 * batch),
        (17 * batch, prototypes, batch),
        (256 * batch, prototypes, 256 * batch),
        (128 * batch, 10 * prototypes, 128 * batch),
    ):
        size = f"{rows}x{columns}" if keep == rows else f"{rows - keep}+{keep}x{columns}"

        def make(rows: int = rows, columns: int = columns, keep: int = keep) -> Callable[[], Any]:
            scores = random.uniform((rows, columns))
            settings = {"epsilon": config.epsilon, "iterations": config.iterations, "keep": keep}
            return lambda: maths.sinkhorn(scores, **settings)

        yield Kernel("sinkhorn", size, (rows + keep) * columns * random.dtype.itemsize, make)


def _loss(maths: Any, config: Config, random: _Random) -> Iterator[Kernel]:
    assigned, prototypes = config.assigned, config.network.prototypes
    for views in dict.fromkeys((len(assigned), config.views)):
        shape = (views, config.batch, prototypes)

        def make(shape: tuple[int, ...] = shape) -> Callable[[], Any]:
            scores, codes = random.uniform(shape), random.codes((len(assigned), *shape[1:]))
            settings = {"temperature": config.temperature, "assigned": tuple(range(len(assigned)))}
            return lambda: maths.swapped_loss(scores, codes, **settings)

        count = (2 * views + len(assigned)) * config.batch * prototypes
        yield Kernel("swapped_loss", "x".join(map(str, shape)), count * random.dtype.itemsize, make)


def _queue(maths: Any, config: Config, random: _Random) -> Iterator[Kernel]:
    views, rows, wide = len(config.assigned), 15 * config.batch, config.network.embedding
    prototypes, item = config.network.prototypes, random.dtype.itemsize

    def read() -> Callable[[], Any]:
        queue, weights = random.uniform((views, rows, wide)), random.uniform((prototypes, wide))
        return lambda: maths.queue_read(queue, rows, weights)

    def push() -> Callable[[], Any]:
        queue, new = random.uniform((views, rows, wide)), random.uniform((views, config.batch, wide))
        return lambda: maths.queue_push(queue, rows, new)[0]

    count = views * rows * (wide + prototypes) + prototypes * wide
    yield Kernel("queue_read", f"{views}x{rows}x{wide}, {prototypes} prototypes", count * item, read)
    yield Kernel("queue_push", f"{views}x{rows}x{wide}, {config.batch} new", 2 * views * rows * wide * item, push)


def _larc_sgd(maths: Any, config: Config, random: _Random) -> Kernel:
    network = config.network
    names, shapes = parameter_names(network), tensor_shapes(network)
    settings = {"lr": 0.1, "weight_decay": config.optimizer.weight_decay, "trust": config.optimizer.trust}

    def make() -> Callable[[], Any]:
        params, grads, momentum = ({name: random.uniform(shapes[name]) for name in names} for _ in range(3))
        return lambda: maths.larc_sgd(params, grads, momentum, **settings)

    count = count_parameters(network)
    return Kernel("larc_sgd", f"{len(names)} tensors, {count} numbers", 5 * count * random.dtype.itemsize, make)


def _views(implementation: Any, config: Config, dtype: np.dtype) -> Kernel:
    largest = max(config.view_sizes)
    side = IMAGE_SIDES.get(largest, largest)
    crops = "+".join(f"{group.count}x{group.size}" for group in config.crops)

    def make() -> Callable[[], Any]:
        random = np.random.Generator(np.random.PCG64(0))
        shape = (config.batch, side, side, 3)
        images = implementation.to_device(random.integers(0, 256, shape, dtype=np.uint8))
        plan = crop_plan(config, seed=0, epoch=0, samples=np.arange(config.batch), heights=side, widths=side)
        return lambda: implementation.views(images, plan, config)

    pixels = sum(math.prod((size, size, 3)) for size in config.view_sizes)
    count = config.batch * (side * side * 3 + pixels * dtype.itemsize)
    return Kernel("views", f"{config.batch} of {side}x{side}, {crops}", count, make)
