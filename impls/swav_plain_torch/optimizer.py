"""Updates, tensor by tensor: LARC over SGD with momentum, plain SGD, and Adam. Norms are looked at by the host."""

from __future__ import annotations

from collections.abc import Mapping

import torch

from swav_spec.config import Optimizer
from swav_spec.optimizer import LARC_EPSILON

BETAS, ADAM_EPSILON = (0.9, 0.999), 1e-8
Buffers = dict[str, dict[str, torch.Tensor]]


@torch.no_grad()
def update(
    params: Mapping[str, torch.Tensor],
    grads: Mapping[str, torch.Tensor],
    buffers: Buffers,
    counts: dict[str, int],
    *,
    lr: float,
    optimizer: Optimizer,
) -> None:
    """One step, in place; a parameter without a gradient stays as it is, and so do its buffers.

    Args:
        params: name -> tensor.
        grads: name -> gradient.
        buffers: kind -> name -> tensor: "momentum", or "adam_m" and "adam_v".
        counts: name -> updates so far.
        lr: learning rate.
        optimizer: its kind, decays and trust.
    """
    for name, grad in grads.items():
        param = params[name]
        counts[name] = counts.get(name, 0) + 1
        if optimizer.kind == "adam":
            _adam(param, grad + optimizer.weight_decay * param, name, buffers, counts[name], lr)
            continue
        step = (
            larc(param, grad, optimizer.weight_decay, optimizer.trust)
            if optimizer.kind == "larc_sgd"
            else grad + optimizer.weight_decay * param
        )
        momentum = buffers["momentum"]
        momentum[name] = optimizer.momentum * momentum[name] + step if name in momentum else step.clone()
        param.sub_(lr * momentum[name])


def larc(param: torch.Tensor, grad: torch.Tensor, weight_decay: float, trust: float) -> torch.Tensor:
    """(g + wd p) * trust |p| / (|g| + wd |p| + 1e-8), or g where a norm is 0 (You et al. 2017)."""
    param_norm, grad_norm = torch.norm(param), torch.norm(grad)
    if param_norm == 0 or grad_norm == 0:
        return grad
    rate = trust * param_norm / (grad_norm + weight_decay * param_norm + LARC_EPSILON)
    return (grad + weight_decay * param) * rate


def _adam(param: torch.Tensor, grad: torch.Tensor, name: str, buffers: Buffers, count: int, lr: float) -> None:
    first, second = (buffers[kind].setdefault(name, torch.zeros_like(param)) for kind in ("adam_m", "adam_v"))
    first.mul_(BETAS[0]).add_(grad, alpha=1 - BETAS[0])
    second.mul_(BETAS[1]).add_(grad * grad, alpha=1 - BETAS[1])
    mean, square = first / (1 - BETAS[0] ** count), second / (1 - BETAS[1] ** count)
    param.sub_(lr * mean / (square.sqrt() + ADAM_EPSILON))


@torch.no_grad()
def larc_sgd(
    params: Mapping[str, torch.Tensor],
    grads: Mapping[str, torch.Tensor],
    momentum: Mapping[str, torch.Tensor],
    *,
    lr: float,
    weight_decay: float,
    trust: float,
    decay: float = 0.9,
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor]]:
    """New parameters and buffers after one step of LARC + SGD; the given ones stay as they are."""
    new_params, new_momentum = {}, {}
    for name, param in params.items():
        new_momentum[name] = decay * momentum[name] + larc(param, grads[name], weight_decay, trust)
        new_params[name] = param - lr * new_momentum[name]
    return new_params, new_momentum
