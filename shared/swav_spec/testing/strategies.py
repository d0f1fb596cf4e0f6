"""What properties are tried on. Shapes come from short fixed lists, so that nothing recompiles; values are free.

An array is a shape, a kind and a seed, whatever its size, so that a counterexample shrinks to the smallest shape
and the simplest kind that still fail. Every number is exact in float32, so that each precision judges the same
problem.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import hypothesis.strategies as st
import numpy as np
from hypothesis.strategies import SearchStrategy

#: [N, K], the smallest first: Hypothesis shrinks towards the front.
SHAPES = ((2, 2), (3, 3), (1, 3), (3, 1), (12, 8))
#: (epsilon, iterations).
SETTINGS = ((0.05, 3), (0.5, 1), (0.1, 2), (1.0, 5), (0.02, 3))
#: [V, B, K].
LOSS_SHAPES = ((2, 1, 2), (2, 2, 2), (3, 2, 3), (4, 3, 3), (6, 5, 7))
TEMPERATURES = (1.0, 0.1, 0.5)
ASSIGNED = ((0, 1), (0,), (1,), (2, 0), (0, 1, 2))
#: Codes are multiples of one over this, so that their rows sum to 1 exactly.
CODE_PARTS = 64
#: Of arrays, the simplest first: what training meets, and what breaks wrong code.
KINDS = ("quarters", "cosines", "uniform", "peaked", "duplicates", "zeros")

seeds = st.integers(0, 2**16 - 1)


def generator(seed: int) -> np.random.Generator:
    """The source of an input's numbers."""
    return np.random.Generator(np.random.PCG64(seed))


def exact(array: np.ndarray) -> np.ndarray:
    """Rounded to float32, as float64."""
    return np.asarray(array, dtype=np.float32).astype(np.float64)


def coarse(array: np.ndarray) -> np.ndarray:
    """Rounded to the 11 bits of TF32's numbers, as float64: products of them are exact in TF32 and in float32."""
    mantissa, exponent = np.frexp(np.asarray(array, dtype=np.float64))
    return np.ldexp(np.round(np.ldexp(mantissa, 11)), exponent - 11)


def arrays(shape: tuple[int, ...], largest: float = 1.0) -> SearchStrategy[np.ndarray]:
    """Numbers in [-largest, largest], of any kind of `bulk`."""
    return st.builds(lambda kind, seed: exact(largest * bulk(kind, shape, seed)), st.sampled_from(KINDS), seeds)


def bulk(kind: str, shape: tuple[int, ...], seed: int) -> np.ndarray:
    """An array within [-1, 1]. Quarters have many ties; zeros are whole rows of them too, as dead embeddings' are."""
    random = generator(seed)
    rows, columns = math.prod(shape[:-1]), shape[-1]
    if kind == "quarters":
        values = random.integers(-4, 5, (rows, columns)) / 4
    elif kind == "cosines":
        samples, prototypes = random.normal(size=(rows, 16)), random.normal(size=(columns, 16))
        samples /= np.linalg.norm(samples, axis=1, keepdims=True)
        prototypes /= np.linalg.norm(prototypes, axis=1, keepdims=True)
        values = samples @ prototypes.T
    elif kind == "peaked":
        values = random.uniform(-0.2, 0.2, (rows, columns))
        values[np.arange(rows), random.integers(columns, size=rows)] = 1.0
    else:
        values = random.uniform(-1, 1, (rows, columns))
        if kind == "duplicates":
            values = values[random.integers(max(rows // 2, 1), size=rows)]
        elif kind == "zeros":
            values[random.random(rows) < 0.5] = 0.0
    return values.reshape(shape)


class Problem(NamedTuple):
    """What Sinkhorn is asked: scores [N, K] and its settings."""

    scores: np.ndarray
    epsilon: float
    iterations: int

    @property
    def settings(self) -> dict[str, float]:
        return {"epsilon": self.epsilon, "iterations": self.iterations}


@st.composite
def problems(draw: st.DrawFn, largest: float = 1.0, shapes: tuple = SHAPES, settings: tuple = SETTINGS) -> Problem:
    """Scores in [-largest, largest]; SwAV's are cosines."""
    shape = draw(st.sampled_from(shapes))
    epsilon, iterations = draw(st.sampled_from(settings))
    return Problem(draw(arrays(shape, largest)), epsilon, iterations)


class Prediction(NamedTuple):
    """What the loss is asked: scores [V, B, K], codes [A, B, K] whose rows sum to 1, and its settings."""

    scores: np.ndarray
    codes: np.ndarray
    temperature: float
    assigned: tuple[int, ...]

    @property
    def settings(self) -> dict[str, object]:
        return {"temperature": self.temperature, "assigned": self.assigned}

    @property
    def logit(self) -> float:
        """Largest |S| / temperature, at least 1: by how much the loss magnifies a rounding of the scores."""
        return max(float(np.abs(self.scores).max()) / self.temperature, 1.0)

    @property
    def slope(self) -> float:
        """1 / (temperature B A (V-1)): the gradient of one score in one term of the loss."""
        views, batch, _ = self.scores.shape
        return 1 / (self.temperature * batch * len(self.assigned) * (views - 1))


@st.composite
def predictions(
    draw: st.DrawFn, views: int | None = None, assigned: tuple[int, ...] | None = None, positive: bool = False
) -> Prediction:
    """Scores in [-1, 1] and codes from one-hot to near uniform.

    Args:
        views: V, any by default.
        assigned: any by default.
        positive: whether every code is greater than 0.
    """
    shape = draw(st.sampled_from([shape for shape in LOSS_SHAPES if views in (None, shape[0])]))
    choices = [choice for choice in ASSIGNED if max(choice) < shape[0]] if assigned is None else [assigned]
    chosen = draw(st.sampled_from(choices))
    codes = code_rows((len(chosen), *shape[1:]), draw(seeds), positive=positive)
    return Prediction(draw(arrays(shape)), codes, draw(st.sampled_from(TEMPERATURES)), chosen)


def code_rows(shape: tuple[int, ...], seed: int, *, positive: bool = False) -> np.ndarray:
    """Rows of multiples of 1 / CODE_PARTS that sum to 1."""
    random = generator(seed)
    least = 1 if positive else 0
    share = random.dirichlet(np.full(shape[-1], random.choice([0.1, 1.0, 10.0])), size=shape[:-1])
    return (random.multinomial(CODE_PARTS - least * shape[-1], share) + least) / CODE_PARTS


class Update(NamedTuple):
    """What the optimiser is asked."""

    params: dict[str, np.ndarray]
    grads: dict[str, np.ndarray | None]
    momentum: dict[str, np.ndarray | None]
    lr: float
    weight_decay: float
    trust: float

    @property
    def settings(self) -> dict[str, float]:
        return {"lr": self.lr, "weight_decay": self.weight_decay, "trust": self.trust}


#: Tensors of every rank that a network has.
TENSORS = {"bias": (2,), "linear": (3, 2), "convolution": (2, 2, 3, 3), "one": (1,)}


@st.composite
def updates(draw: st.DrawFn) -> Update:
    """Tensors with their gradients and buffers; some zero, tiny, or missing."""
    params, grads, momentum = {}, {}, {}
    for name, shape in TENSORS.items():
        p_kind = draw(st.sampled_from(("usual", "zero", "tiny")))
        g_kind = draw(st.sampled_from(("usual", "zero", "tiny", "missing")))
        random = generator(draw(seeds))
        size = {"usual": 1.0, "zero": 0.0, "tiny": 1e-6}
        params[name] = exact(size[p_kind] * random.normal(size=shape))
        grads[name] = None if g_kind == "missing" else exact(size[g_kind] * random.normal(size=shape))
        momentum[name] = exact(random.normal(size=shape)) if draw(st.booleans()) else None
    return Update(
        params,
        grads,
        momentum,
        lr=draw(st.sampled_from((0.5, 0.125, 4.0))),
        weight_decay=draw(st.sampled_from((0.0, 1e-6, 0.01))),
        trust=draw(st.sampled_from((0.001, 0.25))),
    )
