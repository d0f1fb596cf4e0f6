"""A training step, the state it changes, and states in and out."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name

from swav_plain_torch.device import PlainTorchDevice
from swav_plain_torch.loss import swapped_loss
from swav_plain_torch.network import SwAV
from swav_plain_torch.optimizer import Buffers, update
from swav_plain_torch.queue import queue_push, queue_read
from swav_plain_torch.sinkhorn import sinkhorn
from swav_spec.config import Config
from swav_spec.errors import require
from swav_spec.network import parameter_names, tensor_shapes
from swav_spec.schedule import step_settings

PROTOTYPES = "prototypes.weight"
KINDS = {"larc_sgd": ("momentum",), "sgd": ("momentum",), "adam": ("adam_m", "adam_v")}
Metrics = dict[str, torch.Tensor]


@dataclass(eq=False)
class State:
    """A run between two steps; a step changes it in place.

    Attributes:
        config: of the run.
        step: steps done. queue_count: rows pushed per assigned view.
        model: the network.
        queue: [A, R, D], or what else keeps those rows; None without one.
        buffers: the optimiser's, kind -> parameter name -> tensor.
        counts: parameter name -> updates so far.
    """

    config: Config
    model: SwAV
    queue: Any
    step: int = 0
    queue_count: int = 0
    buffers: Buffers = field(default_factory=dict)
    counts: dict[str, int] = field(default_factory=dict)


class Training:
    """Steps on a device. `compare` and `push` are apart for those who have modules of their own for them."""

    def __init__(self, device: PlainTorchDevice) -> None:
        self.bfloat16 = device.execution.precision == "bfloat16"

    def step(self, state: State, views: Sequence[torch.Tensor]) -> tuple[State, Metrics]:
        """See swav_spec.contract.Trainer."""
        config, model = state.config, state.model
        settings = step_settings(config, state.step, state.queue_count)
        loss, embeddings, metrics = self.loss(state, views)
        model.zero_grad()
        loss.backward()
        grads = {
            name: param.grad
            for name, param in model.named_parameters()
            if param.grad is not None and not (settings.frozen and name == PROTOTYPES)
        }
        params = dict(model.named_parameters())
        update(params, grads, state.buffers, state.counts, lr=settings.lr, optimizer=config.optimizer)
        if settings.push and state.queue is not None:
            self.push(state, embeddings)
        state.step += 1
        return state, {"loss": loss.detach(), "lr": loss.new_tensor(settings.lr), **metrics}

    def loss(self, state: State, views: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor, Metrics]:
        """Loss [] for autograd, embeddings [A, B, D] of the assigned views, and metrics of the codes."""
        config, model = state.config, state.model
        check_views(config, views)
        settings = step_settings(config, state.step, state.queue_count)
        model.train()
        model.normalise_prototypes()
        _, embeddings, scores = model(views, bfloat16=self.bfloat16)
        scores = scores.reshape(config.views, config.batch, -1)
        embeddings = embeddings.detach().reshape(config.views, config.batch, -1)[list(config.assigned)]
        loss, codes, finite = self.compare(state, scores, use_queue=settings.use_queue)
        metrics = {
            "code_entropy": torch.special.entr(codes).sum(dim=-1).mean(),
            "prototypes_used": (F.one_hot(codes.argmax(dim=-1), codes.shape[-1]).sum(dim=(0, 1)) > 0).sum(),
            "finite": finite,
        }
        return loss, embeddings, metrics

    def compare(
        self, state: State, scores: torch.Tensor, *, use_queue: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Loss [] for autograd, codes [A, B, K], and whether the scores given to Sinkhorn were finite [A].

        Args:
            state: before the step.
            scores: [V, B, K].
            use_queue: the queue is full, so that its rows join.
        """
        config = state.config
        weight = state.model.prototypes.weight.detach()
        queued = queue_read(state.queue, state.queue_count, weight) if use_queue else None
        codes, finite = [], []
        for slot, view in enumerate(config.assigned):
            given = scores[view].detach()
            if queued is not None:
                given = torch.cat([queued[slot], given])
            finite.append(torch.isfinite(given).all())
            codes.append(sinkhorn(given, epsilon=config.epsilon, iterations=config.iterations, keep=config.batch))
        stacked = torch.stack(codes)
        loss = swapped_loss(scores, stacked, temperature=config.temperature, assigned=config.assigned)
        return loss, stacked, torch.stack(finite)

    def push(self, state: State, embeddings: torch.Tensor) -> None:
        """Puts embeddings [A, B, D] into the queue."""
        state.queue, state.queue_count = queue_push(state.queue, state.queue_count, embeddings)

    def loss_and_grads(self, state: State, views: Sequence[torch.Tensor]) -> tuple[torch.Tensor, list[torch.Tensor]]:
        """Loss of the step that would come next, and the gradient of every parameter."""
        with untouched(state.model):
            loss, _, _ = self.loss(state, views)
            return loss.detach(), list(torch.autograd.grad(loss, list(state.model.parameters())))

    @torch.no_grad()
    def forward(self, state: State, views: Sequence[torch.Tensor], *, train: bool) -> tuple[torch.Tensor, ...]:
        """Features, embeddings, and scores with the normalised prototypes."""
        state.model.train(train)
        with untouched(state.model):
            state.model.normalise_prototypes()
            return state.model(views, bfloat16=self.bfloat16)

    def encoder_step(self, state: State, views: Sequence[torch.Tensor]) -> torch.Tensor:
        """Forward and backward of backbone and head; the sum of the gradients' norms."""
        state.model.train()
        params = [param for name, param in state.model.named_parameters() if name != PROTOTYPES]
        with untouched(state.model):
            _, projections = state.model.project(views, bfloat16=self.bfloat16)
            grads = torch.autograd.grad(projections.square().mean(), params)
        return torch.stack([torch.norm(grad) for grad in grads]).sum()


@contextlib.contextmanager
def untouched(model: SwAV) -> Iterator[None]:
    """Puts running statistics and prototypes back afterwards."""
    tensors = [model.prototypes.weight.data, *model.buffers()]
    before = [tensor.clone() for tensor in tensors]
    try:
        yield
    finally:
        for tensor, value in zip(tensors, before, strict=True):
            tensor.copy_(value)


def check_views(config: Config, views: Sequence[torch.Tensor]) -> None:
    """Raises InvalidInput if the views of a step have other shapes than the config's."""
    wanted = [(count * config.batch, size, size, 3) for size, count in config.resolutions]
    shapes = [tuple(view.shape) for view in views]
    require(shapes == wanted, "views' shapes", shapes, str(wanted))


def initial_state(
    device: PlainTorchDevice, config: Config, weights: Mapping[str, np.ndarray], network: type[SwAV] = SwAV
) -> State:
    """State at step 0 from a state dict, with a model of that class.

    Raises:
        InvalidInput: a tensor is missing, unexpected or of another shape.
    """
    check_arrays(weights, tensor_shapes(config.network), frozenset(), "weights")
    model = network(config.network).to(device.device, device.dtype)
    model.load_state_dict({name: torch.from_numpy(np.array(value)) for name, value in weights.items()})
    shape = (len(config.assigned), config.queue_rows, config.network.embedding)
    queue = torch.zeros(shape, device=device.device, dtype=device.dtype) if config.queue_rows else None
    return State(config, model, queue, buffers={kind: {} for kind in KINDS[config.optimizer.kind]})


def to_arrays(device: PlainTorchDevice, state: State) -> dict[str, np.ndarray]:
    """See swav_spec.contract.Trainer."""
    arrays = {f"model/{name}": device.to_host(tensor) for name, tensor in state.model.state_dict().items()}
    for kind, tensors in state.buffers.items():
        arrays |= {f"{kind}/{name}": device.to_host(tensor) for name, tensor in tensors.items()}
    if "adam_m" in state.buffers:
        arrays["adam_count"] = np.array(state.step, dtype=np.int64)
    if state.queue is not None:
        arrays["queue"] = device.to_host(state.queue)
    counted = {"step": state.step, "queue_count": state.queue_count}
    return arrays | {name: np.array(value, dtype=np.int64) for name, value in counted.items()}


def from_arrays(
    device: PlainTorchDevice, config: Config, arrays: Mapping[str, np.ndarray], network: type[SwAV] = SwAV
) -> State:
    """The state that `to_arrays` gave, of this or of another implementation, with a model of that class.

    Raises:
        InvalidInput: an array is missing, unexpected or of another shape.
    """
    tensors, names, kinds = tensor_shapes(config.network), parameter_names(config.network), KINDS[config.optimizer.kind]
    require("step" in arrays and np.shape(arrays["step"]) == (), "arrays' step", arrays.get("step"), "one number")
    step = int(arrays["step"])
    require(step >= 0, "step", step, "at least 0")
    updates = dict.fromkeys(names, step) | {PROTOTYPES: max(0, step - config.freeze_steps)}
    shapes: dict[str, tuple[int, ...]] = {"step": (), "queue_count": ()}
    shapes |= {f"model/{name}": shape for name, shape in tensors.items()}
    shapes |= {f"{kind}/{name}": tensors[name] for kind in kinds for name in names}
    optional = {f"{kind}/{name}" for kind in kinds for name in names if updates[name] == 0}
    if config.optimizer.kind == "adam":
        shapes["adam_count"] = ()
    if config.queue_rows:
        shapes["queue"] = (len(config.assigned), config.queue_rows, config.network.embedding)
        optional |= {"queue"} if int(arrays.get("queue_count", 0)) == 0 else set()
    check_arrays(arrays, shapes, optional, "arrays")
    require(int(arrays["queue_count"]) >= 0, "queue_count", int(arrays["queue_count"]), "at least 0")

    model = {name.removeprefix("model/"): value for name, value in arrays.items() if name.startswith("model/")}
    state = initial_state(device, config, model, network)
    for kind in kinds:
        for name in names:
            if f"{kind}/{name}" in arrays:
                state.buffers[kind][name] = device.to_device(arrays[f"{kind}/{name}"]).to(device.dtype)
    state.counts = {name: count for name, count in updates.items() if count}
    if "queue" in arrays:
        state.queue = device.to_device(arrays["queue"]).to(device.dtype)
    state.step, state.queue_count = step, int(arrays["queue_count"])
    return state


def check_arrays(
    given: Mapping[str, np.ndarray], shapes: Mapping[str, tuple[int, ...]], optional: frozenset | set, what: str
) -> None:
    """Raises InvalidInput naming an array that is missing, unexpected or of another shape."""
    missing = sorted(set(shapes) - set(optional) - set(given))
    require(not missing, f"{what} missing", missing, "present")
    unexpected = sorted(set(given) - set(shapes))
    require(not unexpected, f"{what} unexpected", unexpected, "tensors of this config's run")
    for name, array in given.items():
        require(tuple(np.shape(array)) == shapes[name], f"{name}'s shape", tuple(np.shape(array)), str(shapes[name]))
