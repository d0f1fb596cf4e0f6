"""SwAV in PyTorch, behind the contract of swav_spec.contract."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import numpy as np
import torch

from swav_spec.config import Config, Cropped, Execution, Network
from swav_spec.contract import Part
from swav_spec.multicrop import CropPlan, GroupPlan
from swav_spec.supervised import Supervised, check_labels, check_plan
from swav_torch import loss, multicrop, optimizer, queue, sinkhorn, supervised, train
from swav_torch.device import MODES, TorchDevice
from swav_torch.supervised import ClassifierState
from swav_torch.train import State


class TorchImplementation(TorchDevice):
    """Maths, Views, Trainer and Classifier in PyTorch: eager, compiled by torch.compile, or captured as CUDA graphs."""

    fulfils: ClassVar[tuple[Part, ...]] = ("maths", "views", "trainer", "classifier")
    modes: ClassVar[tuple[str, ...]] = MODES

    def __init__(self, execution: Execution) -> None:
        super().__init__(execution)
        self._training = train.Training(self)
        self._classifying = supervised.ClassifierTraining(self)
        self._make_views = self.compile(multicrop.make_views) if self.mode == "compile" else multicrop.make_views
        self._taps: dict[int, tuple[int, int]] = {}

    normalize_rows = staticmethod(optimizer.normalize_rows)
    sinkhorn = staticmethod(sinkhorn.sinkhorn)
    swapped_loss = staticmethod(loss.swapped_loss)
    queue_push = staticmethod(queue.queue_push)
    larc_sgd = staticmethod(optimizer.larc_sgd)

    def queue_read(self, queue_: torch.Tensor, count: int, prototypes: torch.Tensor) -> torch.Tensor | None:
        self.activate()
        return queue.queue_read(queue_, count, prototypes)

    @torch.no_grad()
    def views(self, images: torch.Tensor, plan: CropPlan, config: Cropped) -> list[torch.Tensor]:
        multicrop.check_images(images)
        multicrop.check_plan(images, plan)
        return [self._views_of_group(images, group, plan.index, config) for group in plan.groups]

    def _views_of_group(
        self, images: torch.Tensor, group: GroupPlan, index: np.ndarray, config: Cropped
    ) -> torch.Tensor:
        taps, blurred = multicrop.most_taps(group), None
        if self.mode == "compile":
            # A program for each new shape: so all crops are blurred, and taps never become fewer, which changes no bit.
            taps = tuple(map(max, taps, self._taps.get(group.size, taps)))
            self._taps[group.size] = taps
        else:
            blurred = self.send(multicrop.blurred_crops(group))
        return self._make_views(
            images,
            self.send(multicrop.pack(group, index)),
            size=group.size,
            taps=taps,
            mean=config.augmentation.mean,
            std=config.augmentation.std,
            dtype=self.dtype,
            blurred=blurred,
        )

    def init(self, config: Config, weights: Mapping[str, np.ndarray]) -> State:
        return train.initial_state(self, config, weights)

    def step(self, state: State, images: torch.Tensor, plan: CropPlan) -> tuple[State, dict[str, torch.Tensor]]:
        return self.step_on_views(state, self.views(images, plan, state.config))

    def step_on_views(self, state: State, views: Sequence[torch.Tensor]) -> tuple[State, dict[str, torch.Tensor]]:
        self.activate()
        return self._training.step(state, views)

    def loss_and_grads(self, state: State, views: Sequence[torch.Tensor]) -> tuple[float, dict[str, np.ndarray]]:
        self.activate()
        return self._training.loss_and_grads(state, views)

    @torch.no_grad()
    def forward(
        self, state: State, views: Sequence[torch.Tensor], *, train: bool
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        self.activate()
        return self._training.forward(state, views, train=train)

    def encoder_step(self, state: State, views: Sequence[torch.Tensor]) -> torch.Tensor:
        self.activate()
        return self._training.encoder_step(state, views)

    def embed(self, state: State, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        return self._whole(state, images)[:2]

    def assign(self, state: State, images: torch.Tensor) -> torch.Tensor:
        return self._whole(state, images)[2].argmax(dim=1)

    def _whole(self, state: State, images: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """Features, embeddings and scores of whole images."""
        multicrop.check_images(images)
        looks = state.config.augmentation
        return self.forward(state, [multicrop.normalised(images, looks.mean, looks.std, self.dtype)], train=False)

    def to_arrays(self, state: State) -> dict[str, np.ndarray]:
        return train.to_arrays(self, state)

    def from_arrays(self, config: Config, arrays: Mapping[str, np.ndarray]) -> State:
        return train.from_arrays(self, config, arrays)

    def init_classifier(
        self, config: Supervised, network: Network, weights: Mapping[str, np.ndarray], classes: int, seed: int
    ) -> ClassifierState:
        return supervised.initial_state(self, config, network, weights, classes, seed)

    def classifier_step(
        self, state: ClassifierState, images: torch.Tensor, labels: torch.Tensor, plan: CropPlan
    ) -> tuple[ClassifierState, dict[str, torch.Tensor]]:
        check_plan(state.config, plan, batch=state.config.batch)
        check_labels(images.shape, labels.shape)
        (view,) = self.views(images, plan, state.config)
        self.activate()
        return self._classifying.step(state, view, labels.index_select(0, self.send(plan.index)).long())

    def classify(self, state: ClassifierState, images: torch.Tensor, plan: CropPlan) -> torch.Tensor:
        check_plan(state.config, plan)
        (view,) = self.views(images, plan, state.config)
        self.activate()
        return supervised.classify(state, view)

    def classifier_arrays(self, state: ClassifierState) -> dict[str, np.ndarray]:
        return supervised.classifier_arrays(self, state)

    def describe(self) -> dict[str, Any]:
        self.activate()
        return super().describe()
