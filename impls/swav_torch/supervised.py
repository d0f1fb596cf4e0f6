"""A linear classifier on the backbone's pooled features, trained alone or with it (swav_spec.supervised).

In the modes "eager" and "cudagraph" operations run one by one; in "compile" forward pass and update are compiled.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch import nn

from swav_spec.config import Network
from swav_spec.supervised import Supervised, initial_tensors, rates_of_step
from swav_torch.device import TorchDevice
from swav_torch.network import SwavNetwork
from swav_torch.optimizer import update_sgd

HEAD = "linear."
Metrics = dict[str, torch.Tensor]


class ClassifierNetwork(SwavNetwork):
    """The backbone of `network` with a linear layer in the place of projection head and prototypes."""

    def __init__(self, network: Network, classes: int, *, bfloat16: bool = False) -> None:
        super().__init__(network, bfloat16=bfloat16)
        del self.projection_head, self.prototypes
        self.linear = nn.Linear(network.features, classes)

    def features(self, view: torch.Tensor) -> torch.Tensor:
        """Pooled features [N, F] of views [N, height, width, 3], as wide as the linear layer."""
        with torch.autocast(view.device.type, torch.bfloat16, enabled=self.bfloat16):
            features = self.backbone(view)
        return features.to(self.linear.weight.dtype)

    def forward(self, view: torch.Tensor) -> torch.Tensor:
        """Logits [N, C]."""
        return self.linear(self.features(view))


@dataclass(frozen=True, eq=False)
class ClassifierState:
    """A classifier between two steps. The tensors are changed in place by a step, so the state before it is void.

    Attributes:
        config: of the protocol.
        step: steps done, known to the host.
        model: backbone with its running statistics, and linear layer.
        momentum: buffers of the parameters that are trained, zeros at the start.
    """

    config: Supervised
    step: int
    model: ClassifierNetwork
    momentum: dict[str, torch.Tensor]


def loss_and_correct(
    model: ClassifierNetwork, view: torch.Tensor, labels: torch.Tensor, *, frozen: bool
) -> tuple[torch.Tensor, torch.Tensor]:
    """Mean cross-entropy [], with a graph back to what is trained, and how many largest logits are the label's []."""
    with torch.set_grad_enabled(not frozen):
        features = model.features(view)
    logits = model.linear(features)
    return F.cross_entropy(logits, labels), (logits.detach().argmax(dim=1) == labels).sum()


class ClassifierTraining:
    """Steps of a classifier, on a device, in its mode."""

    def __init__(self, device: TorchDevice) -> None:
        self._device = device
        self._forward: Callable[..., tuple[torch.Tensor, torch.Tensor]] = loss_and_correct
        self._update = update_sgd
        if device.mode == "compile":
            self._forward = device.compile(loss_and_correct)
            self._update = device.compile(update_sgd)

    def step(self, state: ClassifierState, view: torch.Tensor, labels: torch.Tensor) -> tuple[ClassifierState, Metrics]:
        """The next state and metrics; see swav_spec.contract.Classifier."""
        config, model = state.config, state.model
        rates = rates_of_step(config, state.step)
        model.train(not config.frozen)
        loss, correct = self._forward(model, view, labels, frozen=config.frozen)
        params = {name: p for name, p in model.named_parameters() if name in state.momentum}
        grads = dict(zip(params, torch.autograd.grad(loss, list(params.values())), strict=True))
        for rate, head in ((rates.trunk, False), (rates.head, True)):
            names = [name for name in params if name.startswith(HEAD) is head]
            if rate is not None:
                lr = torch.full((), rate, dtype=self._device.dtype, device=self._device.device)
                tensors = ([values[name] for name in names] for values in (params, grads, state.momentum))
                self._update(*tensors, lr, config.optimizer)
        return replace(state, step=state.step + 1), {"loss": loss.detach(), "correct": correct}


@torch.no_grad()
def classify(state: ClassifierState, view: torch.Tensor) -> torch.Tensor:
    """Logits [N, C] with running statistics."""
    state.model.eval()
    return state.model(view)


def initial_state(
    device: TorchDevice,
    config: Supervised,
    network: Network,
    weights: Mapping[str, np.ndarray],
    classes: int,
    seed: int,
) -> ClassifierState:
    """State at step 0; see swav_spec.supervised.initial_tensors for what it starts from and raises."""
    arrays = initial_tensors(network, weights, classes, seed)
    with torch.device("meta"):
        model = ClassifierNetwork(network, classes, bfloat16=device.execution.precision == "bfloat16")
    tensors = {
        name: device.to_device(array).to(torch.int64 if name.endswith("num_batches_tracked") else device.dtype)
        for name, array in arrays.items()
    }
    model.load_state_dict(tensors, assign=True)
    model.to(memory_format=torch.channels_last)
    trained = {n: p for n, p in model.named_parameters() if n.startswith(HEAD) or not config.frozen}
    momentum = {name: torch.zeros_like(parameter) for name, parameter in trained.items()}
    return ClassifierState(config, step=0, model=model, momentum=momentum)


def classifier_arrays(device: TorchDevice, state: ClassifierState) -> dict[str, np.ndarray]:
    """Every tensor on the host, in the published names and layouts."""
    return {name: device.to_host(tensor) for name, tensor in state.model.state_dict().items()}
