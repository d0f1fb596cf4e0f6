"""Records to rows: what may be compared with what, each figure with its spread, and who leads where.

A row is one implementation in one mode at one setting, over all its seeds and repeats. Rows of different settings,
machines or devices are never compared, and a row with a failed run is shown but never ranked.
"""

from __future__ import annotations

import json
import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from swav_bench.records import Record, machine
from swav_spec.config import PRECISIONS

#: Order of appearance, in tables, legends and filters; others follow by name.
KNOWN = ("torch", "jax", "tensorflow", "plain-torch", "lightly", "numpy")
#: Order of an implementation's modes: as it comes, then as it is compiled further; others follow by name.
KNOWN_MODES = ("default", "eager", "jit", "graph", "compile", "cudagraph", "xla")
#: Metrics of memory: of a table or sentence with room for one, the first that was measured.
MEMORY = ("allocator_memory", "nvml_memory", "process_memory")
#: A difference between seeds is named only where a split this clean happens by luck at most this often.
LUCK = 0.05
GIB, MIB = 2**30, 2**20


@dataclass(frozen=True, order=True)
class Setting:
    """What was asked of every implementation alike; only rows of equal settings are compared.

    Attributes:
        machine: name of the processor that computed: the GPU, or the CPU and how many threads it offers.
        crops: such as "2×224 + 6×96".
        queue_rows: rows of the queue, 0 for none.
        lr: base learning rate, -1 for the recipe's own.
        network: empty for the recipe's own.
        Others: as in a record's cell.
    """

    task: str
    suite: str
    device: str
    machine: str
    dataset: str
    recipe: str
    precision: str
    multi_crop: bool
    crops: str
    queue_rows: int
    batch: int
    steps: int
    lr: float
    input: str
    network: str

    @property
    def queue(self) -> str:
        """Such as "queue 256"; "queue" where a facet joins several lengths."""
        return "no queue" if self.queue_rows == 0 else "queue" if self.queue_rows < 0 else f"queue {self.queue_rows}"

    @property
    def facet(self) -> Setting:
        """The setting without its batch and what goes with it (steps, the queue's length): one panel of a plot."""
        return _replace(self, batch=0, steps=0, queue_rows=-1 if self.queue_rows else 0)

    @property
    def context(self) -> Setting:
        """The setting without batch, crops and queue: what a sentence about "fastest" is limited to."""
        return _replace(self, batch=0, steps=0, multi_crop=False, crops="", queue_rows=0)


@dataclass(frozen=True)
class Contestant:
    """An implementation in one mode, in one environment (a letter, where it was measured in several)."""

    implementation: str
    mode: str
    environment: str = ""

    @property
    def order(self) -> tuple[Any, ...]:
        known = KNOWN.index(self.implementation) if self.implementation in KNOWN else len(KNOWN)
        mode = KNOWN_MODES.index(self.mode) if self.mode in KNOWN_MODES else len(KNOWN_MODES)
        return known, self.implementation, mode, self.mode, self.environment


@dataclass(frozen=True)
class Estimate:
    """A figure with its spread; `low` and `high` are None where one run gives none."""

    value: float
    low: float | None = None
    high: float | None = None
    runs: int = 1


@dataclass(frozen=True)
class Metric:
    """A figure of a row and how it is shown.

    Attributes:
        path: where a record has it.
        better: which direction wins; None where neither does.
        learned: whether it is about learning: mean and range over seeds, shown for collapsed runs too.
        references: (name, path) of what it is to be seen beside.
        scale: unit shown over unit recorded.
    """

    key: str
    title: str
    unit: str
    path: tuple[str, str]
    better: Literal["higher", "lower"] | None
    learned: bool = False
    references: tuple[tuple[str, tuple[str, str]], ...] = ()
    scale: float = 1.0
    note: str = ""
    digits: int = 3

    def show(self, value: float) -> str:
        """The value in the metric's unit, with sensible digits."""
        scaled = value * self.scale
        return f"{scaled:.1f}" if self.unit == "%" else significant(scaled, self.digits)


def _accuracy(key: str, title: str, note: str) -> Metric:
    references = (
        ("raw pixels", ("accuracy", f"raw_{key}_top1")),
        ("random weights", ("accuracy", f"random_{key}_top1")),
        ("chance", ("accuracy", "chance")),
    )
    path = ("accuracy", f"{key}_top1")
    return Metric(key, title, "%", path, "higher", learned=True, references=references, scale=100.0, note=note)


METRICS = (
    Metric(
        "samples_per_s",
        "Throughput",
        "samples/s",
        ("timing", "samples_per_s"),
        "higher",
        note="Images per second in the steady state: median of the timed blocks, with its bootstrap 95 % interval.",
        digits=4,
    ),
    Metric(
        "first_step",
        "Time to first step",
        "s",
        ("timing", "time_to_first_step_s"),
        "lower",
        note="From building the trainer to the end of the first step: tracing, compiling, autotuning.",
    ),
    Metric(
        "allocator_memory",
        "Peak GPU memory",
        "GiB",
        ("memory", "allocator_peak_bytes"),
        "lower",
        scale=1 / GIB,
        note="Peak of the framework's own allocator.",
    ),
    Metric(
        "nvml_memory",
        "GPU memory of the process",
        "GiB",
        ("memory", "nvml_process_bytes"),
        "lower",
        scale=1 / GIB,
        note="As NVML counts it: allocator, CUDA context and libraries.",
    ),
    Metric(
        "process_memory",
        "Peak main memory",
        "MiB",
        ("memory", "process_peak_bytes"),
        "lower",
        scale=1 / MIB,
        note="Peak resident memory of the whole process when training ended, the framework's libraries included.",
    ),
    Metric(
        "energy",
        "Energy",
        "J/sample",
        ("energy", "joules_per_sample"),
        "lower",
        note="Of the whole GPU over the timed blocks, by NVML.",
    ),
    Metric(
        "overhead",
        "Overhead over the encoder",
        "%",
        ("overhead", "overhead_share"),
        "lower",
        scale=100.0,
        note=(
            "What the whole step takes beyond forward and backward of its bare encoder at the same shapes, in the same "
            "process: crops, assignment, loss, queue and optimiser."
        ),
    ),
    Metric(
        "share_of_peak",
        "Share of the chip's peak",
        "%",
        ("work", "share_of_peak"),
        "higher",
        scale=100.0,
        note="Model FLOP/s (network only, by its shapes) over the chip's dense peak in this precision.",
    ),
    _accuracy("knn", "kNN top-1", "Images classified right by their nearest training embeddings."),
    _accuracy("linear", "Linear top-1", "Images classified right by a linear classifier on frozen features."),
    Metric(
        "input_wait",
        "Waiting for input",
        "%",
        ("timing", "input_wait_share"),
        "lower",
        scale=100.0,
        note="Share of the timed steps that the loop waited for images: the most that the device can have waited.",
    ),
    Metric(
        "loss",
        "Final loss",
        "nats",
        ("learning", "final_loss"),
        None,
        learned=True,
        references=(("ln K", ("learning", "ln_k")),),
        note="Swapped-prediction loss at the end of training. A network that has collapsed stays at ln K.",
    ),
)
METRIC = {metric.key: metric for metric in METRICS}
LARGEST_BATCH = Metric(
    "largest_batch",
    "Largest batch that fits",
    "images per step",
    ("largest_batch", "batch"),
    "higher",
    note=(
        "By bisection, each try in a process of its own. In small: the smallest that was seen not to fit, and the "
        "throughput with the largest."
    ),
)
#: Spread within one run: metric -> fields of its interval, in the metric's group.
INTERVALS = {
    "samples_per_s": ("samples_per_s_low", "samples_per_s_high"),
    "overhead": ("overhead_share_low", "overhead_share_high"),
}


@dataclass(frozen=True)
class Row:
    """One contestant at one setting: its records (index into the study's, and the record)."""

    setting: Setting
    contestant: Contestant
    records: tuple[tuple[int, Record], ...]

    @property
    def failures(self) -> list[str]:
        """Statuses of the runs that did not end well."""
        return [record["status"] for _, record in self.records if record["status"] != "ok"]

    @property
    def status(self) -> str:
        """What became of it: "ok" where some run was, else what happened to the first that was started."""
        if len(self.failures) < len(self.records):
            return "ok"
        return next((status for status in self.failures if status != "not_run"), "not_run")

    @property
    def ranked(self) -> bool:
        """Whether it takes part in comparisons: every run that was started ended well."""
        return self.status == "ok" and all(status == "not_run" for status in self.failures)

    def estimate(self, metric: Metric) -> Estimate | None:
        """The metric over the row's runs, None where nothing measured it."""
        counted = ("ok", "collapsed") if metric.learned else ("ok",)
        records = [record for _, record in self.records if record["status"] in counted]
        values = [value for record in records if (value := pick(record, metric.path)) is not None]
        if not values or (metric.key == "input_wait" and self.setting.input != "stream"):
            return None
        if metric.key in INTERVALS:
            low, high = INTERVALS[metric.key]
            measured = [record[metric.path[0]] for record in records if record[metric.path[0]]]
            lows, highs = [group[low] for group in measured], [group[high] for group in measured]
            return Estimate(statistics.median(values), min(lows), max(highs), len(values))
        centre = statistics.fmean(values) if metric.learned else statistics.median(values)
        if len(values) == 1:
            return Estimate(centre)
        return Estimate(centre, min(values), max(values), len(values))


@dataclass(frozen=True)
class Study:
    """All records of a report, put into rows.

    Attributes:
        rows: of runs of SwAV, by setting, then contestant.
        asides: of other tasks (kernels, largest batches), which no setting's figures are compared with.
        environments: letter -> field -> value, for each environment that measured something.
        letters: for each record the letter of its environment, "" where the child did not get to say.
    """

    records: tuple[Record, ...]
    rows: tuple[Row, ...]
    asides: tuple[Row, ...]
    environments: dict[str, dict[str, str]]
    letters: tuple[str, ...]

    @cached_property
    def settings(self) -> list[Setting]:
        return list(dict.fromkeys(row.setting for row in self.rows))

    @cached_property
    def contestants(self) -> list[Contestant]:
        return sorted({row.contestant for row in (*self.rows, *self.asides)}, key=lambda contestant: contestant.order)

    @cached_property
    def implementations(self) -> list[str]:
        return list(dict.fromkeys(contestant.implementation for contestant in self.contestants))

    @cached_property
    def metrics(self) -> list[Metric]:
        """Those that some row has."""
        return [metric for metric in METRICS if any(row.estimate(metric) for row in self.rows)]

    @cached_property
    def by_precision(self) -> dict[tuple[Setting, Contestant], dict[str, dict[int, Record]]]:
        """(setting in float32, contestant) -> precision -> seed -> run, of seeds trained in float32 and in another."""
        runs: dict[tuple[Setting, Contestant], dict[str, dict[int, Record]]] = {}
        for row in self.rows:
            key = (_replace(row.setting, precision="float32"), row.contestant)
            for _, record in row.records:
                learning = record["learning"]
                if not learning or learning["final_loss"] is None:
                    continue
                if any(loss is not None for _, loss in learning["loss_curve"]):
                    of_seed = runs.setdefault(key, {}).setdefault(row.setting.precision, {})
                    of_seed.setdefault(record["cell"]["seed"], record)
        found = {}
        for key, by_precision in runs.items():
            wide = by_precision.pop("float32", {})
            others: dict[str, dict[int, Record]] = {}
            for precision in PRECISIONS:
                of_seed = {seed: record for seed, record in by_precision.get(precision, {}).items() if seed in wide}
                if of_seed:
                    others[precision] = of_seed
            shared = sorted({seed for of_seed in others.values() for seed in of_seed})
            if shared:
                found[key] = {"float32": {seed: wide[seed] for seed in shared}, **others}
        return found

    def at(self, setting: Setting) -> list[Row]:
        return [row for row in self.rows if row.setting == setting]

    def row(self, setting: Setting, contestant: Contestant) -> Row | None:
        return next((row for row in self.at(setting) if row.contestant == contestant), None)

    def label(self, contestant: Contestant) -> str:
        """The implementation, with its mode and environment where there are several of them."""
        alike = [other for other in self.contestants if other.implementation == contestant.implementation]
        label = contestant.implementation
        if len({other.mode for other in alike}) > 1:
            label += f" {contestant.mode}"
        if len({other.environment for other in alike}) > 1:
            label += f" [{contestant.environment or '?'}]"
        return label

    def setting_label(self, setting: Setting) -> str:
        """What tells this setting from the others of the study; parts that are unset (a facet's batch) are left out."""
        parts = [setting.crops, setting.queue] if setting.crops else []
        if setting.batch:
            parts.append(f"batch {setting.batch}")
        named = ("network", "precision", "recipe", "dataset", "input", "suite", "device", "machine")
        every = {row.setting for row in (*self.rows, *self.asides)}
        present = [other for other in every if other.task == setting.task]
        varied = [name for name in named if len({getattr(other, name) for other in present}) > 1]
        shown = {"device": setting.device.upper(), "network": setting.network or "the recipe's network"}
        shown |= {"input": f"{setting.input} input"}
        parts += [shown.get(name, getattr(setting, name)) for name in varied]
        if len({other.lr for other in self.settings}) > 1:
            parts.append("the recipe's lr" if setting.lr < 0 else f"lr {setting.lr:g}")
        if len({other.steps for other in self.settings if _replace(other, steps=0) == _replace(setting, steps=0)}) > 1:
            parts.append(f"{setting.steps} steps")
        return ", ".join(filter(None, parts))

    def reference(self, setting: Setting, path: tuple[str, str]) -> float | None:
        """Mean of a reference (raw pixels, ln K ...) over the records of a setting."""
        values = [pick(record, path) for row in self.at(setting) for _, record in row.records]
        numbers = [value for value in values if value is not None]
        return statistics.fmean(numbers) if numbers else None

    def ranking(self, setting: Setting, metric: Metric) -> list[tuple[Row, Estimate]]:
        """Rows that may be ranked at a setting, best first."""
        found = [(row, row.estimate(metric)) for row in self.at(setting) if row.ranked]
        present = [(row, estimate) for row, estimate in found if estimate is not None]
        return sorted(present, key=lambda pair: pair[1].value, reverse=metric.better == "higher")

    def leader(self, setting: Setting, metric: Metric) -> tuple[Row, Row] | None:
        """(first, second) where the first is better than every other beyond the spread, else None."""
        ranking = self.ranking(setting, metric)
        if len(ranking) < 2 or metric.better is None:
            return None
        (first, best), *others = ranking
        apart = all(separated(best, other, metric) for _, other in others)
        return (first, others[0][0]) if apart else None


def study(records: Iterable[Record]) -> Study:
    """The records in rows, by setting and contestant."""
    found = tuple(records)
    letters, environments = _environments(found)
    modes = _modes(found)
    machines = {machine(record) for record in found if record["environment"]["implementation"]}
    crops = _crops(found)
    several: dict[tuple[str, str], set[str]] = {}
    for record, letter in zip(found, letters, strict=True):
        several.setdefault((record["cell"]["implementation"], _mode(record, modes)), set()).update(letter)
    rows: dict[tuple[Setting, Contestant], list[tuple[int, Record]]] = {}
    for index, record in enumerate(found):
        cell = record["cell"]
        name, mode = cell["implementation"], _mode(record, modes)
        environment = letters[index] if len(several.get((name, mode), ())) > 1 else ""
        # A child that never said what it ran on was started on the one machine there is, if there is but one.
        known = record["environment"]["implementation"] or len(machines) != 1
        setting = Setting(
            task=cell["task"],
            suite=cell["suite"],
            device=cell["device"],
            machine=machine(record) if known else next(iter(machines)),
            dataset=cell["dataset"],
            recipe=cell["recipe"],
            precision=cell["precision"],
            multi_crop=cell["multi_crop"],
            crops=crops[_cropping(record)] if record["config"] is None else crops_label(record),
            queue_rows=cell["queue_rows"],
            batch=cell["batch"],
            steps=cell["steps"],
            lr=-1.0 if cell["lr"] is None else cell["lr"],
            input=cell["input"],
            network=cell["network"] or "",
        )
        rows.setdefault((setting, Contestant(name, mode, environment)), []).append((index, record))
    # What was planned first is the most telling.
    contexts = list(dict.fromkeys(setting.context for setting, _ in rows))
    ordered = sorted(rows.items(), key=lambda item: (contexts.index(item[0][0].context), item[0][0], item[0][1].order))
    every = [Row(*key, tuple(runs)) for key, runs in ordered]
    trained = tuple(row for row in every if row.setting.task == "train")
    asides = tuple(row for row in every if row.setting.task != "train")
    return Study(found, trained, asides, environments, letters)


def separated(one: Estimate, other: Estimate, metric: Metric) -> bool:
    """Whether two figures differ beyond their spread.

    Throughput and overhead: the 95 % intervals do not overlap. Everything else: the ranges over runs do not overlap,
    and that clean a split has a chance of at most 5 % among equals (four runs each will do, three will not).
    """
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return False
    apart = one.low > other.high or other.low > one.high
    if metric.key in INTERVALS:
        return apart
    return apart and 2 / math.comb(one.runs + other.runs, one.runs) <= LUCK


def pick(record: Record, path: tuple[str, str]) -> float | None:
    """record[group][key], None where the group was not measured."""
    group, key = path
    value = (record[group] or {}).get(key)
    return None if value is None else float(value)


def significant(value: float, digits: int) -> str:
    """The value rounded to so many significant digits, thousands separated, no exponent."""
    if value == 0 or not math.isfinite(value):
        return "0" if value == 0 else str(value)
    decimals = digits - 1 - math.floor(math.log10(abs(value)))
    rounded = round(value, decimals)
    # Rounding can carry: 9.996 to three digits is 10.0.
    decimals = digits - 1 - math.floor(math.log10(abs(rounded)))
    return f"{rounded:,.{max(decimals, 0)}f}"


def spread(estimate: Estimate, metric: Metric) -> str:
    """Low to high in the metric's unit, empty where there is no spread or it does not show in these digits."""
    if estimate.low is None or estimate.high is None:
        return ""
    low, high = metric.show(estimate.low), metric.show(estimate.high)
    return f"{low}–{high}" if low != high else ""


def crops_label(record: Record) -> str:
    """Such as "2×224 + 6×96", from the record's config."""
    return " + ".join(f"{group['count']}×{group['size']}" for group in record["config"]["crops"])


def _crops(records: Sequence[Record]) -> dict[tuple[str, str | None, bool], str]:
    """What decides the crops -> label, for records that ended before their config was known."""
    labels = {_cropping(record): "multi-crop" if record["cell"]["multi_crop"] else "two crops" for record in records}
    for record in records:
        if record["config"] is not None:
            labels[_cropping(record)] = crops_label(record)
    return labels


def _cropping(record: Record) -> tuple[str, str | None, bool]:
    cell = record["cell"]
    return cell["recipe"], cell["crops"], cell["multi_crop"]


def _modes(records: Sequence[Record]) -> dict[str, str]:
    """Implementation -> what its mode "default" turned out to be."""
    return {
        record["cell"]["implementation"]: record["environment"]["implementation"]["mode"]
        for record in records
        if record["cell"]["mode"] == "default" and (record["environment"]["implementation"] or {}).get("mode")
    }


def _mode(record: Record, defaults: dict[str, str]) -> str:
    cell = record["cell"]
    return defaults.get(cell["implementation"], "default") if cell["mode"] == "default" else cell["mode"]


def _environments(records: Sequence[Record]) -> tuple[tuple[str, ...], dict[str, dict[str, str]]]:
    """The letter of each record's environment, and the environments by letter."""
    found: dict[str, str] = {}
    environments: dict[str, dict[str, str]] = {}
    letters = []
    for record in records:
        if not record["environment"]["implementation"]:
            letters.append("")
            continue
        fields = environment_fields(record["environment"])
        key = json.dumps(fields, sort_keys=True)
        if key not in found:
            found[key] = _letter(len(found))
            environments[found[key]] = fields
        letters.append(found[key])
    return tuple(letters), environments


def _letter(number: int) -> str:
    """A, B ... Z, AA, AB ..."""
    return (_letter(number // 26 - 1) if number >= 26 else "") + chr(ord("A") + number % 26)


def environment_fields(environment: dict[str, Any]) -> dict[str, str]:
    """Field -> value of an environment, for people; without what is the implementation's own."""
    memory = environment["memory_bytes"]
    fields = {
        "operating system": environment["os"],
        "architecture": environment["architecture"],
        "CPU": environment["cpu"],
        "CPU threads offered": str(environment["cpu_count"]),
        "main memory": f"{significant(memory / GIB, 3)} GiB" if memory else "unknown",
    }
    for number, gpu in enumerate(environment["gpus"]):
        limit = "" if gpu["power_limit_w"] is None else f", limit {significant(gpu['power_limit_w'], 3)} W"
        fields[f"GPU {number}"] = f"{gpu['name']}, {significant(gpu['memory_bytes'] / GIB, 3)} GiB{limit}"
        fields[f"GPU {number} driver"] = gpu["driver"]
    fields["Python"] = environment["python"]
    fields["compile caches"] = environment["compile_cache"]
    fields |= {f"{name} (package)": version for name, version in sorted(environment["packages"].items())}
    return fields | {f"{name} (variable)": value for name, value in sorted(environment["variables"].items())}


def _replace(setting: Setting, **changes: Any) -> Setting:
    return Setting(**{**setting.__dict__, **changes})


def common(values: Iterable[Any], show: Callable[[Any], str] = str) -> str | None:
    """The one value that all share, shown; None where they differ or there is none."""
    distinct = {show(value) for value in values if value is not None}
    return distinct.pop() if len(distinct) == 1 else None
