"""What a training run is asked to be: a recipe, changes to any of its fields, and where and how it runs.

Later ones win: the recipe, a TOML file, `--set FIELD=VALUE`, the command's own options.
"""

from __future__ import annotations

import dataclasses
import math
import tomllib
import types
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from swav_bench.cells import known_implementation
from swav_data.encoded import OnBadImage
from swav_spec import recipes
from swav_spec.config import Config, DeviceKind, Execution, Precision
from swav_spec.errors import InvalidInput, require
from swav_spec.recipes import Recipe

InputKind = Literal["auto", "resident", "stream"]
#: Other names of precisions on the command line.
PRECISION_NAMES: Mapping[str, Precision] = types.MappingProxyType({"bf16": "bfloat16", "fp32": "float32"})
#: Fields of a recipe that are no setting.
_NOT_SET = ("linear_top1",)
_RATES = ("base_lr", "final_lr", "start_warmup")
_ACCUMULATION = (
    "gradient accumulation is not offered: Sinkhorn and batch normalisation need the whole batch at once; "
    "take a smaller batch and a queue (queue_length)"
)


@dataclass(frozen=True)
class Settings:
    """A run, before its data are known.

    Attributes:
        framework: torch, jax, tensorflow, or package.module:Class.
        data: as for swav_data.sources.load.
        out: the run's folder.
        recipe: a name in recipes.RECIPES.
        changes: dotted field of the recipe -> its value, e.g. "optimizer.kind" -> "adam"; see `changed`.
        steps: length of the run instead of the recipe's epochs.
        scale_lr: learning rates grow with the batch over the recipe's (Goyal et al. 2017, arXiv 1706.02677).
        device, precision, mode: see Execution.
        threads: of the CPU; 0 for one on a CPU, all there are with a GPU.
        seed: of weights, order and crops.
        input: "resident" holds all images on the device, "stream" decodes them as they are needed, "auto" chooses.
        workers: decoding processes of a stream.
        on_bad_image: see swav_data.sources.load.
        log_every: steps from line to line of the log; 0 for about one a second and a half.
        checkpoint_every: steps from checkpoint to checkpoint; 0 for one every two minutes.
        keep: checkpoints that are kept besides the best.
        knn_every: epochs from one accuracy of nearest neighbours to the next; 0 for none.
        evaluate: nearest neighbours and a linear probe at the end, where the data have an evaluation split.
        stop_on_collapse: the run ends at the first sign of collapse.
        tensorboard: TensorBoard's event files beside the log.
    """

    framework: str
    data: str
    out: str
    recipe: str = "textures"
    changes: Mapping[str, Any] = field(default_factory=dict)
    steps: int | None = None
    scale_lr: bool = False
    device: DeviceKind = "cpu"
    precision: Precision = "float32"
    mode: str = "default"
    threads: int = 0
    seed: int = 0
    input: InputKind = "auto"
    workers: int = 0
    on_bad_image: OnBadImage = "error"
    log_every: int = 0
    checkpoint_every: int = 0
    keep: int = 3
    knn_every: float = 0
    evaluate: bool = True
    stop_on_collapse: bool = False
    tensorboard: bool = False

    def __post_init__(self) -> None:
        known_implementation(self.framework)
        require(self.framework != "numpy", "framework", self.framework, "one that trains: torch, jax, tensorflow ...")
        require(bool(self.data), "data", self.data, "a data set: see swav-bench list")
        require(bool(self.out), "out", self.out, "a folder")
        require(self.input in get_args(InputKind), "input", self.input, "one of " + ", ".join(get_args(InputKind)))
        bad = get_args(OnBadImage)
        require(self.on_bad_image in bad, "on_bad_image", self.on_bad_image, "one of " + ", ".join(bad))
        require(self.steps is None or self.steps >= 1, "steps", self.steps, "at least 1")
        require(0 <= self.seed < 2**64, "seed", self.seed, "in 0..2^64-1")
        for name in ("threads", "workers", "log_every", "checkpoint_every", "knn_every"):
            value = getattr(self, name)
            require(0 <= value < math.inf, name, value, "at least 0")
        require(self.keep >= 1, "keep", self.keep, "at least 1")
        require(
            self.steps is None or "epochs" not in self.changes, "steps", self.steps, "left out where epochs are given"
        )
        _ = self.execution, self.chosen_recipe()  # both check their fields

    @property
    def execution(self) -> Execution:
        """Where and how the implementation computes."""
        return Execution(self.device, self.precision, self.mode)

    def chosen_recipe(self) -> Recipe:
        """The recipe with its changes, learning rates scaled where that was asked for."""
        named = recipes.recipe(self.recipe)
        wanted = changed(named, self.changes)
        if not self.scale_lr:
            return wanted
        given = [name for name in _RATES if name in self.changes]
        require(
            not given,
            "scale_lr",
            self.scale_lr,
            f"left out where {', '.join(given)} is given: there is nothing to scale",
        )
        return _scaled(wanted, wanted.batch / named.batch)

    def config(self, samples: int) -> Config:
        """The run's config for a training set of so many images.

        Raises:
            InvalidInput: there are fewer than a batch, or a field is out of range.
        """
        return recipes.resolve(self.chosen_recipe(), samples=samples, steps=self.steps)

    def remarks(self, config: Config) -> list[str]:
        """Sentences about settings that are allowed, but seldom meant."""
        said = []
        named, wanted = recipes.recipe(self.recipe), self.chosen_recipe()
        if wanted.batch != named.batch and not self.scale_lr and wanted.base_lr == named.base_lr:
            rate = named.base_lr * wanted.batch / named.batch
            adam = " It is a rule for SGD; Adam asks for less." if wanted.optimizer.kind == "adam" else ""
            said.append(
                f"The learning rate {named.base_lr:g} is the recipe's for a batch of {named.batch}; by the linear "
                f"scaling rule a batch of {wanted.batch} would take {rate:g} (--scale-lr).{adam}"
            )
        rows, prototypes = config.batch + config.queue_rows, config.network.prototypes
        if rows < prototypes:
            said.append(
                f"Sinkhorn spreads {rows} samples (batch {config.batch}, queue {config.queue_rows}) over {prototypes} "
                f"prototypes: with fewer samples than prototypes not all can be used; a queue helps "
                f"(--queue-length {math.ceil((prototypes - config.batch) / config.batch) * config.batch}), "
                "or fewer prototypes."
            )
        return said

    def to_job(self) -> dict[str, Any]:
        """All fields as JSON values, for `from_job`."""
        return dataclasses.asdict(self)


def from_job(data: Mapping[str, Any]) -> Settings:
    """The settings that `Settings.to_job` gave."""
    return Settings(**data)


def settings(file: Path | None, given: Mapping[str, Any], assignments: Iterable[str] = ()) -> Settings:
    """Settings from a TOML file and the command line.

    Args:
        file: names of Settings' fields at the top; fields of the recipe in the table [set].
        given: Settings' fields as the command was told them (None: not told); `changes` are fields of the recipe.
        assignments: FIELD=VALUE, fields of the recipe.

    Raises:
        InvalidInput: the file cannot be read, or a field is unknown, missing, of another type or out of its range.
    """
    values = _read_toml(file) if file else {}
    changes = _flat(values.pop("set", {}))
    fields = sorted({item.name for item in dataclasses.fields(Settings)} - {"changes"})
    unknown = sorted(set(values) - set(fields))
    require(not unknown, f"{file} fields", unknown, "among " + ", ".join([*fields, "set"]))
    told = {name: value for name, value in given.items() if value is not None and name != "changes"}
    told_changes = {name: value for name, value in given.get("changes", {}).items() if value is not None}
    told_changes = dict(map(_assignment, assignments)) | told_changes
    if "epochs" in told_changes:
        values.pop("steps", None)
    if "steps" in told:
        changes.pop("epochs", None)
    if "crops" in told_changes:
        changes = {name: value for name, value in changes.items() if not name.startswith("crops.")}
    values |= told
    for name in ("framework", "data", "out"):
        require(name in values, name, None, f"given, with --{name} or in the file of --config")
    hints = get_type_hints(Settings)
    return Settings(
        **{name: _fitted(hints[name], value, name) for name, value in values.items()}, changes=changes | told_changes
    )


def changed(recipe: Recipe, changes: Mapping[str, Any]) -> Recipe:
    """The recipe with other values of some fields.

    Args:
        recipe: is left as it is.
        changes: dotted name -> value. "network" is also a name in recipes.NETWORKS; "crops" is also COUNTxSIZE for each
            group of the recipe, with + between, which keeps their scales; "crops.0.scale" is of the first group.

    Raises:
        InvalidInput: a field is unknown, or a value is of another type or out of its range.
    """
    if not changes:
        return recipe
    whole = {name: value for name, value in changes.items() if name in ("network", "crops")}
    if isinstance(whole.get("network"), str):
        recipe = recipes.with_network(recipe, whole.pop("network"))
    if isinstance(whole.get("crops"), str):
        recipe = recipes.with_crops(recipe, whole.pop("crops"))
    tree = dataclasses.asdict(recipe)
    for name, value in (whole | {name: value for name, value in changes.items() if name not in whole}).items():
        if name in ("network", "crops") and isinstance(value, str):
            continue
        _put(tree, name, value)
    # What was published was published of the recipe as it is.
    found: Recipe = _fitted(Recipe, tree | {"linear_top1": None}, "")
    return found


def _scaled(recipe: Recipe, factor: float) -> Recipe:
    """The recipe with its learning rates times `factor`."""
    return dataclasses.replace(recipe, **{name: factor * getattr(recipe, name) for name in _RATES})


def _read_toml(file: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidInput(f"config = {str(file)!r}: cannot be read ({error.strerror or error})") from error
    except ValueError as error:  # not UTF-8, or not TOML
        raise InvalidInput(f"config = {str(file)!r}: is no TOML file ({error})") from error


def _flat(tree: Any, before: str = "") -> dict[str, Any]:
    """Dotted name -> value; a table's "name" stands for the table, as in [set.network]."""
    require(isinstance(tree, dict), before or "set", tree, "a table of fields")
    found: dict[str, Any] = {}
    for key, value in tree.items():
        name = before if key == "name" and before else f"{before}.{key}" if before else key
        found |= _flat(value, name) if isinstance(value, dict) else {name: value}
    return found


def _assignment(given: str) -> tuple[str, Any]:
    """Name and value of FIELD=VALUE; the value is TOML's, or else a string."""
    name, equals, text = given.partition("=")
    require(bool(name.strip() and equals), "set", given, "FIELD=VALUE, e.g. optimizer.kind=adam")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text.strip()
    return name.strip(), value


def _put(tree: Any, name: str, value: Any) -> None:
    """Sets a field by its dotted name."""
    at, keys = tree, name.split(".")
    for depth, key in enumerate(keys):
        where = ".".join(keys[:depth]) or "recipe"
        if isinstance(at, dict):
            if "accum" in key:
                raise InvalidInput(f"{name} = {value!r}: {_ACCUMULATION}")
            known = [field for field in at if field not in _NOT_SET]
            require(key in known, f"{where} field", key, "one of " + ", ".join(known))
        elif isinstance(at, list | tuple) and at and isinstance(at[0], dict):
            groups = len(at)
            require(key.isdecimal() and int(key) < groups, f"{where} field", key, f"a position in 0..{groups - 1}")
        else:
            raise InvalidInput(f"{name} = {value!r}: {where} has no fields")
        step: Any = int(key) if isinstance(at, list | tuple) else key
        if depth == len(keys) - 1:
            at[step] = value
        else:
            at = at[step]


def _fitted(hint: Any, value: Any, where: str) -> Any:
    """The value as the type asks for it: tables become dataclasses, lists tuples, whole numbers floats."""
    if dataclasses.is_dataclass(hint):
        return _dataclass(hint, value, where)
    origin, inner = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        return None if value is None else _fitted(next(kind for kind in inner if kind is not type(None)), value, where)
    if origin is Literal:
        require(value in inner, where, value, "one of " + ", ".join(map(str, inner)))
        return value
    if origin is tuple:
        require(isinstance(value, list | tuple), where, value, "a list, e.g. [0.2, 1.0]")
        kinds = [inner[0]] * len(value) if inner[-1] is Ellipsis else list(inner)
        require(len(value) == len(kinds), where, value, f"a list of {len(kinds)}")
        pairs = enumerate(zip(kinds, value, strict=True))
        return tuple(_fitted(kind, item, f"{where}.{i}") for i, (kind, item) in pairs)
    if hint is float:
        require(isinstance(value, int | float) and not isinstance(value, bool), where, value, "a number")
        require(math.isfinite(value), where, value, "finite")
        return float(value)
    simple = {int: "a whole number", str: "a text", bool: "true or false"}
    fits = isinstance(value, hint) and (hint is bool or not isinstance(value, bool))
    require(fits, where, value, simple[hint])
    return value


def _dataclass(kind: Any, value: Any, where: str) -> Any:
    require(isinstance(value, dict), where, value, "a table of fields")
    hints = get_type_hints(kind)
    unknown = sorted(set(value) - set(hints))
    require(not unknown, f"{where} fields", unknown, "among " + ", ".join(hints))
    missing = [item.name for item in dataclasses.fields(kind) if item.name not in value]
    require(not missing, f"{where} missing fields", missing, "present")
    return kind(**{name: _fitted(hints[name], item, f"{where}.{name}".lstrip(".")) for name, item in value.items()})
