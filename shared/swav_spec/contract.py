"""What an implementation of SwAV offers, so that one suite can judge it and one harness can measure it.

Five small Protocols. An implementation says in `fulfils` which of them it has; a stranger's may have `Maths`
alone. Arrays are the framework's own; `to_device` and `to_host` are the only ways in and out, so that no
conversion is timed by accident. Views and images are [N, height, width, channel] for every caller, whatever
layout a framework prefers inside.

An implementation is made from an `Execution` and keeps no state of a run: states are values that a step
takes and returns (a step may reuse the memory of the state it is given, so the old one is void).

`Execution.precision` is that of the network's products, forward and backward: convolutions, the head's layers, and the
scores (embeddings times prototypes, of the batch and of the queue, in a step and in `queue_read`). In tf32 the factors
of all of them may be rounded to TF32. In bfloat16 backbone and head compute in bfloat16, and everything after the
head, scores included, in float32 without TF32. All else is never less than float32, and no TF32 reaches it, in every
precision: views, statistics of the normalisations, rows made unit, Sinkhorn, loss, optimiser. Precisions may live side
by side in a process: making an implementation of another one changes nothing in what this one computes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, runtime_checkable

import numpy as np

from swav_spec.config import Config, Cropped, Execution, Network
from swav_spec.multicrop import CropPlan
from swav_spec.supervised import Supervised

Array = Any  # the framework's own
State = Any  # of one run: see Trainer.init, Classifier.init_classifier
Part = Literal["maths", "views", "trainer", "classifier"]


class Implementation(Protocol):
    """What every implementation has, whichever parts it fulfils."""

    #: Parts it fulfils, besides `Device`.
    fulfils: ClassVar[tuple[Part, ...]]
    #: Ways to execute a step, the default first: "eager", "compile", "cudagraph"; "jit"; "graph", "xla".
    modes: ClassVar[tuple[str, ...]]

    def __init__(self, execution: Execution) -> None:
        """Raises InvalidInput: no such device here, or a precision or mode that it does not offer."""


@runtime_checkable
class Device(Protocol):
    """Where arrays live, and what computes on them."""

    execution: Execution

    def describe(self) -> dict[str, Any]:
        """Facts for a record, as JSON values: framework, version, device (name), precision, mode, flags, compiler."""

    def to_device(self, array: np.ndarray) -> Array:
        """A copy on the device, same dtype."""

    def to_host(self, array: Array) -> np.ndarray:
        """A NumPy copy, same dtype (bfloat16 becomes float32)."""

    def fence(self, *values: Any) -> None:
        """Returns when all that was asked of the device so far, the given values included, has been computed."""

    def reset_peak(self) -> None:
        """Starts a new count for `peak_memory_bytes`, where the framework can."""

    def peak_memory_bytes(self) -> int | None:
        """Most bytes the framework's allocator has held since `reset_peak`; None where it does not tell (CPUs)."""

    def compilations(self) -> int | None:
        """Programs traced or compiled so far in this process by this implementation; None where nothing compiles."""


@runtime_checkable
class Tracing(Protocol):
    """The framework's own profiler; nobody has to have it."""

    def trace(self, folder: Path) -> AbstractContextManager[None]:
        """Traces what the device and the host do within the `with` statement, into files in an existing folder.

        The caller fences before it leaves.
        """


@runtime_checkable
class Maths(Protocol):
    """The method's own arithmetic, on device arrays; the specification's functions of the same names define it.

    Computes in float32, or in float64 where given that; lower precisions are widened first. Of it, only the scores of
    `queue_read` are a product of the network, which a precision of tf32 reaches.
    """

    def normalize_rows(self, array: Array) -> Array:
        """Rows over max(norm, 1e-12), along the last axis (swav_spec.optimizer.normalize_rows)."""

    def sinkhorn(
        self,
        scores: Array,
        *,
        epsilon: float,
        iterations: int = 3,
        keep: int | None = None,
        all_max: Callable[[Array], Array] | None = None,
        all_sum: Callable[[Array], Array] | None = None,
    ) -> Array:
        """[N, K] scores to the codes of the last `keep` rows (swav_spec.sinkhorn.sinkhorn).

        Values are not checked here, which would stop the device; non-finite scores are a flag of the metrics.

        Args:
            all_max, all_sum: given together where the rows are spread over shards, one of which may be empty: the
                elementwise maximum and sum over the shards of a [K] array of the framework's own, as such an array.
                They may be plain Python functions, which wait for others, copy to the host or raise; so what calls
                them is not compiled, unless by a caller who knows that his can be.
        """

    def swapped_loss(
        self, scores: Array, codes: Array, *, temperature: float, assigned: tuple[int, ...]
    ) -> tuple[Array, Array]:
        """[V, B, K], [A, B, K] to the loss [] and its gradient [V, B, K] (swav_spec.loss.swapped_loss)."""

    def queue_read(self, queue: Array, count: int, prototypes: Array) -> Array | None:
        """[A, R, D], [K, D] to scores [A, R, K], or None until `count` >= R (swav_spec.queue.queue_read)."""

    def queue_push(self, queue: Array, count: int, embeddings: Array) -> tuple[Array, int]:
        """[A, R, D] and [A, B, D] to the new queue and count, newest rows in front (swav_spec.queue.queue_push)."""

    def larc_sgd(
        self,
        params: Mapping[str, Array],
        grads: Mapping[str, Array | None],
        momentum: Mapping[str, Array | None],
        *,
        lr: float,
        weight_decay: float,
        trust: float,
        decay: float = 0.9,
    ) -> tuple[dict[str, Array], dict[str, Array | None]]:
        """One update of every tensor (swav_spec.optimizer.larc_sgd)."""


@runtime_checkable
class Views(Protocol):
    """Pixels to views, on the device."""

    def views(self, images: Array, plan: CropPlan, config: Cropped) -> list[Array]:
        """One [C*B, size, size, 3] array per run of equal resolution, crop-major, normalised (swav_spec.views.views).

        Args:
            images: [N, H, W, 3] uint8 on the device; smaller images lie in the top left corner.
            plan: its `index` says which images make the batch.
            config: its mean, std and crops are used.

        Returns:
            float32 (float64 in that precision).
        """


@runtime_checkable
class Trainer(Protocol):
    """Training, embedding, and states in and out.

    Order of a step: set the learning rate; overwrite the prototypes by their row-normalised selves, outside
    the gradient; forward (backbone once per run of equal resolution, head once over all crops); per assigned
    view read the queue, push, Sinkhorn; loss; backward; while frozen the prototypes get nothing; update.

    Adam is algorithm 1 of Kingma and Ba (2015) on g' = g + weight_decay p, with epsilon after the correction of the
    bias: p - lr m_hat / (sqrt(v_hat) + 1e-8), m_hat = m / (1 - .9^t), v_hat = v / (1 - .999^t), t counting the updates
    of that tensor from 1. (Epsilon under the uncorrected root, the paper's "epsilon hat", makes other first steps.)
    """

    def init(self, config: Config, weights: Mapping[str, np.ndarray]) -> State:
        """State at step 0 from a state dict (swav_spec.network.initial_weights, or published weights).

        A state has the attributes `config`, `step` and `queue_count`, both plain ints known to the host.

        Raises:
            InvalidInput: a tensor is missing, unexpected or of another shape.
        """

    def step(self, state: State, images: Array, plan: CropPlan) -> tuple[State, dict[str, Array]]:
        """One training step from pixels; returns before the device has finished.

        Returns:
            The next state, and metrics on the device: loss [], lr [], code_entropy [] (mean entropy of the codes in
            nats), prototypes_used [] (different prototypes that some code has as its largest), finite [A] (bool,
            whether all scores given to Sinkhorn for each assigned view were finite).
        """

    def step_on_views(self, state: State, views: Sequence[Array]) -> tuple[State, dict[str, Array]]:
        """The same from ready-made views, as `Views.views` returns them."""

    def loss_and_grads(self, state: State, views: Sequence[Array]) -> tuple[float, dict[str, np.ndarray]]:
        """Loss of the step that would come next, and its gradient for every parameter; the state stays as it is.

        Gradients are on the host, before weight decay, LARC and the freeze (a frozen prototype's is given too),
        in the published names and layouts.
        """

    def forward(self, state: State, views: Sequence[Array], *, train: bool) -> tuple[Array, Array, Array]:
        """Features [V*B, F], embeddings [V*B, D] of unit length, scores [V*B, K], crop-major; the state stays as it is.

        Scores are with the row-normalised prototypes, as in the step that would come next.

        Args:
            train: normalise with the batch's statistics (and leave the running ones alone), else with the running ones.
        """

    def encoder_step(self, state: State, views: Sequence[Array]) -> Array:
        """Forward and backward of backbone and head alone, for SwAV's cost over them; the state stays as it is.

        The loss is the mean square of the head's output before normalisation.

        Returns:
            A [] array that depends on every parameter's gradient, so that nothing can be left out.
        """

    def embed(self, state: State, images: Array) -> tuple[Array, Array]:
        """Features [N, F] and unit embeddings [N, D] of whole images [N, H, W, 3] uint8, with running statistics."""

    def assign(self, state: State, images: Array) -> Array:
        """[N] integers: the prototype of the largest score of each whole image."""

    def to_arrays(self, state: State) -> dict[str, np.ndarray]:
        """Everything a run needs to go on, on the host, in the published names and layouts.

        "model/" + state-dict name; "momentum/" + parameter name, only where a buffer exists; for Adam "adam_m/" and
        "adam_v/" instead, and "adam_count" int64 [], the steps done, of which a prototype's own count is that less the
        frozen ones; "queue" [A, R, D] if the config has one, zeros before its start; "queue_count" and "step" int64 [].
        """

    def from_arrays(self, config: Config, arrays: Mapping[str, np.ndarray]) -> State:
        """The state that `to_arrays` gave, of this or of another implementation.

        Raises:
            InvalidInput: an array is missing, unexpected or of another shape.
        """


@runtime_checkable
class Classifier(Protocol):
    """Training a linear classifier on the backbone's pooled features, and asking it (swav_spec.supervised).

    Order of a step: set the learning rates of its epoch; views and labels of the plan's images; forward, the backbone
    with the batch's statistics, or with the running ones and without gradient where it is frozen; mean cross-entropy;
    backward; SGD. The linear layer, its loss and all updates are float32 or wider.
    """

    def init_classifier(
        self, config: Supervised, network: Network, weights: Mapping[str, np.ndarray], classes: int, seed: int
    ) -> State:
        """State at step 0 from swav_spec.supervised.initial_tensors.

        A state has the attributes `config` and `step`, a plain int known to the host.

        Raises:
            InvalidInput: see initial_tensors.
        """

    def classifier_step(
        self, state: State, images: Array, labels: Array, plan: CropPlan
    ) -> tuple[State, dict[str, Array]]:
        """One step on one view of each image of the plan; returns before the device has finished.

        Args:
            state: void afterwards.
            images: [N, H, W, 3] uint8 on the device.
            labels: [N] int32 on the device, in 0..classes-1; those at the plan's `index` are used.
            plan: of one crop of the config's size for each image of the batch.

        Returns:
            The next state, and metrics on the device: loss [], correct [] (integer, images of the batch whose largest
            logit was their label's), both before the update.

        Raises:
            InvalidInput: the plan is of another batch or size, or the last epoch is over.
        """

    def classify(self, state: State, images: Array, plan: CropPlan) -> Array:
        """Logits [len(plan.index), C], with running statistics; the state stays as it is.

        Args:
            state: of the classifier.
            images: [N, H, W, 3] uint8 on the device.
            plan: of one crop of the config's size for each image, as swav_spec.multicrop.central_plan makes it.

        Raises:
            InvalidInput: the plan is of another size.
        """

    def classifier_arrays(self, state: State) -> dict[str, np.ndarray]:
        """The tensors of swav_spec.supervised.classifier_shapes, on the host, in the published names and layouts."""
