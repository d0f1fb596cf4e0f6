"""Faults to plant: edits of the specification's own source, each with the property that is to find it.

A suite is worth what it refuses. Each fault is a mistake that people make in SwAV, written as a change of a
line of swav_spec or of the reference network; a copy of the package with that change is loaded under another
name and judged by the unchanged properties. Edits marked harmless change no result, and must survive.
fault_page.py plants them all and writes who killed which.
"""

from __future__ import annotations

import importlib
import importlib.abc
import importlib.machinery
import importlib.util
import re
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

from swav_spec.testing import suite
from swav_spec.testing.properties import all_properties
from swav_spec.testing.subject import Subject

_SPEC = Path(__file__).resolve().parents[1]
_PLANTED = "swav_planted"
IDEAS = ("Sinkhorn", "loss", "queue", "LARC, SGD, schedule", "freeze and prototypes", "network and BN", "crops")


@dataclass(frozen=True)
class Fault:
    """One change of one file.

    Attributes:
        what: the mistake, in words.
        file: path in swav_spec, without ".py".
        old: text that stands there exactly once.
        new: text in its place.
        target: name of the property that is to find it; "" for a harmless edit.
    """

    what: str
    file: str
    old: str
    new: str
    target: str = ""


@contextmanager
def planted(fault: Fault) -> Iterator[Any]:
    """The reference of a copy of swav_spec with the fault in it; the copy is forgotten afterwards."""
    text = (_SPEC / f"{fault.file}.py").read_text(encoding="utf-8")
    count = text.count(fault.old)
    assert count == 1, f"{fault.what}: the text to change must stand once in {fault.file}.py, stands {count} times"
    finder = _Finder(f"{_PLANTED}.{fault.file.replace('/', '.')}", text.replace(fault.old, fault.new))
    sys.meta_path.insert(0, finder)
    try:
        yield importlib.import_module(f"{_PLANTED}.testing.reference").Reference()
    finally:
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.partition(".")[0] == _PLANTED]:
            del sys.modules[name]


class _Finder(importlib.abc.MetaPathFinder, importlib.abc.SourceLoader):
    """Finds modules of the copy: swav_spec's source, renamed, one file of it edited."""

    def __init__(self, edited: str, text: str) -> None:
        self._edited, self._text = edited, text

    def find_spec(self, fullname, path=None, target=None):  # noqa: ARG002 - the import system's arguments
        if fullname.partition(".")[0] != _PLANTED:
            return None
        place = _SPEC.joinpath(*fullname.split(".")[1:])
        package = place.is_dir()
        file = place / "__init__.py" if package else place.with_suffix(".py")
        return importlib.util.spec_from_file_location(
            fullname, file, loader=self, submodule_search_locations=[str(place)] if package else None
        )

    def get_filename(self, fullname):
        return fullname

    def get_data(self, path):
        return self.get_source(path).encode()

    def get_source(self, fullname):
        if fullname == self._edited:
            text = self._text
        else:
            place = _SPEC.joinpath(*fullname.split(".")[1:])
            text = (place / "__init__.py" if place.is_dir() else place.with_suffix(".py")).read_text(encoding="utf-8")
        return re.sub(r"\bswav_spec\b", _PLANTED, text)


def judged(fault: Fault, name: str) -> suite.Outcome:
    """What a property says of a planted fault, stopped at its first failure."""
    item = next(item for item in all_properties() if item.name == name)
    with planted(fault) as reference:
        return suite.run(item, Subject(reference), shrink=False)


def killer(fault: Fault) -> suite.Outcome | None:
    """The first property to find a fault, its target first; None if it survives them all."""
    with planted(fault) as reference:
        subject = Subject(reference)
        for item in sorted(all_properties(), key=lambda item: item.name != fault.target):
            outcome = suite.run(item, subject, shrink=False)
            if outcome.status == "failed":
                return outcome
    return None


_SINKHORN = (
    Fault(
        "one iteration short",
        "sinkhorn",
        "range(iterations)",
        "range(max(iterations - 1, 1))",
        "sinkhorn.equals-an-independent-library-as-recorded",
    ),
    Fault(
        "one iteration too many",
        "sinkhorn",
        "range(iterations)",
        "range(iterations + 1)",
        "sinkhorn.equals-an-independent-library-as-recorded",
    ),
    Fault(
        "epsilon off by .2 %",
        "sinkhorn",
        "logits = scores / epsilon",
        "logits = scores / (epsilon * 1.002)",
        "sinkhorn.cross-ratios-are-those-of-the-kernel",
    ),
    Fault(
        "epsilon multiplied",
        "sinkhorn",
        "logits = scores / epsilon",
        "logits = scores * epsilon",
        "sinkhorn.only-scores-over-epsilon-count",
    ),
    Fault(
        "no row normalisation at the end",
        "sinkhorn",
        "return softmax(kept + prototype_shift)",
        "return np.exp(kept + prototype_shift)",
        "sinkhorn.rows-sum-to-one",
    ),
    Fault(
        "rows for columns: ends on the prototypes",
        "sinkhorn",
        "return softmax(kept + prototype_shift)",
        "return softmax((kept + sample_shift[len(logits) - len(kept) :]).T).T",
        "sinkhorn.rows-sum-to-one",
    ),
    Fault(
        "exponentials without the maximum",
        "sinkhorn",
        "top = all_max(shifted.max(axis=0, initial=-np.inf))",
        "top = 0.0 * all_max(shifted.max(axis=0, initial=0.0))",
        "sinkhorn.finite-for-any-finite-scores",
    ),
    Fault(
        "logits in float16",
        "sinkhorn",
        "logits = scores / epsilon",
        "logits = (scores / epsilon).astype(np.float16).astype(np.float64)",
        "sinkhorn.cross-ratios-are-those-of-the-kernel",
    ),
    Fault(
        "sums over the shard's own rows",
        "sinkhorn",
        "all_sum = all_sum or _itself",
        "all_sum = _itself",
        "sinkhorn.shards-equal-the-whole",
    ),
    Fault(
        "maxima over the shard's own rows",
        "sinkhorn",
        "all_max = all_max or _itself",
        "all_max = _itself",
        "sinkhorn.shards-equal-the-whole",
    ),
    Fault(
        "codes of the first rows kept, not of the last",
        "sinkhorn",
        "logits[len(logits) - keep :]",
        "logits[:keep]",
        "sinkhorn.keep-is-a-slice",
    ),
    Fault(
        "rows dropped before the iterations",
        "sinkhorn",
        "logits = scores / epsilon",
        "logits = (scores if keep is None else scores[len(scores) - keep :]) / epsilon",
        "sinkhorn.keep-is-a-slice",
    ),
    Fault(
        "samples never normalised in between",
        "sinkhorn",
        "sample_shift = -logsumexp(logits + prototype_shift)",
        "sample_shift = 0.0",
        "sinkhorn.iterations-compose",
    ),
    Fault(
        "prototypes never normalised",
        "sinkhorn",
        "return softmax(kept + prototype_shift)",
        "return softmax(kept)",
        "sinkhorn.a-shift-of-a-prototype-changes-nothing",
    ),
    Fault(
        "zero iterations accepted",
        "sinkhorn",
        'require(iterations >= 1, "iterations"',
        'require(iterations >= 0, "iterations"',
        "sinkhorn.zero-iterations-are-refused",
    ),
)
_LOSS = (
    Fault(
        "temperature missing",
        "loss",
        "logits = scores / temperature",
        "logits = scores",
        "loss.only-scores-over-temperature-count",
    ),
    Fault(
        "temperature missing in the gradient",
        "loss",
        "gradient = scale / temperature * (",
        "gradient = scale * (",
        "loss.gradient-is-that-of-the-loss",
    ),
    Fault(
        "own view predicted",
        "loss",
        "        targets[view] -= code\n        counts[view] -= 1\n",
        "        pass\n",
        "loss.own-view-is-not-predicted",
    ),
    Fault(
        "no swap: views predict their own codes",
        "loss",
        "        targets[view] -= code\n        counts[view] -= 1\n",
        "        targets[view], counts[view] = code * (len(codes) - 1), len(codes) - 1\n",
        "loss.equals-the-double-sum",
    ),
    Fault(
        "codes taken for those of the first views, whatever is assigned",
        "loss",
        "zip(codes, assigned, strict=True)",
        "zip(codes, range(len(assigned)), strict=True)",
        "loss.views-can-be-permuted",
    ),
    Fault("mean over V, not V - 1", "loss", "* (views - 1))", "* views)", "loss.log-k-for-constant-scores"),
    Fault(
        "sum over the assigned views, not their mean",
        "loss",
        "1 / (batch * len(assigned) * (views - 1))",
        "1 / (batch * (views - 1))",
        "loss.log-k-for-constant-scores",
    ),
    Fault(
        "sum over the batch, not its mean",
        "loss",
        "1 / (batch * len(assigned) * (views - 1))",
        "1 / (len(assigned) * (views - 1))",
        "loss.a-batch-twice-halves-the-gradient",
    ),
    Fault(
        "largest logit for the log-sum-exp",
        "loss",
        "np.sum(counts * logsumexp(logits))",
        "np.sum(counts * logits.max(axis=-1, keepdims=True))",
        "loss.at-least-the-entropy-of-the-codes",
    ),
    Fault(
        "Kullback-Leibler divergence, not cross-entropy",
        "loss",
        "    return float(loss), gradient",
        "    loss += scale * (views - 1) * np.sum(codes * np.log(np.maximum(codes, 1e-30)))\n"
        "    return float(loss), gradient",
        "loss.at-least-the-entropy-of-the-codes",
    ),
    Fault(
        "one-hot codes",
        "loss",
        "logits = scores / temperature",
        "logits = scores / temperature\n    codes = (codes == codes.max(axis=-1, keepdims=True)).astype(np.float64)",
        "loss.linear-in-the-codes",
    ),
    Fault(
        "the softmax counted once in the gradient, however many codes a view predicts",
        "loss",
        "(counts * softmax(logits) - targets)",
        "(softmax(logits) - targets)",
        "loss.gradient-rows-sum-to-zero",
    ),
    Fault(
        "codes carry gradient",
        "testing/reference",
        "        grads = passed.backward(",
        "        for slot, view in enumerate(config.assigned):\n"
        "            pull = -scores.sum(axis=0) / config.temperature / config.batch\n"
        "            inner = pull - (codes[slot] * pull).sum(axis=-1, keepdims=True)\n"
        "            gradient[view] += codes[slot] * inner / config.epsilon\n"
        "        grads = passed.backward(",
        "network.gradients-are-those-of-the-loss-with-the-codes-held",
    ),
)
_QUEUE = (
    Fault(
        "pushed at the back",
        "queue",
        "np.concatenate([embeddings, queue[:, : rows - new]], axis=1)",
        "np.concatenate([queue[:, new:], embeddings], axis=1)",
        "queue.the-newest-are-in-front",
    ),
    Fault(
        "the newest rows dropped, not the oldest",
        "queue",
        "queue[:, : rows - new]",
        "queue[:, new:]",
        "queue.is-a-list",
    ),
    Fault("used before it is full", "queue", "count >= rows", "count > 0", "queue.is-a-list"),
    Fault("used a push too late", "queue", "count >= rows", "count > rows", "queue.read-with-the-given-prototypes"),
    Fault(
        "fullness guessed from zeros in the last row",
        "queue",
        "if not is_full(count, queue.shape[1]):",
        "if not queue[:, -1].any(axis=-1).all():",
        "queue.is-a-list",
    ),
    Fault("pushes counted, not rows", "queue", "count + new", "count + 1", "queue.the-newest-are-in-front"),
    Fault(
        "pushed before it is read",
        "testing/reference",
        "queued = queue.queue_read(state.queue, ",
        "queued = queue.queue_read(queue.queue_push(state.queue, 0, _by_view(passed.embeddings, config)"
        "[list(config.assigned)])[0], ",
        "queue.training-uses-a-full-queue",
    ),
    Fault(
        "stale prototypes, not yet normalised, for the queue",
        "testing/reference",
        "state.queue_count, model[PROTOTYPES])",
        "state.queue_count, state.model[PROTOTYPES])",
        "queue.training-uses-a-full-queue",
    ),
    Fault(
        "wrong slice: the queue's rows behind the batch's",
        "testing/reference",
        "np.concatenate([queued[at], scores[view]])",
        "np.concatenate([scores[view], queued[at]])",
        "queue.training-uses-a-full-queue",
    ),
    Fault(
        "all views share the first view's queue",
        "testing/reference",
        "np.concatenate([queued[at], scores[view]])",
        "np.concatenate([queued[0], scores[view]])",
        "queue.training-uses-a-full-queue",
    ),
    Fault(
        "queues in the order of views, not of `assigned`",
        "testing/reference",
        "[list(config.assigned)]",
        "[sorted(config.assigned)]",
        "queue.training-pushes-its-embeddings",
    ),
    Fault(
        "starts a step late",
        "schedule",
        "step >= config.queue_start",
        "step > config.queue_start",
        "schedule.a-step-knows-its-place",
    ),
)
_OPTIMIZER = (
    Fault(
        "rate inside the momentum",
        "optimizer",
        "            p = p - lr * buffer\n",
        "            buffer = buffer + (lr - 1) * update\n            p = p - buffer\n",
        "optimizer.the-rate-is-outside-the-buffer",
    ),
    Fault(
        "LARC skips biases and BN parameters",
        "optimizer",
        "if p_norm == 0 or g_norm == 0:",
        "if p.ndim == 1 or p_norm == 0 or g_norm == 0:",
        "optimizer.every-rank-is-scaled",
    ),
    Fault(
        "a zero norm scales by zero",
        "optimizer",
        "if p_norm == 0 or g_norm == 0:",
        "if False:",
        "optimizer.a-zero-norm-is-plain-sgd",
    ),
    Fault(
        "decay where the gradient is zero",
        "optimizer",
        "            return g\n",
        "            return g + weight_decay * p\n",
        "optimizer.a-zero-norm-is-plain-sgd",
    ),
    Fault(
        "norm taken after the decay is added",
        "optimizer",
        "(g_norm + weight_decay * p_norm + LARC_EPSILON)",
        "(np.linalg.norm(g + weight_decay * p) + LARC_EPSILON)",
        "optimizer.every-rank-is-scaled",
    ),
    Fault(
        "decay not scaled by LARC",
        "optimizer",
        "return (g + weight_decay * p) * (trust",
        "return weight_decay * p + g * (trust",
        "optimizer.every-rank-is-scaled",
    ),
    Fault(
        "LARC clipped at 1",
        "optimizer",
        "(trust * p_norm / (g_norm + weight_decay * p_norm + LARC_EPSILON))",
        "min(trust * p_norm / (g_norm + weight_decay * p_norm + LARC_EPSILON), 1.0)",
        "optimizer.every-rank-is-scaled",
    ),
    Fault(
        "Nesterov's step",
        "optimizer",
        "p = p - lr * buffer",
        "p = p - lr * (update + decay * buffer)",
        "optimizer.the-rate-is-outside-the-buffer",
    ),
    Fault(
        "dampened momentum",
        "optimizer",
        "dtype=np.float64) + update",
        "dtype=np.float64) + (1 - decay) * update",
        "optimizer.a-buffer-decays-and-adds",
    ),
    Fault(
        "a missing gradient taken for zero",
        "optimizer",
        "        if g is not None:\n",
        "        g = np.zeros_like(p) if g is None else g\n        if g is not None:\n",
        "optimizer.a-missing-gradient-changes-nothing",
    ),
    Fault(
        "plain SGD without decay",
        "optimizer",
        "lambda p, g: g + weight_decay * p",
        "lambda p, g: g",
        "optimizer.training-updates-by-the-rule",
    ),
    Fault(
        "warm-up stops short of the base rate",
        "schedule",
        "schedule.base_lr, schedule.warmup_steps)",
        "schedule.base_lr, schedule.warmup_steps, endpoint=False)",
        "schedule.warms-up-in-a-line-with-both-ends",
    ),
    Fault(
        "final rate reached in the last step",
        "schedule",
        "/ max(rest, 1))",
        "/ max(rest - 1, 1))",
        "schedule.falls-as-half-a-cosine",
    ),
    Fault(
        "falls to zero, whatever the final rate",
        "schedule",
        "schedule.final_lr + 0.5 * (schedule.base_lr - schedule.final_lr) * cosine",
        "0.5 * schedule.base_lr * cosine",
        "schedule.approaches-the-final-rate",
    ),
    Fault(
        "rate of the step before",
        "schedule",
        "_cached_rates(config.schedule)[step]",
        "_cached_rates(config.schedule)[max(step - 1, 0)]",
        "schedule.training-follows-the-schedule",
    ),
)
_PROTOTYPES = (
    Fault(
        "frozen a step too long",
        "schedule",
        "step < config.freeze_steps",
        "step <= config.freeze_steps",
        "prototypes.freed-prototypes-move",
    ),
    Fault(
        "frozen a step too short",
        "schedule",
        "step < config.freeze_steps",
        "step + 1 < config.freeze_steps",
        "prototypes.frozen-prototypes-are-only-normalised",
    ),
    Fault(
        "frozen by a gradient of zero, which makes a buffer",
        "testing/reference",
        "grads[PROTOTYPES] = None",
        "grads[PROTOTYPES] = 0.0 * grads[PROTOTYPES]",
        "prototypes.frozen-prototypes-are-only-normalised",
    ),
    Fault(
        "decay while frozen",
        "testing/reference",
        "            grads[PROTOTYPES] = None\n",
        "            grads[PROTOTYPES] = None\n"
        "            model[PROTOTYPES] = model[PROTOTYPES] * (1 - settings.lr * config.optimizer.weight_decay)\n",
        "prototypes.frozen-prototypes-are-only-normalised",
    ),
    Fault(
        "prototypes not normalised for the scores",
        "testing/reference",
        "        model = _normalised(state.model)\n        passed = Pass(config.network, model, views, train=True)",
        "        model = state.model\n        passed = Pass(config.network, model, views, train=True)",
        "queue.training-uses-a-full-queue",
    ),
    Fault(
        "forward with prototypes as they are",
        "testing/reference",
        "Pass(state.config.network, _normalised(state.model), views, train=train)",
        "Pass(state.config.network, state.model, views, train=train)",
        "prototypes.training-scores-with-unit-prototypes",
    ),
    Fault(
        "normalised for the scores only, the weights left as they were",
        "testing/reference",
        "model = _normalised(state.model) | passed.buffers",
        "model = state.model | passed.buffers",
        "prototypes.freed-prototypes-move",
    ),
    Fault(
        "normalised again after the step",
        "testing/reference",
        "model=model | new,",
        "model=_normalised(model | new),",
        "prototypes.freed-prototypes-move",
    ),
    Fault(
        "gradient through the normalisation",
        "testing/reference",
        "        return passed, value, codes, finite, grads\n",
        "        unit = model[PROTOTYPES]\n"
        "        grads[PROTOTYPES] = grads[PROTOTYPES] - unit * (grads[PROTOTYPES] * unit).sum(axis=1, keepdims=True)\n"
        "        return passed, value, codes, finite, grads\n",
        "network.loss-and-gradients-are-the-reference-s",
    ),
    Fault(
        "columns normalised, not rows",
        "optimizer",
        "np.linalg.norm(array, axis=-1, keepdims=True)",
        "np.linalg.norm(array, axis=0, keepdims=True)",
        "prototypes.rows-have-unit-length",
    ),
    Fault(
        "epsilon added to the norm",
        "optimizer",
        "np.maximum(np.linalg.norm(array, axis=-1, keepdims=True), 1e-12)",
        "(np.linalg.norm(array, axis=-1, keepdims=True) + 1e-6)",
        "prototypes.length-does-not-count",
    ),
    Fault(
        "tiny rows blown up to unit length",
        "optimizer",
        "keepdims=True), 1e-12)",
        "keepdims=True), 1e-30)",
        "prototypes.a-tiny-row-is-not-unit",
    ),
)
_NETWORK = (
    Fault(
        "biased running variance",
        "testing/reference_network",
        "variance * count / max(count - 1, 1)",
        "variance",
        "network.running-statistics-follow-the-batches",
    ),
    Fault(
        "BN momentum .9, the other sense",
        "network",
        "BN_MOMENTUM = 0.1",
        "BN_MOMENTUM = 0.9",
        "network.running-statistics-follow-the-batches",
    ),
    Fault(
        "BN epsilon 1e-3",
        "network",
        "BN_EPSILON = 1e-5",
        "BN_EPSILON = 1e-3",
        "network.train-mode-is-the-reference-s",
    ),
    Fault(
        "head once for each half of the views, not over all",
        "testing/reference_network",
        'hidden, self._norm = self._batch_norm(hidden, "projection_head.1")',
        'halves = [self._batch_norm(half, "projection_head.1") for half in np.array_split(hidden, 2)]\n'
        "        hidden = np.concatenate([out for out, _ in halves])\n"
        "        self._norm = lambda gradient: np.concatenate(\n"
        "            [back(part) for (_, back), part in zip(halves, np.array_split(gradient, 2), strict=True)]\n"
        "        )",
        "network.running-statistics-follow-the-batches",
    ),
    Fault(
        "backbone once for each crop, not for each resolution",
        "testing/reference_network",
        "self._sizes = [len(group) for group in views]",
        "views = [half for group in views for half in np.array_split(group, 2)]\n"
        "        self._sizes = [len(group) for group in views]",
        "network.running-statistics-follow-the-batches",
    ),
    Fault(
        "stride in the 1x1 convolution",
        "network",
        "[(channels, width, 1, 1), (width, width, 3, stride), (width, outputs, 1, 1)]",
        "[(channels, width, 1, stride), (width, width, 3, 1), (width, outputs, 1, 1)]",
        "network.train-mode-is-the-reference-s",
    ),
    Fault(
        "SAME padding: strided windows start a pixel late",
        "testing/reference_network",
        "axis=(2, 3))[:, :, ::stride, ::stride]",
        "axis=(2, 3))[:, :, (kernel > 1) * (stride - 1) :: stride, (kernel > 1) * (stride - 1) :: stride]",
        "network.train-mode-is-the-reference-s",
    ),
    Fault(
        "no residual",
        "testing/reference_network",
        "relu(out + beside)",
        "relu(out)",
        "network.train-mode-is-the-reference-s",
    ),
    Fault(
        "batch statistics in eval mode",
        "testing/reference_network",
        '            mean, variance = (self.weights[f"{name}.running_{part}"] for part in ("mean", "var"))',
        "            mean, variance = x.mean(axis=axes), x.var(axis=axes)",
        "network.eval-mode-uses-the-running-statistics",
    ),
    Fault(
        "largest feature over the map, not the mean",
        "testing/reference_network",
        "return x.mean(axis=(2, 3)), chain",
        "return x.max(axis=(2, 3)), chain",
        "network.train-mode-is-the-reference-s",
    ),
    Fault(
        "BN without its bias",
        "testing/reference_network",
        "return scale * normalised + shift, backward",
        "return scale * normalised, backward",
        "network.train-mode-is-the-reference-s",
    ),
    Fault(
        "embeddings not normalised",
        "testing/reference_network",
        "unit = x / norm",
        "unit = x",
        "prototypes.training-scores-with-unit-prototypes",
    ),
    Fault(
        "batch statistics taken for constants in the backward pass",
        "testing/reference_network",
        "                inner = inner - inner.mean(axis=axes, keepdims=True) - normalised * along\n",
        "                inner = inner - 0.0 * along\n",
        "network.gradients-are-those-of-the-loss-with-the-codes-held",
    ),
    Fault(
        "looking changes the running statistics",
        "testing/reference",
        "        return passed.features, passed.embeddings, passed.scores\n",
        "        state.model.update(passed.buffers)\n"
        "        return passed.features, passed.embeddings, passed.scores\n",
        "network.only-steps-change-a-state",
    ),
    Fault(
        "momentum lost in a checkpoint",
        "testing/reference",
        "for name, value in state.momentum.items()}\n        if state.queue",
        "for name, value in {}.items()}\n        if state.queue",
        "network.a-stopped-run-goes-on",
    ),
    Fault(
        "rows taken for sample-major",
        "testing/reference",
        "return rows.reshape(config.views, -1, *rows.shape[1:])",
        "return rows.reshape(-1, config.views, *rows.shape[1:]).swapaxes(0, 1).copy()",
        "network.metrics-say-what-the-step-did",
    ),
)
_CROPS = (
    Fault(
        "scale is a share of the side, not of the area",
        "multicrop",
        "target = height * width * _between(uniform(area), *group.scale)",
        "target = height * width * _between(uniform(area), *group.scale) ** 2",
        "multicrop.scale-is-a-share-of-the-area",
    ),
    Fault(
        "area skewed to large boxes",
        "multicrop",
        "_between(uniform(area), *group.scale)",
        "_between(np.sqrt(uniform(area)), *group.scale)",
        "multicrop.scale-is-a-share-of-the-area",
    ),
    Fault(
        "crops of different images",
        "views",
        "view(images[position], group, crop, row)",
        "view(images[plan.index[(row + crop) % len(plan.index)]], group, crop, row)",
        "multicrop.every-view-of-a-row-is-of-its-image",
    ),
    Fault(
        "index of the batch ignored",
        "views",
        "view(images[position], group, crop, row)",
        "view(images[row], group, crop, row)",
        "multicrop.every-view-of-a-row-is-of-its-image",
    ),
    Fault(
        "sample-major views",
        "views",
        "            for crop in range(len(group.box))\n            for row, position in enumerate(plan.index)\n",
        "            for row, position in enumerate(plan.index)\n            for crop in range(len(group.box))\n",
        "multicrop.every-view-of-a-row-is-of-its-image",
    ),
    Fault(
        "flips half as often",
        "multicrop",
        "flip=chances[0] < augmentation.flip",
        "flip=chances[0] < augmentation.flip / 2",
        "multicrop.chances-are-kept",
    ),
    Fault(
        "one draw for flip and grayscale",
        "multicrop",
        "grayscale=chances[2] < augmentation.grayscale",
        "grayscale=chances[0] < augmentation.grayscale",
        "multicrop.chances-are-kept",
    ),
    Fault(
        "upside down instead of left to right",
        "views",
        "    down = resize_weights(height, group.size)\n"
        "    across = resize_weights(width, group.size, flip=bool(group.flip[at]))\n",
        "    down = resize_weights(height, group.size, flip=bool(group.flip[at]))\n"
        "    across = resize_weights(width, group.size)\n",
        "multicrop.a-flip-mirrors-left-and-right",
    ),
    Fault(
        "every crop of a group alike",
        "multicrop",
        "crops = np.arange(first, first + group.count)[:, None]",
        "crops = np.full(group.count, first)[:, None]",
        "multicrop.epochs-samples-and-crops-differ",
    ),
    Fault(
        "the same crops in every epoch",
        "multicrop",
        "self.samples, self.epoch), self.key)",
        "self.samples, 0), self.key)",
        "multicrop.epochs-samples-and-crops-differ",
    ),
    Fault(
        "drawn by place in the batch, not by sample",
        "multicrop",
        "epoch=epoch, samples=samples)",
        "epoch=epoch, samples=np.arange(len(samples)))",
        "multicrop.any-sample-alone-is-planned-alike",
    ),
    Fault(
        "ratio uniform, not its logarithm",
        "multicrop",
        "aspect = np.exp(_between(uniform(aspect), math.log(ratio[0]), math.log(ratio[1])))",
        "aspect = _between(uniform(aspect), *ratio)",
        "multicrop.ratios-are-uniform-on-a-log-scale",
    ),
    Fault(
        "boxes hang over the edge",
        "multicrop",
        "limit_top = np.where(fits, height - box_height + 1, 1)",
        "limit_top = np.where(fits, height, 1)",
        "multicrop.boxes-lie-inside-the-image",
    ),
    Fault(
        "top and left from one draw",
        "multicrop",
        "below(left, limit_left)",
        "below(top, limit_left)",
        "multicrop.positions-are-uniform",
    ),
    Fault(
        "colour changes always in one order",
        "multicrop",
        "JITTER_ORDERS[below(order, len(JITTER_ORDERS))]",
        "JITTER_ORDERS[0 * below(order, len(JITTER_ORDERS))]",
        "multicrop.jitter-is-in-range-and-in-any-order",
    ),
    Fault(
        "hue shifted one way only",
        "multicrop",
        "_between(factors[HUE], -augmentation.hue, augmentation.hue)",
        "_between(factors[HUE], 0.0, augmentation.hue)",
        "multicrop.jitter-is-in-range-and-in-any-order",
    ),
    Fault(
        "blur of a third of the variance",
        "multicrop",
        "s2 = np.square(np.asarray(radius, dtype=np.float64))[..., None] / 3",
        "s2 = np.square(np.asarray(radius, dtype=np.float64))[..., None] / 9",
        "multicrop.blur-weights-are-a-box-of-the-radius",
    ),
    Fault(
        "no antialiasing",
        "views",
        "np.maximum(0, 2 * max(size, out) - distance)",
        "np.maximum(0, 2 * out - np.minimum(distance, 2 * out - 1))",
        "multicrop.views-equal-the-specification",
    ),
    Fault(
        "contrast towards each pixel's luma, not the view's mean",
        "views",
        "CONTRAST: luma.mean()",
        "CONTRAST: luma",
        "multicrop.views-equal-the-specification",
    ),
    Fault(
        "divided by the variance",
        "views",
        "(view(images[position], group, crop, row) - mean) / std",
        "(view(images[position], group, crop, row) - mean) / std**2",
        "multicrop.a-box-of-the-crops-size-is-copied",
    ),
    Fault(
        "boxes a pixel too far left",
        "views",
        "pixels = image[top : top + height, left : left + width] / 255.0",
        "pixels = np.roll(image, 1, axis=1)[top : top + height, left : left + width] / 255.0",
        "multicrop.nothing-outside-the-box-counts",
    ),
)

FAULTS = MappingProxyType(
    dict(zip(IDEAS, (_SINKHORN, _LOSS, _QUEUE, _OPTIMIZER, _PROTOTYPES, _NETWORK, _CROPS), strict=True))
)
HARMLESS = (
    Fault("scores times one over epsilon", "sinkhorn", "scores / epsilon", "scores * (1 / epsilon)"),
    Fault(
        "largest logit taken off before the loss",
        "loss",
        "logits = scores / temperature",
        "logits = (scores - scores.max(axis=-1, keepdims=True)) / temperature",
    ),
    Fault(
        "LARC's quotient before its product",
        "optimizer",
        "(g + weight_decay * p) * (trust * p_norm / (g_norm + weight_decay * p_norm + LARC_EPSILON))",
        "trust * ((g + weight_decay * p) / (g_norm + weight_decay * p_norm + LARC_EPSILON)) * p_norm",
    ),
    Fault(
        "max-pool padded with zeros, where nothing is negative",
        "testing/reference_network",
        "constant_values=-np.inf",
        "constant_values=0.0",
    ),
)
