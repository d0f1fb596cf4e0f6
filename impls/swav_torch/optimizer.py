"""Updates: LARC over SGD with momentum (You et al. 2017, as the published recipes use it), plain SGD, and Adam.

All tensors are treated alike and together (torch._foreach_*); norms stay on the device, so no tensor makes the host
wait. Lists of tensors change in place; `larc_sgd` is the same on copies.
"""
# ruff: noqa: SLF001 - torch._foreach_*, which torch.optim is made of, have no other name.

from __future__ import annotations

from collections.abc import Mapping

import torch
import torch.nn.functional as F  # noqa: N812 - its usual name
from torch.optim.adam import adam

from swav_spec.config import Optimizer
from swav_spec.optimizer import LARC_EPSILON
from swav_torch.sinkhorn import widened

Tensors = list[torch.Tensor]


def normalize_rows(tensor: torch.Tensor) -> torch.Tensor:
    """Each row over max(its Euclidean norm, 1e-12), along the last axis: a zero row stays zero."""
    return F.normalize(widened(tensor), dim=-1, eps=1e-12)


def larc_sgd(
    params: Mapping[str, torch.Tensor],
    grads: Mapping[str, torch.Tensor | None],
    momentum: Mapping[str, torch.Tensor | None],
    *,
    lr: float,
    weight_decay: float,
    trust: float,
    decay: float = 0.9,
) -> tuple[dict[str, torch.Tensor], dict[str, torch.Tensor | None]]:
    """One step. Per tensor p with gradient g:

        g' = (g + weight_decay p) * trust |p| / (|g| + weight_decay |p| + 1e-8)   unless |p| or |g| is 0:  g' = g
        buffer = decay buffer + g'        (the first time: g')
        p = p - lr buffer

    Args:
        params: name -> tensor.
        grads: name -> gradient of the same shape, or None: that tensor and its buffer stay as they are.
        momentum: name -> buffer, or None where there is none yet.
        lr: learning rate; outside the buffer, so that a change acts at once.
        weight_decay, trust, decay: see above.

    Returns:
        New parameters and new buffers; the given ones stay as they are.
    """
    new_params = {name: widened(value).clone() for name, value in params.items()}
    new_momentum = {name: None if (b := momentum.get(name)) is None else widened(b).clone() for name in params}
    names = [name for name in params if grads[name] is not None]
    if names:
        for name in names:
            if new_momentum[name] is None:
                new_momentum[name] = torch.zeros_like(new_params[name])
        values = [new_params[name] for name in names]
        gradients = larc_scaled(values, [widened(grads[name]) for name in names], weight_decay, trust)
        descend(values, gradients, [new_momentum[name] for name in names], values[0].new_tensor(lr), decay)
    return new_params, new_momentum


@torch.no_grad()
def update_sgd(params: Tensors, grads: Tensors, buffers: Tensors, lr: torch.Tensor, optimizer: Optimizer) -> None:
    """One step of "larc_sgd" or "sgd", in place; a buffer that was never used is all zeros."""
    if optimizer.kind == "larc_sgd":
        grads = larc_scaled(params, grads, optimizer.weight_decay, optimizer.trust)
    else:
        grads = torch._foreach_add(grads, params, alpha=optimizer.weight_decay)
    descend(params, grads, buffers, lr, optimizer.momentum)


@torch.no_grad()
def update_adam(
    params: Tensors,
    grads: Tensors,
    means: Tensors,
    squares: Tensors,
    counts: Tensors,
    lr: torch.Tensor,
    optimizer: Optimizer,
) -> None:
    """One step of torch.optim.Adam with its usual decays, in place; weight decay is added to the gradient.

    Args:
        params, grads: as above.
        means, squares: running means of g and g^2.
        counts: updates so far, [] float32 for each tensor.
        lr: [].
        optimizer: its weight decay is used.
    """
    on_gpu = params[0].is_cuda
    adam(
        params,
        grads,
        means,
        squares,
        [],
        counts,
        foreach=on_gpu,
        capturable=on_gpu,  # keeps the counts on the device, where no step waits for them
        amsgrad=False,
        beta1=0.9,
        beta2=0.999,
        lr=lr,
        weight_decay=optimizer.weight_decay,
        eps=1e-8,
        maximize=False,
    )


def larc_scaled(params: Tensors, grads: Tensors, weight_decay: float, trust: float) -> Tensors:
    """The g' of `larc_sgd` for each tensor."""
    p_norm = torch.stack(torch._foreach_norm(params))
    g_norm = torch.stack(torch._foreach_norm(grads))
    scaled = (p_norm != 0) & (g_norm != 0)
    ratio = torch.where(scaled, trust * p_norm / (g_norm + weight_decay * p_norm + LARC_EPSILON), 1.0)
    weight_decays = scaled.to(ratio.dtype) * weight_decay
    result = torch._foreach_mul(params, list(weight_decays.unbind()))
    torch._foreach_add_(result, grads)
    torch._foreach_mul_(result, list(ratio.unbind()))
    return result


def descend(params: Tensors, grads: Tensors, buffers: Tensors, lr: torch.Tensor, decay: float) -> None:
    """In place: buffer = decay buffer + g', then p = p - lr buffer."""
    torch._foreach_mul_(buffers, decay)
    torch._foreach_add_(buffers, grads)
    torch._foreach_sub_(params, torch._foreach_mul(buffers, lr))
