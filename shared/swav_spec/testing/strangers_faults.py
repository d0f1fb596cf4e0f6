"""Faults by somebody who has not read the properties: what the suite finds without having been written for it.

All were written from the specification's source alone and fixed before any was planted; the property beside each
is the first that found it. About half of them turned out to be in faults.py too, in the same words or in effect.
Two survived: no property looked at initial weights, nor at what two crops of different resolutions have in common.
"""

from __future__ import annotations

from swav_spec.testing.faults import Fault

#: Properties written because the fault beside them survived all there were.
WRITTEN_AFTERWARDS = frozenset(
    {"network.initial-weights-have-their-distributions", "multicrop.crops-of-a-sample-are-independent"}
)
STRANGERS_FAULTS = (
    Fault(
        "sharded Sinkhorn scales by the shard's own maximum, not the one over all shards",
        "sinkhorn",
        "top = all_max(shifted.max(axis=0, initial=-np.inf))",
        "top = shifted.max(axis=0, initial=-np.inf)",
        "sinkhorn.shards-equal-the-whole",
    ),
    Fault(
        "Sinkhorn scales the samples before the prototypes",
        "sinkhorn",
        "sample_shift = np.zeros((len(logits), 1))",
        "sample_shift = -logsumexp(logits)",
        "sinkhorn.equals-the-specification",
    ),
    Fault(
        "the loss takes a code's place in the list for the number of its view",
        "loss",
        "for code, view in zip(codes, assigned, strict=True):",
        "for view, code in enumerate(codes):",
        "loss.equals-the-specification",
    ),
    Fault(
        "a push drops the newest queued rows and keeps the oldest",
        "queue",
        "queue[:, : rows - new]",
        "queue[:, new:]",
        "queue.is-a-list",
    ),
    Fault(
        "LARC clips: its rate never exceeds the learning rate",
        "optimizer",
        "(trust * p_norm / (g_norm + weight_decay * p_norm + LARC_EPSILON))",
        "min(trust * p_norm / (g_norm + weight_decay * p_norm + LARC_EPSILON) / lr, 1.0)",
        "optimizer.equals-the-specification",
    ),
    Fault(
        "frozen prototypes get a zero gradient instead of none, and coast on decay and momentum",
        "optimizer",
        "g, buffer = grads[name], momentum.get(name)",
        "g, buffer = np.zeros_like(p) if grads[name] is None else grads[name], momentum.get(name)",
        "optimizer.equals-the-specification",
    ),
    Fault(
        "the warm-up stops one step short of the base rate",
        "schedule",
        "schedule.base_lr, schedule.warmup_steps)",
        "schedule.base_lr, schedule.warmup_steps, endpoint=False)",
        "optimizer.training-updates-by-the-rule",
    ),
    Fault(
        "the queue counts the batch about to be pushed and is used one step early",
        "schedule",
        "use_queue=is_full(queue_count, rows)",
        "use_queue=is_full(queue_count + config.batch, rows)",
        "schedule.a-step-knows-its-place",
    ),
    Fault(
        "convolutions start from the fan in, not the fan out",
        "network",
        "out, _, height, width = shape",
        "_, out, height, width = shape",
        "network.initial-weights-have-their-distributions",
    ),
    Fault(
        "each group numbers its crops from 0, so that small crops repeat the large ones' draws",
        "multicrop",
        "crops = np.arange(first, first + group.count)[:, None]",
        "crops = np.arange(group.count)[:, None]",
        "multicrop.crops-of-a-sample-are-independent",
    ),
    Fault(
        "bilinear resize without antialiasing",
        "views",
        "np.maximum(0, 2 * max(size, out) - distance)",
        "np.maximum(0, 2 * out - distance)",
        "multicrop.views-equal-the-specification",
    ),
    Fault(
        "contrast blends with the mean of the channels, not the mean luma",
        "views",
        "CONTRAST: luma.mean()",
        "CONTRAST: pixels.mean()",
        "multicrop.views-equal-the-specification",
    ),
)
