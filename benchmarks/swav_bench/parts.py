"""Where a step's time goes: its parts alone, each in a program of its own over the contract, at the step's shapes.

A part alone is not quite the part in the step: what a compiler fuses there, or a device overlaps, is apart here. The
inputs are the step's own (its views, their scores and codes), never zeros.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np

from swav_bench.kernels import maths_of
from swav_bench.one_batch import OneBatch
from swav_bench.timing import time_calls
from swav_spec.network import parameter_names
from swav_spec.optimizer import normalize_rows

#: Of the training's time, for each part.
SHARE = 0.05
#: Calls between two fences, at most: parts may take microseconds.
CALLS = 1000


def measure(
    trainer: Any, state: Any, batch: OneBatch, encoder: Mapping[str, Any], train_s: float, notes: list[str]
) -> dict[str, Any]:
    """Raw values of a record's `parts`.

    Args:
        trainer: parts that it does not offer alone are left out, and so are in the rest.
        state: of the run, at its end; it stays as it is.
        batch: of a step.
        encoder: raw values of `overhead`.
        train_s: how long training took.
        notes: gets what a reader should know.
    """
    measured = []
    for name, call in _calls(trainer, state, batch, notes):
        calls = time_calls(call, trainer.fence, budget_s=SHARE * train_s, per_block=CALLS)
        measured.append({"name": name, "calls_per_block": calls.per_block, "block_s": calls.block_s})
    whole = {"calls_per_block": encoder["encoder_steps_per_block"], "block_s": encoder["encoder_block_s"]}
    return {"method": "separate", "measured": [*measured, {"name": "encoder", **whole}], "parts": []}


def _calls(trainer: Any, state: Any, batch: OneBatch, notes: list[str]) -> Iterator[tuple[str, Callable[[], Any]]]:
    """Name of a part, and what does it once."""
    config = state.config
    if batch.plan is not None and "views" in trainer.fulfils:
        yield "views", lambda: trainer.views(batch.images, batch.plan, config)
    elif batch.plan is not None:
        notes.append("parts: its views are in the rest, as they are its own")
    yield "forward", lambda: trainer.forward(state, batch.views, train=True)
    maths = maths_of(trainer)
    if maths is None:
        notes.append("parts: queue, Sinkhorn, loss and optimiser are in the rest, as the implementation has none alone")
        return

    arrays = trainer.to_arrays(state)
    dtype = np.float64 if trainer.execution.precision == "float64" else np.float32
    random = np.random.default_rng(0)

    def sent(array: np.ndarray) -> Any:
        return trainer.to_device(np.asarray(array, dtype=dtype))

    _, embeddings, scores = (trainer.to_host(part) for part in trainer.forward(state, batch.views, train=True))
    of_views = scores.reshape(config.views, config.batch, -1)
    own = [of_views[view] for view in config.assigned]
    if config.queue_rows:
        prototypes = normalize_rows(arrays["model/prototypes.weight"])
        rows = normalize_rows(random.normal(size=(len(own), config.queue_rows, prototypes.shape[1])))
        own = [np.concatenate([queued @ prototypes.T, scored]) for queued, scored in zip(rows, own, strict=True)]
        pushed = embeddings.reshape(config.views, config.batch, -1)[list(config.assigned)]
        queue, weights, new = sent(rows), sent(prototypes), sent(pushed)
        yield (
            "queue",
            lambda: (
                maths.queue_read(queue, config.queue_rows, weights),
                maths.queue_push(queue, config.queue_rows, new),
            ),
        )
    given = [sent(one) for one in own]
    settings = {"epsilon": config.epsilon, "iterations": config.iterations, "keep": config.batch}
    yield "sinkhorn", lambda: [maths.sinkhorn(one, **settings) for one in given]
    codes = sent(np.stack([trainer.to_host(maths.sinkhorn(one, **settings)) for one in given]))
    predicted = sent(of_views)
    yield (
        "loss",
        lambda: maths.swapped_loss(predicted, codes, temperature=config.temperature, assigned=config.assigned),
    )

    optimizer = config.optimizer
    if optimizer.kind != "larc_sgd":
        notes.append(f"parts: the update is in the rest, as the contract has no {optimizer.kind} alone")
        return
    params = {name: arrays[f"model/{name}"] for name in parameter_names(config.network)}
    grads, momentum = (
        {name: sent(scale * random.normal(size=value.shape)) for name, value in params.items()} for scale in (0.1, 0.01)
    )
    params = {name: sent(value) for name, value in params.items()}
    yield (
        "optimizer",
        lambda: maths.larc_sgd(
            params, grads, momentum, lr=0.1, weight_decay=optimizer.weight_decay, trust=optimizer.trust
        ),
    )
