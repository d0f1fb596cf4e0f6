"""Golden files: recorded outputs of the method's original program, and how to play them through the contract.

Each file is an .npz of arrays, with its cases described in JSON; nothing is unpickled. Their inputs are numbers
that float32 holds, so a case means the same in both precisions.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from swav_spec.config import Config, CropGroup, Network, Optimizer, Precision, Schedule
from swav_spec.schedule import step_settings
from swav_spec.testing.assertions import dtype_of
from swav_spec.tolerance import UNIT_ROUNDOFF

#: Warm-up, base and final learning rates of the traces follow from each other as in the published recipes.
_FINAL_OVER_BASE = 1e-3
_START_WARMUP = 0.3
#: About what float32's roundings come to on the way to an activation: 16 of them.
NUDGE = 16 * UNIT_ROUNDOFF["float32"]


@dataclass(frozen=True)
class GoldenCase:
    """One case of a golden file: its description and its arrays, without the case's prefix.

    Attributes:
        name: file and key, as in "b_loss_world2/c3".
        about: the case's configuration, as the file describes it.
        arrays: name -> array; `scores_key` of files a is followed, so that "scores" is always there.
    """

    name: str
    about: dict[str, Any]
    arrays: dict[str, np.ndarray]

    def input(self, name: str, precision: Precision) -> np.ndarray:
        """An input, as the numbers that `precision` computes with."""
        return self.arrays[name].astype(dtype_of(precision))

    def output(self, name: str, precision: Precision) -> np.ndarray:
        """A recorded result: the float64 run's for float64, the float32 run's for all others."""
        return self.arrays[f"{name}_{dtype_of(precision).__name__}"]


def arrays_of(folder: Path, name: str) -> dict[str, np.ndarray]:
    """All arrays of `folder`/`name`.npz."""
    with np.load(folder / f"{name}.npz", allow_pickle=False) as file:
        return {key: file[key] for key in file.files}


def cases(folder: Path, *names: str) -> list[GoldenCase]:
    """The cases of golden files a to f, in file order."""
    found = []
    for name in names:
        arrays = arrays_of(folder, name)
        for number, about in enumerate(json.loads(str(arrays["meta_json"]))):
            key = about.get("key", f"c{number}")
            own = {item[len(key) + 1 :]: value for item, value in arrays.items() if item.startswith(f"{key}_")}
            if "scores_key" in about:
                own["scores"] = arrays[about["scores_key"]]
            found.append(GoldenCase(f"{name}/{key}", about, own))
    return found


def views_and_batch(case: GoldenCase) -> tuple[int, int]:
    """V, how many views, and B, how many samples on each rank."""
    return sum(case.about["nmb_crops"]), case.about["B_local"]


def replay(
    implementation: Any, case: GoldenCase, precision: Precision, *, rows_in: np.ndarray | None = None
) -> dict[str, np.ndarray]:
    """A recorded training of prototypes alone (files c and f) through an implementation's Maths.

    The embeddings of every step are given; prototypes learn by LARC and SGD. Several ranks share the assignment
    (here as one of all their rows) and the mean of their gradients, and keep a queue each. Scores in TF32 are in no
    file: there the queue's are of full precision, as the batch's own are always.

    Args:
        implementation: of Device and Maths.
        case: of a file c (arrays lead with the rank) or f (a single rank).
        precision: of the arrays that are given.
        rows_in: [ranks, T, A] rows given to Sinkhorn, to decide over the use of the queue instead of its count.

    Returns:
        Per step, with the shapes of the file: W_raw_after, Wn_used, mom (NaN where there is no buffer), grad_raw,
        loss, and for files c queue_after (NaN before the queue exists), q and q_rows_in.
    """
    about, device, host = case.about, implementation.to_device, implementation.to_host
    embeddings = case.input("Z", precision)
    single = embeddings.ndim == 4  # files f have no rank axis
    embeddings = embeddings[None] if single else embeddings
    ranks, steps, _, batch, dimension = embeddings.shape
    rows = about.get("queue_rows_local", 0)
    first_push = about.get("epoch_queue_starts", 0) * about.get("iters_per_epoch", 0)
    frozen_steps = about["freeze"] if "freeze" in about else about["freeze_prototypes_niters"]
    assigned = (0, 1)

    prototypes, momentum = device(case.input("W0_raw", precision)), None
    empty = np.zeros((len(assigned), rows, dimension), dtype=embeddings.dtype)
    queues, counts = [device(empty) for _ in range(ranks)], [0] * ranks
    record: dict[str, list] = {}
    for step in range(steps):
        prototypes = implementation.normalize_rows(prototypes)
        used = host(prototypes)
        scores = embeddings[:, step] @ used.T
        given = []  # [A][ranks] rows of scores, queue first
        for slot, view in enumerate(assigned):
            of_ranks = []
            for rank in range(ranks):
                count = counts[rank] if rows_in is None else rows * int(rows_in[rank, step, slot] > batch)
                queued = implementation.queue_read(queues[rank][slot : slot + 1], count, prototypes) if rows else None
                own = scores[rank, view]
                if queued is not None:
                    full = precision == "tf32"
                    before = host(queues[rank])[slot] @ used.T if full else host(queued)[0]
                    own = np.concatenate([before, own])
                of_ranks.append(own)
            given.append(of_ranks)
        codes = np.stack([codes_of_ranks(implementation, of_ranks, batch, about) for of_ranks in given], axis=1)
        losses, gradients = [], []
        for rank in range(ranks):
            loss, slope = implementation.swapped_loss(
                device(scores[rank]), device(codes[rank]), temperature=about["temperature"], assigned=assigned
            )
            losses.append(float(host(loss)))
            gradients.append(np.einsum("vbk,vbd->kd", host(slope), embeddings[rank, step]))
        frozen = step < frozen_steps
        gradient = None if frozen else device(np.mean(gradients, axis=0, dtype=embeddings.dtype))
        updated, buffers = implementation.larc_sgd(
            {"prototypes": prototypes},
            {"prototypes": gradient},
            {"prototypes": momentum},
            lr=float(case.arrays["lr"][step]),
            weight_decay=about["wd"],
            trust=about["trust"],
            decay=about["momentum"],
        )
        prototypes, momentum = updated["prototypes"], buffers["prototypes"]
        exists = rows > 0 and step >= first_push
        if exists:
            for rank in range(ranks):
                pushed = device(embeddings[rank, step, list(assigned)])
                queues[rank], counts[rank] = implementation.queue_push(queues[rank], counts[rank], pushed)
        of_step = {
            "Wn_used": np.stack([used] * ranks),
            "W_raw_after": np.stack([host(prototypes)] * ranks),
            "mom": np.stack([np.full_like(used, np.nan) if momentum is None else host(momentum)] * ranks),
            "grad_raw": np.stack([np.zeros_like(used) if frozen else host(gradient)] * ranks),
            "loss": np.array(losses),
        }
        if rows:
            queue = np.stack([host(queue) for queue in queues])
            of_step["queue_after"] = queue if exists else np.full_like(queue, np.nan)
            of_step["q"] = codes
            of_step["q_rows_in"] = np.array([[len(of_ranks[rank]) for of_ranks in given] for rank in range(ranks)])
        for name, value in of_step.items():
            record.setdefault(name, []).append(value)
    stacked = {name: np.stack(values, axis=1) for name, values in record.items()}
    return {name: value[0] for name, value in stacked.items()} if single else stacked


def codes_of_ranks(implementation: Any, of_ranks: list[np.ndarray], batch: int, about: Mapping[str, Any]) -> np.ndarray:
    """[ranks, B, K] codes of each rank's last B rows, from one assignment over the rows of all ranks."""
    scores = implementation.to_device(np.concatenate(of_ranks))
    codes = implementation.to_host(
        implementation.sinkhorn(scores, epsilon=about["epsilon"], iterations=about["sinkhorn_iterations"])
    )
    ends = np.cumsum([len(rows) for rows in of_ranks])
    return np.stack([codes[end - batch : end] for end in ends])


@dataclass(frozen=True)
class GoldenTrace:
    """A recorded training run of a whole network (files g).

    Attributes:
        name: of the file.
        config: the run.
        weights: the state dict it starts from; numbers that float32 holds, as float64.
        lr: [T] learning rates as recorded.
        views: for each run of equal resolution [T, C*B, side, side, 3] pixels as the network gets them, float64.
        arrays: everything recorded.
    """

    name: str
    config: Config
    weights: dict[str, np.ndarray]
    lr: np.ndarray
    views: list[np.ndarray]
    arrays: dict[str, np.ndarray]

    @property
    def parameter_names(self) -> list[str]:
        """Columns of `param_norms` and `grad_norms_raw`."""
        return json.loads(str(self.arrays["param_names_json"]))

    def views_of(self, step: int, precision: Precision) -> list[np.ndarray]:
        """The views of a step, as `Views.views` would return them."""
        return [view[step].astype(dtype_of(precision)) for view in self.views]


def trace(folder: Path, name: str) -> GoldenTrace:
    """Golden file g called `name`, e.g. "g_trace_a"."""
    arrays = arrays_of(folder, name)
    about = json.loads(str(arrays["config_json"]))
    per_epoch, start = about["ipe"], about["qs"] * about["ipe"]
    config = Config(
        batch=about["B"],
        crops=tuple(
            CropGroup(size, count, (0.1, 1.0)) for size, count in zip(about["sizes"], about["nmb_crops"], strict=True)
        ),
        network=Network(
            depths=tuple(about["layers"]),
            widths=tuple(about["stem"] * 2**stage for stage in range(4)),
            hidden=about["hidden"],
            embedding=about["D"],
            prototypes=about["K"],
        ),
        schedule=Schedule(
            steps=about["epochs"] * per_epoch,
            base_lr=about["lr"],
            final_lr=about["lr"] * _FINAL_OVER_BASE,
            warmup_steps=about["wu"] * per_epoch,
            start_warmup=_START_WARMUP,
        ),
        optimizer=Optimizer(momentum=about["momentum"], weight_decay=about["wd"], trust=about["trust"]),
        assigned=tuple(about["crops_for_assign"]),
        epsilon=about["epsilon"],
        iterations=about["sinkhorn_iterations"],
        temperature=about["temperature"],
        queue_length=about["q"],
        queue_start=start if about["q"] else 0,
        freeze_steps=about["freeze"],
    )
    weights = {
        item[len("init/") :]: value if value.dtype == np.int64 else value.astype(np.float64)
        for item, value in arrays.items()
        if item.startswith("init/")
    }
    views = []
    for size in about["sizes"]:
        pixels = np.moveaxis(arrays[f"x{size}_int8"], 3, -1) / 32.0  # [T, C, B, side, side, 3]
        views.append(pixels.reshape(len(pixels), -1, *pixels.shape[3:]))
    return GoldenTrace(name, config, weights, arrays["lr"], views, arrays)


def play(
    implementation: Any, golden: GoldenTrace, precision: Precision, *, nudge: np.random.Generator | None = None
) -> dict[str, Any]:
    """A trace through an implementation's Trainer, recorded as the files are.

    Args:
        implementation: of Device and Trainer.
        golden: from `trace`.
        precision: of the views that are given.
        nudge: changes each initial weight and each pixel by up to `NUDGE` of itself, at random; how far that carries
            a run says what float32 can promise.

    Returns:
        Lists over steps: loss, loss_before (of `loss_and_grads`), lr, finite, param_norms, grad_norms_raw (0 for frozen
        prototypes), prototypes_raw_after, queue_after (None without a queue), queue_count, sinkhorn_rows. Arrays:
        emb_step0, scores_step0, scores_last, eval_backbone, eval_emb. "model": the state dict at the end.
    """

    def nudged(array: np.ndarray) -> np.ndarray:
        if nudge is None or not np.issubdtype(array.dtype, np.floating):
            return array
        return array * (1 + NUDGE * nudge.uniform(-1, 1, array.shape))

    config, names, host = golden.config, golden.parameter_names, implementation.to_host
    record: dict[str, Any] = {}
    state = implementation.init(config, {name: nudged(value) for name, value in golden.weights.items()})
    model: dict[str, np.ndarray] = {}
    for step in range(config.schedule.steps):
        views = [implementation.to_device(nudged(view)) for view in golden.views_of(step, precision)]
        settings = step_settings(config, state.step, state.queue_count)
        if step in (0, config.schedule.steps - 1):
            _, embeddings, scores = implementation.forward(state, views, train=True)
            record |= {"emb_step0": host(embeddings), "scores_step0": host(scores)} if step == 0 else {}
            record["scores_last"] = host(scores)
        loss, grads = implementation.loss_and_grads(state, views)
        if settings.frozen:
            grads = grads | {"prototypes.weight": np.zeros(1)}
        state, metrics = implementation.step_on_views(state, views)
        arrays = implementation.to_arrays(state)
        model = {name.removeprefix("model/"): value for name, value in arrays.items() if name.startswith("model/")}
        of_step = {
            "loss": float(host(metrics["loss"])),
            "loss_before": float(loss),
            "lr": float(host(metrics["lr"])),
            "finite": host(metrics["finite"]),
            "grad_norms_raw": norms(grads, names),
            "param_norms": norms(model, names),
            "prototypes_raw_after": model["prototypes.weight"],
            "queue_after": arrays.get("queue"),
            "queue_count": int(arrays["queue_count"]),
            "sinkhorn_rows": config.batch + settings.use_queue * config.queue_rows,
        }
        for name, value in of_step.items():
            record.setdefault(name, []).append(value)
    record["model"] = model
    crop = implementation.to_device(golden.views_of(0, precision)[0][: config.batch])
    features, embeddings, _ = implementation.forward(state, [crop], train=False)
    return record | {"eval_backbone": host(features), "eval_emb": host(embeddings)}


def norms(tensors: Mapping[str, np.ndarray], names: Sequence[str]) -> np.ndarray:
    """Euclidean length of each named tensor."""
    return np.array([np.linalg.norm(np.asarray(tensors[name], dtype=np.float64)) for name in names])
