"""SwAV of lightly's modules: its prototypes, its loss with Sinkhorn inside, and its memory banks for a queue.

Network, views and optimiser are those beside, and so is the order of a step. lightly divides prototypes by their
lengths as they are, so that one of length 0 becomes NaN; the specification leaves it 0.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from typing import Any

import lightly
import numpy as np
import torch
from lightly.loss.swav_loss import SwaVLoss
from lightly.models.modules.heads import SwaVPrototypes
from lightly.models.modules.memory_bank import MemoryBankModule
from torch import nn

from swav_plain_torch import train
from swav_plain_torch.implementation import PlainTorchImplementation
from swav_plain_torch.network import SwAV
from swav_plain_torch.train import PROTOTYPES, State, Training
from swav_spec.config import Config, Execution, Network

#: lightly's own name of what is published as `prototypes.weight`.
HEAD = "prototypes.heads.0.weight"


class Prototypes(SwaVPrototypes):
    """lightly's, of one head, without its bias: SwAV has none, and its gradient could be compared with nothing."""

    def __init__(self, network: Network) -> None:
        super().__init__(network.embedding, network.prototypes)
        self.heads[0].bias = None

    @property
    def weight(self) -> nn.Parameter:
        """[K, D]."""
        return self.heads[0].weight


class LightlySwAV(SwAV):
    """The network with lightly's prototypes, which go by their published name outside."""

    def __init__(self, network: Network) -> None:
        super().__init__(network)
        self.prototypes = Prototypes(network)

    def normalise_prototypes(self) -> None:
        self.prototypes.normalize()

    def named_parameters(self, *args: Any, **kwargs: Any) -> Iterator[tuple[str, nn.Parameter]]:
        """See torch.nn.Module."""
        for name, parameter in super().named_parameters(*args, **kwargs):
            yield PROTOTYPES if name == HEAD else name, parameter

    def state_dict(self, *args: Any, **kwargs: Any) -> dict[str, torch.Tensor]:
        """See torch.nn.Module."""
        tensors = super().state_dict(*args, **kwargs)
        return {PROTOTYPES if name == HEAD else name: tensor for name, tensor in tensors.items()}

    def load_state_dict(self, state_dict: Mapping[str, torch.Tensor], *args: Any, **kwargs: Any) -> Any:
        """See torch.nn.Module."""
        own = {HEAD if name == PROTOTYPES else name: tensor for name, tensor in state_dict.items()}
        return super().load_state_dict(own, *args, **kwargs)


class Loss(SwaVLoss):
    """lightly's, which keeps the codes of each assigned view, as metrics are of them."""

    def __init__(self, config: Config) -> None:
        super().__init__(
            temperature=config.temperature, sinkhorn_iterations=config.iterations, sinkhorn_epsilon=config.epsilon
        )
        self.codes: list[torch.Tensor] = []

    def subloss(self, z: torch.Tensor, q: torch.Tensor) -> torch.Tensor:
        """Cross-entropy [] of scores and codes [B, K]; called with the same codes for each view that predicts them."""
        if not self.codes or self.codes[-1] is not q:
            self.codes.append(q)
        return super().subloss(z, q)


class LightlyTraining(Training):
    """Steps whose loss, codes and queue are lightly's; the queue of a state is a memory bank for each assigned view."""

    def compare(
        self, state: State, scores: torch.Tensor, *, use_queue: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        config = state.config
        # What lightly calls high resolution are the views that get codes, whatever their size; all others only predict.
        assigned = [scores[view] for view in config.assigned]
        others = [scores[view] for view in range(config.views) if view not in config.assigned]
        finite = torch.stack([torch.isfinite(rows).all() for rows in assigned])
        queued = None
        if use_queue:
            with torch.no_grad():
                queued = [state.model.prototypes(bank.bank) for bank in state.queue]
            finite &= torch.stack([torch.isfinite(rows).all() for rows in queued])
        criterion = Loss(config)
        loss = criterion(assigned, others, queued)[0]
        return loss, torch.stack(criterion.codes), finite

    def push(self, state: State, embeddings: torch.Tensor) -> None:
        for bank, rows in zip(state.queue, embeddings, strict=True):
            bank(rows, update=True)
        state.queue_count += embeddings.shape[1]


def bank_of(rows: torch.Tensor, batch: int) -> MemoryBankModule:
    """A memory bank of rows [R, D], newest batch in front; banks are written in a circle, so the oldest come first."""
    bank = MemoryBankModule(size=tuple(rows.shape)).to(rows.device, rows.dtype)
    bank.bank.copy_(torch.cat(rows.split(batch)[::-1]))
    return bank


def rows_of(bank: MemoryBankModule, batch: int) -> torch.Tensor:
    """[R, D] rows of a memory bank, newest batch in front; the oldest are those to be overwritten next."""
    oldest_first = bank.bank.roll(-int(bank.bank_ptr), dims=0)
    return torch.cat(oldest_first.split(batch)[::-1])


class LightlyImplementation(PlainTorchImplementation):
    """Trainer in eager PyTorch, of lightly's modules."""

    #: Its loss makes the codes itself, and its queue lives in a state: there are no operations of Maths to time alone.
    timed_maths = None

    def __init__(self, execution: Execution) -> None:
        super().__init__(execution)
        self._training = LightlyTraining(self)

    def describe(self) -> dict[str, Any]:
        found = super().describe()
        flags = {"torch": torch.__version__, "prototypes": "without lightly's bias", **found["flags"]}
        return found | {"framework": "lightly", "version": lightly.__version__, "flags": flags}

    def init(self, config: Config, weights: Mapping[str, np.ndarray]) -> State:
        return _with_banks(train.initial_state(self, config, weights, LightlySwAV))

    def to_arrays(self, state: State) -> dict[str, np.ndarray]:
        if state.queue is not None:
            rows = torch.stack([rows_of(bank, state.config.batch) for bank in state.queue])
            state = dataclasses.replace(state, queue=rows)
        return train.to_arrays(self, state)

    def from_arrays(self, config: Config, arrays: Mapping[str, np.ndarray]) -> State:
        return _with_banks(train.from_arrays(self, config, arrays, LightlySwAV))


def _with_banks(state: State) -> State:
    """The state with its queue [A, R, D] in memory banks."""
    if state.queue is not None:
        state.queue = nn.ModuleList(bank_of(rows, state.config.batch) for rows in state.queue)
    return state
