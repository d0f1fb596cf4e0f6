"""Suites: which cells are measured, as data, and in which order.

A suite is a few matrices of cells. Those of the lowest priority number come first: a run that is stopped has the most
telling cells. Within a matrix the implementations take turns, so that drift of the machine hits all alike.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

from swav_bench.cells import Cell, Input, Task, known_implementation
from swav_spec.config import DeviceKind, Precision
from swav_spec.errors import require

Choice = Literal["both", "on", "off"]
CHOICES: Mapping[str, tuple[bool, ...]] = MappingProxyType({"both": (False, True), "on": (True,), "off": (False,)})
#: Execution modes that only a GPU has.
GPU_MODES = ("cudagraph",)


@dataclass(frozen=True)
class Goals:
    """What every cell of a matrix must reach for its training to count as SwAV that learns.

    Attributes:
        knn_over_raw, knn_over_random: margins of kNN accuracy over raw pixels and random weights, as shares.
        loss_below_ln_k: margin of the final loss below ln K, in nats.
    """

    knn_over_raw: float
    knn_over_random: float
    loss_below_ln_k: float


@dataclass(frozen=True)
class Matrix:
    """A product of axes; every combination is a cell.

    Attributes:
        implementations: name -> the modes that it is measured in.
        steps: (batch, multi_crop) -> training steps; None is the entry for all others.
        queue_rows: length of the queue where it is on.
        networks, crops: instead of the recipe's; None is the recipe's own.
        priority: matrices with a smaller number are measured earlier.
        goals: None where nothing is learnt.
    """

    recipe: str
    dataset: str
    implementations: Mapping[str, tuple[str, ...]]
    batches: tuple[int, ...]
    steps: Mapping[tuple[int, bool] | None, int]
    queue_rows: int
    multi_crop: Choice = "both"
    queue: Choice = "both"
    precisions: tuple[Precision, ...] = ("float32",)
    networks: tuple[str | None, ...] = (None,)
    crops: tuple[str | None, ...] = (None,)
    inputs: tuple[Input, ...] = ("resident",)
    seeds: tuple[int, ...] = (0,)
    repeats: int = 1
    task: Task = "train"
    priority: int = 0
    goals: Goals | None = None

    def cells(self, suite: str, device: DeviceKind, steps: int | None, lr: float | None) -> list[Cell]:
        """The combinations, implementations and their modes in turn."""
        implementations = [(name, mode) for name, modes in self.implementations.items() for mode in modes]
        matrix = itertools.product(
            range(self.repeats),
            self.seeds,
            self.precisions,
            self.networks,
            self.crops,
            self.batches,
            CHOICES[self.multi_crop],
            CHOICES[self.queue],
            self.inputs,
            implementations,
        )
        return [
            Cell(
                suite=suite,
                implementation=implementation,
                mode=mode,
                device=device,
                precision=precision,
                recipe=self.recipe,
                dataset=self.dataset,
                batch=batch,
                multi_crop=multi_crop,
                queue_rows=self.queue_rows if queue else 0,
                seed=seed,
                steps=steps or self.steps.get((batch, multi_crop), self.steps.get(None, max(self.steps.values()))),
                repeat=repeat,
                lr=lr,
                task=self.task,
                input=source,
                network=network,
                crops=crops,
            )
            for repeat, seed, precision, network, crops, batch, multi_crop, queue, source, (
                implementation,
                mode,
            ) in matrix
        ]


@dataclass(frozen=True)
class Suite:
    """Matrices of cells, or the cells of other suites.

    Attributes:
        description: one line for `swav-bench list`.
        parts: names of suites; their cells keep those names, so that nothing is measured twice in one folder.
        device: that it is meant for.
        timeout_s: for one cell, from the start of its process to its end.
    """

    description: str
    matrices: tuple[Matrix, ...] = ()
    parts: tuple[str, ...] = ()
    device: DeviceKind = "cpu"
    timeout_s: float = 600


#: Each framework as it comes, and as it is compiled further.
_PLAIN = {"torch": ("eager",), "jax": ("jit",), "tensorflow": ("graph",)}
_COMPILED = {"torch": ("compile", "cudagraph"), "tensorflow": ("xla",)}
#: What one would otherwise write, to compare with.
_PEERS = {"plain-torch": ("default",)}
#: Peers that a suite measures only where they can be imported, unless they are asked for by name.
OPTIONAL = {"lightly": ("default",)}

_TEXTURES = Matrix(
    recipe="textures",
    dataset="textures",
    implementations=dict.fromkeys(_PLAIN, ("default",)),
    batches=(32, 64),
    steps={(32, False): 320, (64, False): 320, (32, True): 200, (64, True): 130},
    queue_rows=256,
    goals=Goals(knn_over_raw=0.15, knn_over_random=0.25, loss_below_ln_k=0.5),
)
# Steps for more than ten seconds of timed blocks on a chip that reaches the goals: shorter ones count no energy.
_IMAGENET = Matrix(
    recipe="imagenet-200ep-bs256",
    dataset="noise",
    implementations=_PLAIN | _PEERS,
    batches=(256,),
    steps={(256, True): 100, (256, False): 160, (64, True): 320, (64, False): 480, None: 40},
    queue_rows=3840,
    queue="off",
    precisions=("bfloat16",),
)
_CIFAR = dataclasses.replace(
    _IMAGENET,
    dataset="noise-32",
    networks=("resnet18-cifar",),
    crops=("2x32+4x16",),
    batches=(512,),
    steps={(512, True): 400, (512, False): 700, (128, True): 1600, (128, False): 2600, None: 120},
)
_MEMORY = dataclasses.replace(_IMAGENET, steps={None: 20})
_LARGEST = dataclasses.replace(_IMAGENET, task="largest_batch", implementations=_PLAIN, steps={None: 60})
_LATER_PRECISIONS: tuple[Precision, ...] = ("tf32", "float32")
_change = dataclasses.replace

SUITES: Mapping[str, Suite] = MappingProxyType(
    {
        "demo": Suite(
            description="three frameworks learn from made-up textures on a CPU: 24 cells in a few minutes",
            matrices=(_TEXTURES,),
            timeout_s=300,
        ),
        "imagenet-shapes": Suite(
            description="speed, memory, energy, largest batch of ResNet-50 at 2x224 and 2x224+6x96, bfloat16 first",
            matrices=(
                _IMAGENET,
                _change(_IMAGENET, queue="on", priority=1),
                _change(_LARGEST, priority=2),
                _change(_IMAGENET, implementations=_COMPILED, priority=3),
                _change(_IMAGENET, implementations=OPTIONAL, queue="both", priority=4),
                _change(_IMAGENET, batches=(64, 1024), implementations=_PLAIN, priority=5),
                _change(_IMAGENET, implementations=_PLAIN, precisions=_LATER_PRECISIONS, steps={None: 40}, priority=6),
            ),
            device="gpu",
            timeout_s=900,
        ),
        "cifar": Suite(
            description="the same of ResNet-18 with the CIFAR stem at 2x32 and 2x32+4x16, where overheads show",
            matrices=(
                _CIFAR,
                _change(_CIFAR, queue="on", priority=1),
                _change(_CIFAR, implementations=_COMPILED, priority=3),
                _change(_CIFAR, implementations=OPTIONAL, queue="both", priority=4),
                _change(_CIFAR, batches=(128, 2048), implementations=_PLAIN, priority=5),
                _change(_CIFAR, implementations=_PLAIN, precisions=_LATER_PRECISIONS, steps={None: 300}, priority=6),
            ),
            device="gpu",
            timeout_s=900,
        ),
        "kernels": Suite(
            description="single operations: Sinkhorn, loss, queue, optimizer, views, at small and published sizes",
            matrices=(
                _change(
                    _IMAGENET, implementations=_PLAIN | _PEERS, multi_crop="on", task="kernels", precisions=("float32",)
                ),
            ),
            device="gpu",
            timeout_s=900,
        ),
        "memory": Suite(
            description="peak memory of ResNet-50 over batch sizes, and the largest batch that fits in float32",
            matrices=(
                _MEMORY,
                _change(_LARGEST, precisions=("float32",), multi_crop="on", priority=1),
                _change(_MEMORY, batches=(32, 64, 128, 512), priority=2),
            ),
            device="gpu",
            timeout_s=1800,
        ),
        "accuracy": Suite(
            description="what is learnt, over five seeds of the textures, and the loss in low precision beside float32",
            matrices=(
                _change(_TEXTURES, batches=(32,), queue="off", seeds=(0, 1, 2, 3, 4)),
                _change(_TEXTURES, batches=(32,), queue="on", seeds=(0, 1, 2, 3, 4), priority=1),
                # For the loss beside float32's.
                _change(_TEXTURES, batches=(32,), queue="off", precisions=("bfloat16", "tf32"), priority=2),
            ),
        ),
        "full": Suite(
            description="all of the suites below but the demo, the first cells of each first",
            parts=("imagenet-shapes", "cifar", "kernels", "memory", "accuracy"),
            device="gpu",
            timeout_s=1800,
        ),
    }
)


@dataclass(frozen=True)
class Changes:
    """What the command line asks for instead of a suite's own; empty or None: the suite's.

    Attributes:
        implementations: names; one that the suite does not know is added to each matrix in its default mode.
        modes: for all implementations, or IMPLEMENTATION=MODE for one.
        steps: of every cell.
        lr: base learning rate instead of the recipe's.
        Others: as in Matrix.
    """

    implementations: tuple[str, ...] = ()
    modes: tuple[str, ...] = ()
    steps: int | None = None
    lr: float | None = None
    dataset: str | None = None
    recipe: str | None = None
    precisions: tuple[Precision, ...] = ()
    batches: tuple[int, ...] = ()
    multi_crop: Choice | None = None
    queue: Choice | None = None
    networks: tuple[str, ...] = ()
    crops: tuple[str, ...] = ()
    inputs: tuple[Input, ...] = ()
    seeds: tuple[int, ...] = ()
    repeats: int | None = None

    def __post_init__(self) -> None:
        for name in self.implementations:
            known_implementation(name)
        for choice in ("multi_crop", "queue"):
            given = getattr(self, choice)
            require(given is None or given in CHOICES, choice, given, "both, on or off")

    def applied(self, matrix: Matrix, known: Collection[str]) -> Matrix | None:
        """The matrix with these changes; None where it measures none of the implementations asked for.

        Args:
            matrix: of a suite.
            known: implementations of all the suite's matrices; others are added to each.
        """
        asked = self.implementations or tuple(matrix.implementations)
        implementations = {
            name: self._modes(name) or matrix.implementations.get(name, ("default",))
            for name in asked
            if name in matrix.implementations or name not in known
        }
        fields = ("dataset", "recipe", "precisions", "batches", "multi_crop", "queue", "networks", "crops", "inputs")
        given = {name: value for name in (*fields, "seeds", "repeats") if (value := getattr(self, name))}
        return dataclasses.replace(matrix, implementations=implementations, **given) if implementations else None

    def _modes(self, name: str) -> tuple[str, ...]:
        asked = (mode.rpartition("=") for mode in self.modes)
        return tuple(mode for whose, _, mode in asked if whose in ("", name))


def suite(name: str) -> Suite:
    """The suite called `name`.

    Raises:
        InvalidInput: there is none of that name.
    """
    require(name in SUITES, "suite", name, "one of " + ", ".join(SUITES))
    return SUITES[name]


def plan(
    name: str, changes: Changes | None = None, *, device: DeviceKind | None = None, rehearse: bool = False
) -> list[Cell]:
    """Cells of the suite called `name`, the most telling first.

    Args:
        name: of the suite.
        changes: what is asked for instead of the suite's own.
        device: for all cells; by default the suite's, and the CPU for a rehearsal.
        rehearse: few and tiny cells instead; see `rehearsal`.

    Raises:
        InvalidInput: a name is unknown, a number is out of its range, or nothing is left to measure.
    """
    chosen, changes = suite(name), changes or Changes()
    where = device or ("cpu" if rehearse else chosen.device)
    matrices = [(part, matrix) for part in chosen.parts or (name,) for matrix in SUITES[part].matrices]
    known = {name for _, matrix in matrices for name in matrix.implementations}
    cells = [
        cell
        for part, matrix in sorted(matrices, key=lambda item: item[1].priority)
        if (changed := changes.applied(matrix, known))
        for cell in changed.cells(part, where, changes.steps, changes.lr)
    ]
    require(bool(cells), "implementation", ", ".join(changes.implementations), f"one that suite {name} measures")
    cells = list(dict.fromkeys(cells))
    return rehearsal(cells) if rehearse else cells


def rehearsal(cells: Iterable[Cell]) -> list[Cell]:
    """Few and tiny cells that still show each implementation in each of its modes, precisions, inputs and tasks.

    The network is a small one, crops have 32 and 16 pixels, and images are made up; modes that a CPU has not are left
    out there. Figures of such cells say nothing, which their data set and network keep apart from others.
    """
    chosen: list[Cell] = []
    met: set[tuple[str, str, Any]] = set()
    for cell in cells:
        if cell.device == "cpu" and cell.mode in GPU_MODES:
            continue
        tiny = _tiny(cell)
        shown = {
            (tiny.implementation, name, getattr(tiny, name))
            for name in ("task", "mode", "precision", "multi_crop", "queue_rows", "input", "dataset", "crops")
        }
        if not shown <= met:
            met |= shown
            chosen.append(tiny)
    return chosen


def _tiny(cell: Cell) -> Cell:
    groups = dataclasses.replace(cell, multi_crop=True).config(samples=cell.batch).crops
    sizes = (32, *[16] * len(groups))
    dataset = {"noise": "noise-32", "textures": "digits"}.get(cell.dataset, cell.dataset)
    return dataclasses.replace(
        cell,
        dataset=dataset,
        network="convnet4",
        crops="+".join(f"{group.count}x{size}" for group, size in zip(groups, sizes, strict=False)),
        batch=16,
        queue_rows=64 if cell.queue_rows else 0,
        # What is to be learnt takes a few more steps: after twenty, no network is far from a collapse.
        steps=120 if dataset == "digits" else 20,
    )
