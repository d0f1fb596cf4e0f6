"""Cells and suites: what is measured, as data.

A cell is one training run of one implementation at one setting, in one process. A suite is a matrix of cells.
"""

from __future__ import annotations

import dataclasses
import hashlib
import itertools
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import PurePath
from types import MappingProxyType
from typing import Any, Literal, get_args

from swav_spec import recipes
from swav_spec.config import Config, DeviceKind, Execution, Precision
from swav_spec.errors import require
from swav_spec.registry import BUILT_IN

Choice = Literal["both", "on", "off"]
Task = Literal["train", "kernels", "largest_batch"]
Input = Literal["resident", "stream", "views"]
CHOICES: Mapping[str, tuple[bool, ...]] = MappingProxyType({"both": (False, True), "on": (True,), "off": (False,)})
_LATER = {"task": "train", "input": "resident", "network": None, "crops": None}
#: Steps before the first timed block, at least.
WARMUP_STEPS = 10
#: Timed blocks of a run that is long enough for them, and the fewest that are accepted.
BLOCKS, FEWEST_BLOCKS = 20, 5


@dataclass(frozen=True)
class Cell:
    """One measurement. Fields are those of a record's `cell`; see schema/record-2.json.

    Raises:
        InvalidInput: the recipe is unknown, or a number is out of its range.
    """

    suite: str
    implementation: str
    mode: str
    device: DeviceKind
    precision: Precision
    recipe: str
    dataset: str
    batch: int
    multi_crop: bool
    queue_rows: int
    seed: int
    steps: int
    repeat: int = 0
    lr: float | None = None
    task: Task = "train"
    input: Input = "resident"
    network: str | None = None
    crops: str | None = None

    def __post_init__(self) -> None:
        recipes.recipe(self.recipe)
        fewest = WARMUP_STEPS + FEWEST_BLOCKS
        require(self.steps >= fewest, "steps", self.steps, f"at least {fewest}: warm-up and {FEWEST_BLOCKS} blocks")
        require(0 <= self.seed < 2**64, "seed", self.seed, "in 0..2^64-1")
        require(self.repeat >= 0, "repeat", self.repeat, "at least 0")
        require(self.task in get_args(Task), "task", self.task, "one of " + ", ".join(get_args(Task)))
        require(self.input in get_args(Input), "input", self.input, "one of " + ", ".join(get_args(Input)))
        _ = self.execution, self.config(samples=self.batch)  # both check their fields

    @property
    def id(self) -> str:
        """The same for the same fields on every machine and in every version; fit for a file name."""
        # Fields that came later count only where they are set, so that older cells keep their names.
        public = {name: value for name, value in self._public().items() if _LATER.get(name, self) != value}
        fields = json.dumps(public, sort_keys=True)
        name = re.sub(r"[^A-Za-z0-9]+", "-", self.implementation).strip("-")[:40] or "implementation"
        crops = "multi" if self.multi_crop else "two"
        digest = hashlib.sha256(fields.encode()).hexdigest()[:8]
        return f"{name}-b{self.batch}-{crops}-q{self.queue_rows}-{self.precision}-s{self.seed}-{digest}"

    @property
    def title(self) -> str:
        """The cell in a few words, for people."""
        words = [
            self.implementation,
            f"batch {self.batch}",
            "multi-crop" if self.multi_crop else "two crops",
            f"queue {self.queue_rows}" if self.queue_rows else "no queue",
        ]
        defaults = {"mode": "default", "device": "cpu", "precision": "float32", **_LATER}
        words += [str(getattr(self, name)) for name, value in defaults.items() if getattr(self, name) != value]
        words += [f"{name} {getattr(self, name)}" for name in ("seed", "repeat") if getattr(self, name)]
        return " · ".join(words)

    @property
    def execution(self) -> Execution:
        """Where and how the implementation computes."""
        return Execution(self.device, self.precision, self.mode)

    def config(self, samples: int) -> Config:
        """The run's configuration for a training set of `samples` images."""
        recipe = recipes.recipe(self.recipe)
        changes: dict[str, Any] = {"batch": self.batch, "queue_length": self.queue_rows, "queue_start_epoch": 0}
        if self.lr is not None:
            changes |= {"base_lr": self.lr, "start_warmup": min(recipe.start_warmup, self.lr)}
            changes |= {"final_lr": min(recipe.final_lr, self.lr)}
        recipe = dataclasses.replace(recipe, **changes)
        if self.network is not None:
            recipe = recipes.with_network(recipe, self.network)
        if self.crops is not None:
            recipe = recipes.with_crops(recipe, self.crops)
        if not self.multi_crop:
            recipe = recipes.without_multi_crop(recipe)
        return recipes.resolve(recipe, samples=samples, steps=self.steps)

    def to_dict(self) -> dict[str, Any]:
        """Fields of a record's `cell`; of a data set at a path only the name."""
        return {"id": self.id, "queue": self.queue_rows > 0, **self._public()}

    def to_job(self) -> dict[str, Any]:
        """All fields, for `from_job`."""
        return dataclasses.asdict(self)

    def _public(self) -> dict[str, Any]:
        return dataclasses.asdict(self) | {"dataset": PurePath(self.dataset).name}


def from_job(data: Mapping[str, Any]) -> Cell:
    """The cell that `Cell.to_job` gave."""
    return Cell(**data)


@dataclass(frozen=True)
class Goals:
    """What every cell of a suite must reach for its training to count as SwAV that learns.

    Attributes:
        knn_over_raw, knn_over_random: margins of kNN accuracy over raw pixels and random weights, as shares.
        loss_below_ln_k: margin of the final loss below ln K, in nats.
    """

    knn_over_raw: float
    knn_over_random: float
    loss_below_ln_k: float


@dataclass(frozen=True)
class Suite:
    """A matrix of cells.

    Attributes:
        description: one line for `swav-bench list`.
        steps: (batch, multi_crop) -> training steps; None is the entry for all others.
        queue_rows: length of the queue where it is on.
        goals: None where nothing is learnt.
        timeout_s: for one cell, from the start of its process to its end.
    """

    description: str
    recipe: str
    dataset: str
    implementations: tuple[str, ...]
    batches: tuple[int, ...]
    steps: Mapping[tuple[int, bool] | None, int]
    queue_rows: int
    multi_crop: Choice = "both"
    queue: Choice = "both"
    modes: tuple[str, ...] = ("default",)
    precisions: tuple[Precision, ...] = ("float32",)
    seeds: tuple[int, ...] = (0,)
    repeats: int = 1
    goals: Goals | None = None
    timeout_s: float = 600


SUITES: Mapping[str, Suite] = MappingProxyType(
    {
        "demo": Suite(
            description="three frameworks learn from made-up textures on a CPU: 24 cells in a few minutes",
            recipe="textures",
            dataset="textures",
            implementations=("torch", "jax", "tensorflow"),
            batches=(32, 64),
            steps={(32, False): 320, (64, False): 320, (32, True): 200, (64, True): 130},
            queue_rows=256,
            goals=Goals(knn_over_raw=0.15, knn_over_random=0.25, loss_below_ln_k=0.5),
            timeout_s=300,
        ),
    }
)


def suite(name: str) -> Suite:
    """The suite called `name`.

    Raises:
        InvalidInput: there is none of that name.
    """
    require(name in SUITES, "suite", name, "one of " + ", ".join(SUITES))
    return SUITES[name]


def known_implementation(name: str) -> None:
    """Raises InvalidInput unless `name` is built in or has the form package.module:Class."""
    known = ", ".join(BUILT_IN)
    require(name in BUILT_IN or ":" in name, "implementation", name, f"one of {known}, or package.module:Class")


def plan(
    name: str, *, device: DeviceKind = "cpu", steps: int | None = None, lr: float | None = None, **changes: Any
) -> list[Cell]:
    """Cells of the suite called `name`, the implementations interleaved so that drift of the machine hits all alike.

    Args:
        name: of the suite.
        device: for all cells.
        steps: of every cell, instead of the suite's.
        lr: base learning rate instead of the recipe's.
        changes: other fields of `Suite` (implementations, batches, multi_crop, queue, ...); None or empty: the suite's.

    Raises:
        InvalidInput: a name is unknown, or a number is out of its range.
    """
    chosen = dataclasses.replace(suite(name), **{field: value for field, value in changes.items() if value})
    for implementation in chosen.implementations:
        known_implementation(implementation)
    for field in ("multi_crop", "queue"):
        require(getattr(chosen, field) in CHOICES, field, getattr(chosen, field), "both, on or off")
    matrix = itertools.product(
        range(chosen.repeats),
        chosen.seeds,
        chosen.precisions,
        chosen.batches,
        CHOICES[chosen.multi_crop],
        CHOICES[chosen.queue],
        chosen.implementations,
        chosen.modes,
    )
    cells = [
        Cell(
            suite=name,
            implementation=implementation,
            mode=mode,
            device=device,
            precision=precision,
            recipe=chosen.recipe,
            dataset=chosen.dataset,
            batch=batch,
            multi_crop=multi_crop,
            queue_rows=chosen.queue_rows if queue else 0,
            seed=seed,
            steps=steps or _steps(chosen, batch, multi_crop),
            repeat=repeat,
            lr=lr,
        )
        for repeat, seed, precision, batch, multi_crop, queue, implementation, mode in matrix
    ]
    return list(dict.fromkeys(cells))


def _steps(chosen: Suite, batch: int, multi_crop: bool) -> int:
    default = chosen.steps.get(None, max(chosen.steps.values()))
    return chosen.steps.get((batch, multi_crop), default)
