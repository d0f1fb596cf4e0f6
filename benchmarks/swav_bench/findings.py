"""The answer in sentences, each made from the records: what was compared, who leads and by how much, what failed."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from swav_bench.tables import (
    MEMORY,
    METRIC,
    Contestant,
    Estimate,
    Metric,
    Row,
    Setting,
    Study,
    significant,
)

#: What a status other than ok means, as a past participle of "cell".
OUTCOMES = {
    "oom": "ran out of memory",
    "timeout": "hit the time limit",
    "wrong": "failed the parity gate",
    "collapsed": "collapsed",
    "error": "failed",
    "not_run": "not run",
}

#: Data sets on which there is nothing to be learnt.
NOISE = ("noise", "noise-32")
#: Of more devices, data sets and precisions together than this, the answer is summed up by device.
MOST_CONTEXTS = 2
#: CPU seconds per second that a cell on a CPU has if nothing else wants the machine, with room for accounting.
LEAST_CORES = 0.9


def scope(study: Study) -> str:
    """What was compared, on what."""
    settings = study.settings or list(dict.fromkeys(row.setting for row in study.asides))
    if not settings:
        return "Nothing was planned."
    axes = [
        _counted("data set", [setting.dataset for setting in settings]),
        _counted("recipe", [setting.recipe for setting in settings]),
        _counted("batch", [str(setting.batch) for setting in settings], plural="batches"),
        _counted("crops", [setting.crops for setting in settings], plural="crops"),
        listing(dict.fromkeys(setting.queue for setting in settings)),
        listing(dict.fromkeys(setting.precision for setting in settings)),
    ]
    names = listing(describe(study, contestant) for contestant in study.contestants)
    machines = listing(dict.fromkeys(f"{_kind(setting.device)} {setting.machine}" for setting in settings))
    return f"{names} on {machines}; {'; '.join(axes)}."


def outcome(study: Study) -> str:
    """How many cells ended well, and what became of the others."""
    counts = Counter(record["status"] for record in study.records)
    total = len(study.records)
    if not total:
        return "There are no records yet."
    others = [f"{counts[status]} {phrase}" for status, phrase in OUTCOMES.items() if counts[status]]
    if not others:
        return "The one cell ended well." if total == 1 else f"All {total} cells ended well."
    return f"{counts['ok']} of {total} cells ended well; {listing(others)}. Those are shown and listed, never ranked."


def headline(study: Study) -> list[str]:
    """The answer: who is fastest, what was learned, what failed."""
    sentences = []
    for where, settings in _answered(study):
        sentences += _speed(study, settings, where) + _learned(study, settings)
    if len({(setting.device, setting.machine) for setting in study.settings}) > 1:
        sentences.append("Different devices are never ranked against each other.")
    return [_unbroken(sentence) for sentence in [*sentences, outcome(study), *_crowded(study)]]


def details(study: Study) -> list[tuple[str, list[str]]]:
    """What else the data bear out: (where, sentences) for each device, data set and precision."""
    contexts = _contexts(study)
    summed_up = len(contexts) > MOST_CONTEXTS
    found = [
        (
            where,
            (_speed(study, settings, where) if summed_up else [])
            + _ranges(study, settings)
            + _cost_of(study, settings)
            + _learning(study, settings),
        )
        for where, settings in contexts
    ]
    found.append(("Precision", _precisions(study)))
    return [(where, [_unbroken(sentence) for sentence in sentences]) for where, sentences in found if sentences]


def describe(study: Study, contestant: Contestant) -> str:
    """The contestant with its framework's version and its mode."""
    records = [record for row in study.rows if row.contestant == contestant for _, record in row.records]
    described = [record["environment"]["implementation"] or {} for record in records]
    versions = dict.fromkeys(
        f"{found['framework']} {found['version']}"
        for found in described
        if found.get("framework") and found.get("version")
    )
    version = "/".join(versions)
    name = contestant.implementation
    text = version if version.startswith(name + " ") else f"{name} ({version})" if version else name
    return f"{text} {contestant.mode}" if contestant.mode != "default" else text


def listing(items: Iterable[str]) -> str:
    """The items in words: "a", "a and b", "a, b and c"."""
    *head, last = [*items] or [""]
    return f"{', '.join(head)} and {last}" if head else last


def _contexts(study: Study) -> list[tuple[str, list[Setting]]]:
    """(name, settings) for each sentence to be: settings that differ in batch, crops and queue only."""
    contexts: dict[Setting, list[Setting]] = {}
    for setting in study.settings:
        contexts.setdefault(setting.context, []).append(setting)
    return [(study.setting_label(context) or context.machine, settings) for context, settings in contexts.items()]


def _answered(study: Study) -> list[tuple[str, list[Setting]]]:
    """(name, settings) for each sentence of the answer: contexts, or all of a device where there are many."""
    contexts = _contexts(study)
    if len(contexts) <= MOST_CONTEXTS:
        return contexts
    machines: dict[str, list[Setting]] = {}
    for setting in study.settings:
        machines.setdefault(setting.machine, []).append(setting)
    return list(machines.items())


def _speed(study: Study, settings: Sequence[Setting], where: str) -> list[str]:
    """Who is fastest at how many settings, and by how much over the next."""
    metric = METRIC["samples_per_s"]
    contested = [setting for setting in settings if len(study.ranking(setting, metric)) > 1]
    if not contested:
        return []
    factors: dict[Contestant, list[float]] = {}
    for setting in contested:
        if leader := study.leader(setting, metric):
            first, second = (_value(row, metric) for row in leader)
            factors.setdefault(leader[0].contestant, []).append(first / second)
    total = len(contested)
    parts: list[str] = []
    for contestant, ahead in sorted(factors.items(), key=lambda item: (-len(item[1]), item[0].order)):
        times = f"{_range(ahead, '{:.2f}')} times the next"
        of = f" of {total} {_settings(total)}" if not parts else ""
        times_at = f" in {len(ahead)}{of}" if total > 1 else ""
        parts.append(f"{study.label(contestant)}{times_at} ({times})")
    open_ = total - sum(len(ahead) for ahead in factors.values())
    text = f"Fastest on {where}: {listing(parts)}." if parts else f"On {where} no implementation is named fastest."
    if open_:
        which = f"In {open_} of {total} {_settings(total)}" if parts else "In every setting"
        text += f" {which} the 95 % intervals of the first ones overlap, so none is named."
    if settings[0].device == "cpu":
        text += " That is what this CPU did, and no claim about a framework."
    return [text]


def _crowded(study: Study) -> list[str]:
    """Whether cells on a CPU shared it with something else: every implementation keeps at least one core busy."""
    cells = [record for record in study.records if record["cell"]["device"] == "cpu" and record["timing"]]
    starved = [record for record in cells if record["timing"]["cores_busy"] < LEAST_CORES]
    if not starved:
        return []
    counted = f"In {len(starved)} of {len(cells)} timed cells the process had less than {LEAST_CORES} of a core"
    return [f"{counted}: something else ran on the machine, and their figures are slower than the machine is."]


def _learned(study: Study, settings: Sequence[Setting]) -> list[str]:
    """The range of kNN accuracy over all rows, beside what needs no learning."""
    metric = METRIC["knn"]
    sentences = []
    for dataset in dict.fromkeys(setting.dataset for setting in settings):
        within = [setting for setting in settings if setting.dataset == dataset]
        values = [e.value for estimates in _by_contestant(study, within, metric).values() for e in estimates]
        if values:
            accuracies = _range([100 * value for value in values], "{:.1f}")
            sentences.append(f"{metric.title} on {dataset} is {accuracies} %, beside {_beside(study, within, metric)}.")
    return sentences


def _beside(study: Study, settings: Sequence[Setting], metric: Metric) -> str:
    """What needs no learning, over the settings: raw pixels, random weights and chance."""
    return listing(
        f"{name} {_range([100 * value for value in values], '{:.1f}')} %"
        for name, path in metric.references
        if (values := [v for s in settings if (v := study.reference(s, path)) is not None])
    )


def _ranges(study: Study, settings: Sequence[Setting]) -> list[str]:
    """Time to first step, memory and energy, lowest to highest over the settings."""
    sentences = []
    memory = next((key for key in MEMORY if _by_contestant(study, settings, METRIC[key])), None)
    for key, lead in (
        ("overhead", "Over its bare encoder, SwAV's whole step takes"),
        ("first_step", "The first step takes"),
        (memory, "Peak memory is"),
        ("energy", "Energy is"),
        ("input_wait", "Of the timed steps, waiting for input takes at most"),
    ):
        if key is None:
            continue
        metric = METRIC[key]
        digits = 2 if key in ("first_step", "overhead", "input_wait") else 3
        parts = [
            f"{_range([estimate.value * metric.scale for estimate in estimates], None, digits)} {metric.unit} "
            f"({study.label(contestant)})"
            for contestant, estimates in _by_contestant(study, settings, metric).items()
        ]
        if parts:
            sentences.append(f"{lead} {listing(parts)}.")
    return sentences


def _cost_of(study: Study, settings: Sequence[Setting]) -> list[str]:
    """Throughput with multi-crop over without, and with the queue over without, all else equal."""
    sentences = []
    for name, axis in (("multi-crop", "multi_crop"), ("the queue", "queue_rows")):
        shares: dict[Contestant, list[float]] = {}
        within: Counter[Contestant] = Counter()
        work: list[float] = []
        for on in settings:
            off = next((other for other in settings if _only_differs(on, other, axis)), None)
            if off is None or not getattr(on, axis):
                continue
            for row in study.at(on):
                base = study.row(off, row.contestant)
                share = _share(row, base) if base else None
                if share is None:
                    continue
                if axis == "multi_crop" and base:
                    work.append(_arithmetic(base) / _arithmetic(row))
                if share[1]:
                    shares.setdefault(row.contestant, []).append(share[0])
                else:
                    within[row.contestant] += 1
        parts = [f"{_range([100 * s for s in ahead], '{:.0f}')} % ({study.label(c)})" for c, ahead in shares.items()]
        if parts:
            expected = f"; by its arithmetic it would be {_range([100 * s for s in work], '{:.0f}')} %" if work else ""
            sentences.append(f"With {name}, samples/s come to {listing(parts)} of what they are without{expected}.")
        if unclear := sum(within.values()):
            pairs = "pair" if unclear == 1 else "pairs"
            sentences.append(f"In {unclear} {pairs} of cells what {name} costs is within the 95 % intervals.")
    return sentences


def _learning(study: Study, settings: Sequence[Setting]) -> list[str]:
    """Accuracy beside raw pixels and random weights, loss beside ln K, and differences beyond the seeds' spread."""
    sentences = []
    for key in ("knn", "linear"):
        metric = METRIC[key]
        ranges = _by_contestant(study, settings, metric)
        if not ranges:
            continue
        parts = [
            f"{_range([100 * estimate.value for estimate in estimates], '{:.1f}')} % ({study.label(contestant)})"
            for contestant, estimates in ranges.items()
        ]
        sentences.append(f"{metric.title} is {listing(parts)}, beside {_beside(study, settings, metric)}.")
    sentences += _differences(study, settings)
    ends = [
        (estimate.value, limit)
        for setting in settings
        if setting.dataset not in NOISE and (limit := study.reference(setting, ("learning", "ln_k"))) is not None
        for row in study.at(setting)
        if row.ranked and (estimate := row.estimate(METRIC["loss"]))
    ]
    if ends:
        losses, limits = zip(*ends, strict=True)
        text = f"The final loss is {_range(losses, '{:.2f}')}; a collapsed network stays at ln K"
        sentences.append(f"{text} = {_range(limits, '{:.2f}')}.")
        if high := sum(loss >= limit for loss, limit in ends):
            sentences.append(f"In {high} of {len(ends)} rows the final loss is not below ln K: train longer.")
    return sentences


def _differences(study: Study, settings: Sequence[Setting]) -> list[str]:
    """Where one implementation learns better than all others beyond the spread over seeds, or that none does."""
    sentences = []
    most = 0
    for metric in (METRIC["knn"], METRIC["linear"]):
        contested = [setting for setting in settings if len(study.ranking(setting, metric)) > 1]
        most = max([most, *(e.runs for setting in contested for _, e in study.ranking(setting, metric))])
        named = [
            f"{study.label(leader[0].contestant)} ({study.setting_label(setting)})"
            for setting in contested
            if (leader := study.leader(setting, metric))
        ]
        if named:
            sentences.append(f"{metric.title} is highest, beyond the spread over seeds, for {listing(named)}.")
    if most == 1:
        return ["With one seed in each cell, no difference in accuracy between implementations is claimed."]
    if most and not sentences:
        return ["No difference in accuracy between implementations goes beyond the spread over seeds."]
    return sentences


def _precisions(study: Study) -> list[str]:
    """How far the final loss of a run in another precision is from the same run's in float32, at most."""
    gaps: dict[str, dict[Contestant, float]] = {}
    for (_, contestant), runs in study.by_precision.items():
        for precision, of_seed in runs.items():
            for seed, record in of_seed.items():
                if precision != "float32":
                    wide = runs["float32"][seed]["learning"]["final_loss"]
                    gap = abs(record["learning"]["final_loss"] - wide)
                    known = gaps.setdefault(precision, {})
                    known[contestant] = max(gap, known.get(contestant, 0.0))
    return [
        f"The final loss in {precision} is within "
        + listing(f"{significant(gap, 2)} ({study.label(contestant)})" for contestant, gap in of_contestant.items())
        + " nats of the same run's in float32."
        for precision, of_contestant in gaps.items()
    ]


def _by_contestant(study: Study, settings: Sequence[Setting], metric: Metric) -> dict[Contestant, list[Estimate]]:
    found: dict[Contestant, list[Estimate]] = {}
    for contestant in study.contestants:
        rows = [row for setting in settings if (row := study.row(setting, contestant)) and row.ranked]
        estimates = [estimate for row in rows if (estimate := row.estimate(metric))]
        if estimates:
            found[contestant] = estimates
    return found


def _only_differs(on: Setting, off: Setting, axis: str) -> bool:
    """Whether `off` is `on` with the axis switched off (crops go with multi_crop; steps may differ)."""
    ignored = {axis, "steps"} | ({"crops"} if axis == "multi_crop" else set())
    if getattr(off, axis):
        return False
    return all(value == off.__dict__[name] for name, value in on.__dict__.items() if name not in ignored)


def _share(row: Row, base: Row) -> tuple[float, bool] | None:
    """Throughput of a row over that of another, and whether their intervals are apart."""
    metric = METRIC["samples_per_s"]
    one, other = row.estimate(metric), base.estimate(metric)
    if one is None or other is None or not (row.ranked and base.ranked):
        return None
    if one.low is None or one.high is None or other.low is None or other.high is None:
        return None
    return one.value / other.value, one.low > other.high or one.high < other.low


def _arithmetic(row: Row) -> float:
    """Floating-point operations of the model for an image; of every run of a row the same."""
    record = next(record for _, record in row.records if record["work"])
    flops: float = record["work"]["model_flops_per_step"] / row.setting.batch
    return flops


def _value(row: Row, metric: Metric) -> float:
    estimate = row.estimate(metric)
    assert estimate is not None, "a ranked row has a figure"
    return estimate.value


def _range(values: Sequence[float], form: str | None, digits: int = 3) -> str:
    """Lowest to highest, or the one figure where both show alike; in so many significant digits without a format."""
    low, high = ((form.format(v) if form else significant(v, digits)) for v in (min(values), max(values)))
    return low if low == high else f"{low}–{high}"


def _counted(name: str, values: Iterable[str], plural: str = "") -> str:
    distinct = list(dict.fromkeys(values))
    return f"{(plural or name + 's') if len(distinct) > 1 else name} {listing(distinct)}"


def _settings(count: int) -> str:
    return "setting" if count == 1 else "settings"


def _unbroken(sentence: str) -> str:
    """The sentence with its percent signs kept beside their figures."""
    return sentence.replace(" %", "\u00a0%")


def _kind(device: str) -> str:
    return {"cpu": "CPU", "gpu": "GPU"}[device]
