"""SwAV in PyTorch as one would otherwise write it, behind the contract's Trainer.

It claims neither Views (Pillow rounds to bytes after each change) nor Maths (its exponentials overflow for scores that
are no cosines). What it trains is the specified method all the same.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import SimpleNamespace
from typing import ClassVar

import numpy as np
import torch

from swav_plain_torch import loss, multicrop, optimizer, queue, sinkhorn, train
from swav_plain_torch.device import MODES, PlainTorchDevice
from swav_plain_torch.train import State
from swav_spec.config import Config, Execution
from swav_spec.contract import Part
from swav_spec.multicrop import CropPlan


class PlainTorchImplementation(PlainTorchDevice):
    """Trainer in eager PyTorch."""

    fulfils: ClassVar[tuple[Part, ...]] = ("trainer",)
    modes: ClassVar[tuple[str, ...]] = MODES
    #: What is right for cosines, and so for SwAV, but not for all that Maths must take: to be timed, not judged.
    timed_maths: ClassVar[SimpleNamespace | None] = SimpleNamespace(
        sinkhorn=sinkhorn.sinkhorn,
        swapped_loss=loss.swapped_loss_and_gradient,
        queue_read=queue.queue_read,
        queue_push=queue.queue_push,
        larc_sgd=optimizer.larc_sgd,
    )

    def __init__(self, execution: Execution) -> None:
        super().__init__(execution)
        self._training = train.Training(self)

    def init(self, config: Config, weights: Mapping[str, np.ndarray]) -> State:
        return train.initial_state(self, config, weights)

    def step(self, state: State, images: torch.Tensor, plan: CropPlan) -> tuple[State, dict[str, torch.Tensor]]:
        made = multicrop.make_views(images.numpy(), plan, state.config.augmentation)
        return self.step_on_views(state, [torch.from_numpy(view).to(self.device, self.dtype) for view in made])

    def step_on_views(self, state: State, views: Sequence[torch.Tensor]) -> tuple[State, dict[str, torch.Tensor]]:
        self.activate()
        return self._training.step(state, views)

    def loss_and_grads(self, state: State, views: Sequence[torch.Tensor]) -> tuple[float, dict[str, np.ndarray]]:
        self.activate()
        found, grads = self._training.loss_and_grads(state, views)
        names = (name for name, _ in state.model.named_parameters())
        return float(found), {name: self.to_host(grad) for name, grad in zip(names, grads, strict=True)}

    def forward(
        self, state: State, views: Sequence[torch.Tensor], *, train: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        self.activate()
        features, embeddings, scores = self._training.forward(state, views, train=train)
        return features, embeddings, scores

    def encoder_step(self, state: State, views: Sequence[torch.Tensor]) -> torch.Tensor:
        self.activate()
        return self._training.encoder_step(state, views)

    def embed(self, state: State, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        features, embeddings, _ = self._whole(state, images)
        return features, embeddings

    def assign(self, state: State, images: torch.Tensor) -> torch.Tensor:
        return self._whole(state, images)[2].argmax(dim=1)

    def _whole(self, state: State, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Features, embeddings and scores of whole images."""
        pixels = multicrop.normalised(images.numpy(), state.config.augmentation)
        return self.forward(state, [torch.from_numpy(pixels).to(self.device, self.dtype)], train=False)

    def to_arrays(self, state: State) -> dict[str, np.ndarray]:
        return train.to_arrays(self, state)

    def from_arrays(self, config: Config, arrays: Mapping[str, np.ndarray]) -> State:
        return train.from_arrays(self, config, arrays)
