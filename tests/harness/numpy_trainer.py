"""The specification's network behind the contract, forward only: what the harness says of weights, without a framework.

Children import it as `numpy_trainer:NumpyTrainer`.
"""

from __future__ import annotations

from types import SimpleNamespace
from typing import ClassVar

import numpy as np

from swav_spec.implementation import NumpyImplementation
from swav_spec.optimizer import normalize_rows
from swav_spec.testing.reference_network import Pass


class NumpyTrainer(NumpyImplementation):
    fulfils: ClassVar = ("maths", "views", "trainer")

    def init(self, config, weights):
        return SimpleNamespace(config=config, weights=dict(weights))

    def forward(self, state, views, *, train):
        weights = state.weights | {"prototypes.weight": normalize_rows(state.weights["prototypes.weight"])}
        outcome = Pass(state.config.network, weights, views, train=train)
        return outcome.features, outcome.embeddings, outcome.scores


class Broken(NumpyTrainer):
    """Fails as a framework may."""

    def forward(self, state, views, *, train):
        raise RuntimeError("the device has gone")


class NotFinite(NumpyTrainer):
    """As weights of another method may."""

    def forward(self, state, views, *, train):
        return tuple(
            np.where(array > array.min(), array, np.nan) for array in super().forward(state, views, train=train)
        )
