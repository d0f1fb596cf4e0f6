"""A training step (SwAV, section 3 and algorithm 1), the state it turns into the next, and states in and out.

Order of a step: overwrite the prototypes by their row-normalised selves, outside the gradient; forward; per assigned
view read the queue, push, assign; loss; backward; update. The host runs ahead: it never reads from the device here.
"""
# ruff: noqa: SLF001 - torch._foreach_*, which torch.optim is made of, have no other name.

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import torch

from swav_spec.config import Config
from swav_spec.errors import require
from swav_spec.network import parameter_names, tensor_shapes
from swav_spec.schedule import StepSettings, step_settings
from swav_torch.device import TorchDevice
from swav_torch.loss import swapped_loss
from swav_torch.network import SwavNetwork
from swav_torch.optimizer import Tensors, normalize_rows, update_adam, update_sgd
from swav_torch.queue import queue_push
from swav_torch.sinkhorn import assign

PROTOTYPES = "prototypes.weight"
#: Names of the optimiser's buffers in a checkpoint.
MOMENTUM, ADAM_MEAN, ADAM_SQUARE, ADAM_COUNT = "momentum", "adam_m", "adam_v", "adam_count"
Metrics = dict[str, torch.Tensor]


@dataclass(frozen=True, eq=False)
class State:
    """A run between two steps. The tensors are changed in place by a step, so the state before it is void.

    Attributes:
        config: of the run.
        step: steps done. queue_count: rows pushed per assigned view. Both are known to the host.
        model: the network with its running statistics.
        buffers: the optimiser's, kind -> parameter name -> tensor; only of parameters that were updated before.
        queue: [A, R, D], or None without one.
        graphs: the CUDA graph of the run's present phase; it holds addresses of this state's tensors.
    """

    config: Config
    step: int
    queue_count: int
    model: SwavNetwork
    buffers: dict[str, dict[str, torch.Tensor]]
    queue: torch.Tensor | None
    graphs: dict[object, GraphedStep] = field(default_factory=dict, repr=False)


class Outputs(NamedTuple):
    """What the forward pass of a step gives: where backward starts, what the queue takes, and what is reported."""

    scores: torch.Tensor
    gradient: torch.Tensor
    embeddings: torch.Tensor
    loss: torch.Tensor
    code_entropy: torch.Tensor
    prototypes_used: torch.Tensor
    finite: torch.Tensor


def forward_and_gradient(
    model: SwavNetwork,
    views: Sequence[torch.Tensor],
    queue: torch.Tensor | None,
    *,
    count: int,
    assigned: tuple[int, ...],
    epsilon: float,
    iterations: int,
    temperature: float,
) -> Outputs:
    """From views to the loss and its gradient with respect to the scores.

    Args:
        model: its prototypes are normalised already.
        views: [C*B, size, size, 3] for each resolution.
        queue: [A, R, D] if its rows take part in the assignment.
        count: V, views of an image.
        assigned, epsilon, iterations, temperature: as in Config.
    """
    _, embeddings, scores = model(views)
    with torch.no_grad():
        of_view = scores.detach().unflatten(0, (count, -1))
        batch = of_view.shape[1]
        given = torch.stack([of_view[view] for view in assigned])
        if queue is not None:
            given = torch.cat([queue @ model.prototypes.weight.T, given], dim=1)
        codes = assign(given, epsilon, iterations, keep=batch)
        loss, gradient = swapped_loss(of_view, codes, temperature=temperature, assigned=assigned)
        used = torch.zeros(codes.shape[-1], device=codes.device).index_fill(0, codes.argmax(dim=-1).flatten(), 1)
        return Outputs(
            scores=scores,
            gradient=gradient.flatten(0, 1),
            embeddings=torch.stack([embeddings.detach().unflatten(0, (count, -1))[view] for view in assigned]),
            loss=loss,
            code_entropy=torch.special.entr(codes).sum(dim=-1).mean(),
            prototypes_used=used.sum(),
            finite=given.isfinite().all(dim=2).all(dim=1),
        )


def projection_square(model: SwavNetwork, views: Sequence[torch.Tensor]) -> torch.Tensor:
    """Mean square of the head's output before normalisation."""
    return model.encode(views)[1].square().mean()


class Training:
    """Steps, on a device, in its mode."""

    def __init__(self, device: TorchDevice) -> None:
        self._device = device
        self._forward: Callable[..., Outputs] = forward_and_gradient
        self._projection_square = projection_square
        self._update_sgd = update_sgd
        self._update_adam = update_adam
        if device.mode == "compile":
            self._forward = device.compile(forward_and_gradient)
            self._projection_square = device.compile(projection_square)
            self._update_sgd = device.compile(update_sgd)
            self._update_adam = device.compile(update_adam)

    def step(self, state: State, views: Sequence[torch.Tensor]) -> tuple[State, Metrics]:
        """The next state and metrics; see swav_spec.contract.Trainer."""
        config = state.config
        check_views(config, views)
        settings = step_settings(config, state.step, state.queue_count)
        lr = torch.full((), settings.lr, dtype=self._device.dtype, device=self._device.device)
        if self._device.mode == "cudagraph":
            graphed = self._graphed(state, (settings._replace(lr=0.0), *(view.shape for view in views)))
            metrics = graphed(lambda views, lr: self._train(state, views, lr, settings), views, lr)
        else:
            metrics = self._train(state, views, lr, settings)
        pushed = config.batch if settings.push else 0
        return replace(state, step=state.step + 1, queue_count=state.queue_count + pushed), metrics

    def _train(self, state: State, views: Sequence[torch.Tensor], lr: torch.Tensor, settings: StepSettings) -> Metrics:
        """The step's work on the device."""
        state.model.train()
        outputs = self._normalise_and_forward(state, views, use_queue=settings.use_queue)
        names, params = zip(
            *((n, p) for n, p in state.model.named_parameters() if not (settings.frozen and n == PROTOTYPES)),
            strict=True,
        )
        grads = torch.autograd.grad(outputs.scores, params, outputs.gradient)
        self._update(state, names, list(params), list(grads), lr)
        if settings.push:
            state.queue.copy_(queue_push(state.queue, state.queue_count, outputs.embeddings)[0])
        return {
            "loss": outputs.loss,
            "lr": lr,
            "code_entropy": outputs.code_entropy,
            "prototypes_used": outputs.prototypes_used,
            "finite": outputs.finite,
        }

    def _normalise_and_forward(self, state: State, views: Sequence[torch.Tensor], *, use_queue: bool) -> Outputs:
        config = state.config
        normalise_prototypes(state.model)
        return self._forward(
            state.model,
            list(views),
            state.queue if use_queue else None,
            count=config.views,
            assigned=config.assigned,
            epsilon=config.epsilon,
            iterations=config.iterations,
            temperature=config.temperature,
        )

    def _update(self, state: State, names: Sequence[str], params: Tensors, grads: Tensors, lr: torch.Tensor) -> None:
        optimizer = state.config.optimizer
        named = list(zip(names, params, strict=True))
        buffers = [[self._buffer(state, kind, *item) for item in named] for kind in state.buffers]
        update = self._update_adam if optimizer.kind == "adam" else self._update_sgd
        update(params, grads, *buffers, lr, optimizer)

    def _buffer(self, state: State, kind: str, name: str, parameter: torch.Tensor) -> torch.Tensor:
        """Zeros the first time, which give the same as no buffer."""
        if name not in state.buffers[kind]:
            state.buffers[kind][name] = parameter.new_zeros(()) if kind == ADAM_COUNT else torch.zeros_like(parameter)
        return state.buffers[kind][name]

    def forward(self, state: State, views: Sequence[torch.Tensor], *, train: bool) -> tuple[torch.Tensor, ...]:
        """Features, embeddings, and scores with the normalised prototypes."""
        state.model.train(train)
        with untouched(state.model):
            normalise_prototypes(state.model)
            return state.model(list(views))

    def loss_and_grads(self, state: State, views: Sequence[torch.Tensor]) -> tuple[float, dict[str, np.ndarray]]:
        """Loss of the step that would come next and the gradient of every parameter, on the host."""
        check_views(state.config, views)
        settings = step_settings(state.config, state.step, state.queue_count)
        state.model.train()
        with untouched(state.model):
            outputs = self._normalise_and_forward(state, views, use_queue=settings.use_queue)
            names, params = zip(*state.model.named_parameters(), strict=True)
            grads = torch.autograd.grad(outputs.scores, params, outputs.gradient)
        return float(outputs.loss), {n: self._device.to_host(g) for n, g in zip(names, grads, strict=True)}

    def encoder_step(self, state: State, views: Sequence[torch.Tensor]) -> torch.Tensor:
        """Forward and backward of backbone and head; the sum of the gradients' norms."""
        if self._device.mode == "cudagraph":
            graphed = self._graphed(state, ("encoder", *(view.shape for view in views)))
            lr = torch.zeros((), device=self._device.device)  # of no use here
            return graphed(lambda views, _: {"norms": self._encode(state, views)}, views, lr)["norms"]
        return self._encode(state, views)

    def _encode(self, state: State, views: Sequence[torch.Tensor]) -> torch.Tensor:
        state.model.train()
        params = [parameter for name, parameter in state.model.named_parameters() if name != PROTOTYPES]
        with untouched(state.model):
            grads = torch.autograd.grad(self._projection_square(state.model, list(views)), params)
        return torch.stack(torch._foreach_norm(grads)).sum()

    def _graphed(self, state: State, phase: tuple[object, ...]) -> GraphedStep:
        """The graph of a phase of the run."""
        if phase not in state.graphs:
            state.graphs.clear()  # phases do not return, and a graph keeps the memory of all its activations
            state.graphs[phase] = GraphedStep(self._device)
        return state.graphs[phase]


@torch.no_grad()
def normalise_prototypes(model: SwavNetwork) -> None:
    """Overwrites the prototypes by their row-normalised selves."""
    model.prototypes.weight.copy_(normalize_rows(model.prototypes.weight))


def check_views(config: Config, views: Sequence[torch.Tensor]) -> None:
    """Raises InvalidInput if the views of a step have other shapes than the config's."""
    wanted = [(count * config.batch, size, size, 3) for size, count in config.resolutions]
    shapes = [tuple(view.shape) for view in views]
    require(shapes == wanted, "views' shapes", shapes, str(wanted))


@contextlib.contextmanager
def untouched(model: SwavNetwork) -> Iterator[None]:
    """Puts running statistics and prototypes back afterwards, so that the very code of a step can be run on a state."""
    tensors = [model.prototypes.weight.detach(), *model.buffers()]
    # Of one type each, lists are copied in one launch.
    lists = [[t for t in tensors if t.is_floating_point() is kind] for kind in (True, False)]
    before = [[torch.empty_like(tensor) for tensor in tensors] for tensors in lists]
    _copy(before, lists)
    try:
        yield
    finally:
        _copy(lists, before)


def _copy(to: list[list[torch.Tensor]], of: list[list[torch.Tensor]]) -> None:
    for targets, sources in zip(to, of, strict=True):
        torch._foreach_copy_(targets, sources)


class GraphedStep:
    """A step as one CUDA graph, for a phase of the run in which every step does the same.

    The phase's first steps run as they are, on a stream of their own, so that libraries settle and buffers exist;
    then a step is captured, and from there on replayed with new views and learning rate copied into place.
    """

    WARMUP = 3

    def __init__(self, device: TorchDevice) -> None:
        self._device = device
        self._calls = 0
        self._aside = torch.cuda.Stream(device.device)
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(
        self,
        train: Callable[[Sequence[torch.Tensor], torch.Tensor], Metrics],
        views: Sequence[torch.Tensor],
        lr: torch.Tensor,
    ) -> Metrics:
        if self._calls < self.WARMUP:
            self._calls += 1
            self._aside.wait_stream(torch.cuda.current_stream(self._device.device))
            with torch.cuda.stream(self._aside):
                metrics = train(views, lr)
            torch.cuda.current_stream(self._device.device).wait_stream(self._aside)
            return metrics
        if self._graph is None:
            self._views = [view.clone() for view in views]
            self._lr = lr.clone()
            self._graph = torch.cuda.CUDAGraph()
            # Other threads (a loader that pins memory) may go on meanwhile.
            with torch.cuda.graph(self._graph, capture_error_mode="thread_local"):
                self._metrics = train(self._views, self._lr)
            self._device.captures += 1
        torch._foreach_copy_(self._views, list(views))
        self._lr.copy_(lr)
        self._graph.replay()
        return {name: value.clone() for name, value in self._metrics.items()}


def initial_state(device: TorchDevice, config: Config, weights: Mapping[str, np.ndarray]) -> State:
    """State at step 0 from a state dict.

    Raises:
        InvalidInput: a tensor is missing, unexpected or of another shape.
    """
    shapes = tensor_shapes(config.network)
    check_names(weights, set(shapes), set(shapes), "weights")
    for name, shape in shapes.items():
        check_shape(name, weights[name], shape)
    with torch.device("meta"):
        model = SwavNetwork(config.network, bfloat16=device.execution.precision == "bfloat16")
    tensors = {name: _tensor(device, weights[name], counts=name.endswith("num_batches_tracked")) for name in shapes}
    model.load_state_dict(tensors, assign=True)
    model.to(memory_format=torch.channels_last)
    rows = config.queue_rows
    queue_shape = (len(config.assigned), rows, config.network.embedding)
    return State(
        config=config,
        step=0,
        queue_count=0,
        model=model,
        buffers={kind: {} for kind in _kinds(config)},
        queue=torch.zeros(queue_shape, dtype=device.dtype, device=device.device) if rows else None,
    )


def to_arrays(device: TorchDevice, state: State) -> dict[str, np.ndarray]:
    """Everything a run needs to go on, on the host; names as in swav_spec.contract.Trainer.to_arrays."""
    arrays = {f"model/{name}": device.to_host(tensor) for name, tensor in state.model.state_dict().items()}
    for kind, tensors in state.buffers.items():
        if kind != ADAM_COUNT:
            arrays |= {f"{kind}/{name}": device.to_host(tensor) for name, tensor in tensors.items()}
    if ADAM_COUNT in state.buffers:
        # Every step updates every tensor, but for frozen prototypes, whose count follows from this one.
        arrays[ADAM_COUNT] = np.array(state.step, dtype=np.int64)
    if state.queue is not None:
        arrays["queue"] = device.to_host(state.queue)
    return arrays | {
        "queue_count": np.array(state.queue_count, dtype=np.int64),
        "step": np.array(state.step, dtype=np.int64),
    }


def from_arrays(device: TorchDevice, config: Config, arrays: Mapping[str, np.ndarray]) -> State:
    """The state that `to_arrays` gave, of this or of another implementation.

    Raises:
        InvalidInput: an array is missing, unexpected or of another shape.
    """
    for name in ("step", "queue_count"):
        require(name in arrays, "arrays missing", [name], "present")
        check_shape(name, arrays[name], ())
    step, queue_count = int(arrays["step"]), int(arrays["queue_count"])
    require(step >= 0 and queue_count >= 0, "step, queue_count", (step, queue_count), "at least 0")
    kinds = _kinds(config)
    updates = dict.fromkeys(parameter_names(config.network), step)
    updates[PROTOTYPES] = max(0, step - config.freeze_steps)
    shapes, optional = _shapes_of_arrays(config, updates, queue_count)
    check_names(arrays, set(shapes) - optional, set(shapes), "arrays")
    for name, array in arrays.items():
        check_shape(name, array, shapes[name])

    model = {name.removeprefix("model/"): value for name, value in arrays.items() if name.startswith("model/")}
    state = initial_state(device, config, model)
    for name, parameter in state.model.named_parameters():
        for kind in kinds:
            if kind == ADAM_COUNT:
                state.buffers[kind][name] = parameter.new_full((), updates[name])
            elif f"{kind}/{name}" in arrays:
                buffer = torch.zeros_like(parameter)  # in the parameter's memory format
                state.buffers[kind][name] = buffer.copy_(_tensor(device, arrays[f"{kind}/{name}"]))
    if "queue" in arrays:
        state.queue.copy_(_tensor(device, arrays["queue"]))
    return replace(state, step=step, queue_count=queue_count)


def _kinds(config: Config) -> tuple[str, ...]:
    """The optimiser's buffers, in the order that its update takes them."""
    return (ADAM_MEAN, ADAM_SQUARE, ADAM_COUNT) if config.optimizer.kind == "adam" else (MOMENTUM,)


def _shapes_of_arrays(
    config: Config, updates: Mapping[str, int], queue_count: int
) -> tuple[dict[str, tuple[int, ...]], set[str]]:
    """Shape of every array that a checkpoint may hold, and the names of those that it need not.

    Buffers of a parameter that was never updated, and a queue that was never pushed, are zeros or not there.
    """
    tensors = tensor_shapes(config.network)
    shapes: dict[str, tuple[int, ...]] = {"step": (), "queue_count": ()}
    shapes |= {f"model/{name}": shape for name, shape in tensors.items()}
    optional = set()
    for kind in _kinds(config):
        if kind == ADAM_COUNT:
            shapes[kind] = ()
            continue
        shapes |= {f"{kind}/{name}": tensors[name] for name in updates}
        optional |= {f"{kind}/{name}" for name, count in updates.items() if count == 0}
    if config.queue_rows:
        shapes["queue"] = (len(config.assigned), config.queue_rows, config.network.embedding)
        if queue_count == 0:
            optional.add("queue")
    return shapes, optional


def _tensor(device: TorchDevice, array: np.ndarray, *, counts: bool = False) -> torch.Tensor:
    return device.to_device(array).to(torch.int64 if counts else device.dtype)


def check_names(given: Mapping[str, np.ndarray], required: set[str], allowed: set[str], what: str) -> None:
    """Raises InvalidInput naming what is missing or unexpected."""
    missing = sorted(required - set(given))
    require(not missing, f"{what} missing", missing, "present")
    unexpected = sorted(set(given) - allowed)
    require(not unexpected, f"{what} unexpected", unexpected, "tensors of this config's run")


def check_shape(name: str, array: np.ndarray, shape: tuple[int, ...]) -> None:
    """Raises InvalidInput naming an array of another shape."""
    require(tuple(np.shape(array)) == shape, f"{name}'s shape", tuple(np.shape(array)), str(shape))
