"""Cells: what is measured, as data.

A cell is one task of one implementation at one setting, in one process: usually a training run. suites.py has the
matrices that cells come from.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, get_args

from swav_data.sources import public_name
from swav_spec import recipes
from swav_spec.config import Config, DeviceKind, Execution, Precision
from swav_spec.errors import require
from swav_spec.registry import BUILT_IN

Task = Literal["train", "kernels", "largest_batch"]
Input = Literal["resident", "stream", "views"]
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
        """See `cell_id`."""
        return cell_id(self._public())

    @property
    def title(self) -> str:
        """See `cell_title`."""
        return cell_title(dataclasses.asdict(self))

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
        return dataclasses.asdict(self) | {"dataset": public_name(self.dataset)}


def cell_id(fields: Mapping[str, Any]) -> str:
    """Name of the cell with these fields (a record's `cell` without `id` and `queue`).

    The same for the same fields on every machine and in every version; fit for a file name.
    """
    # Fields that came later count only where they are set, so that older cells keep their names.
    counted = {name: value for name, value in fields.items() if _LATER.get(name, fields) != value}
    digest = hashlib.sha256(json.dumps(counted, sort_keys=True).encode()).hexdigest()[:8]
    name = re.sub(r"[^A-Za-z0-9]+", "-", fields["implementation"]).strip("-")[:40] or "implementation"
    crops = "multi" if fields["multi_crop"] else "two"
    numbers = f"b{fields['batch']}-{crops}-q{fields['queue_rows']}-{fields['precision']}-s{fields['seed']}"
    return f"{name}-{numbers}-{digest}"


def cell_title(fields: Mapping[str, Any]) -> str:
    """The cell with these fields in a few words, for people."""
    words = [
        fields["implementation"],
        f"batch {fields['batch']}",
        "multi-crop" if fields["multi_crop"] else "two crops",
        f"queue {fields['queue_rows']}" if fields["queue_rows"] else "no queue",
    ]
    defaults = {"mode": "default", "device": "cpu", "precision": "float32", **_LATER}
    words += [str(fields[name]) for name, value in defaults.items() if fields[name] != value]
    words += [f"{name} {fields[name]}" for name in ("seed", "repeat") if fields[name]]
    return " · ".join(words)


def from_job(data: Mapping[str, Any]) -> Cell:
    """The cell that `Cell.to_job` gave."""
    return Cell(**data)


def known_implementation(name: str) -> None:
    """Raises InvalidInput unless `name` is built in or has the form package.module:Class."""
    known = ", ".join(BUILT_IN)
    require(name in BUILT_IN or ":" in name, "implementation", name, f"one of {known}, or package.module:Class")
