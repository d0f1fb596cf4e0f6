"""What is true of normalised rows: the prototypes before each step, and embeddings."""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np

from swav_spec import optimizer as specification
from swav_spec.schedule import learning_rates
from swav_spec.testing import runs
from swav_spec.testing.assertions import assert_close, assert_same
from swav_spec.testing.properties import holds
from swav_spec.testing.properties.network import FEW, TRAINER, run_seeds
from swav_spec.testing.strategies import arrays, exact, generator, seeds
from swav_spec.testing.subject import Subject

PROTOTYPES = "model/prototypes.weight"
SHAPES = ((2, 2), (3, 3), (8, 5))
rows = st.sampled_from(SHAPES).flatmap(arrays)


def normalised(subject: Subject, array: np.ndarray) -> np.ndarray:
    """The subject's normalised rows, of the shape given."""
    result = subject.normalize_rows(array)
    assert result.shape == array.shape, f"shape {result.shape}, given {array.shape}"
    return result


@holds("normalize_rows", array=rows)
def equals_the_specification(subject: Subject, array: np.ndarray) -> None:
    """Rows are divided by max(their Euclidean norm, 1e-12)."""
    expected = specification.normalize_rows(array)
    assert_close(normalised(subject, array), expected, precision=subject.maths, depth=array.shape[1], what="rows")


@holds("normalize_rows", array=rows)
def rows_have_unit_length(subject: Subject, array: np.ndarray) -> None:
    """A row that is not zero gets length 1, a zero row stays zero."""
    result = normalised(subject, array).astype(np.float64)
    lengths = np.linalg.norm(result, axis=1)
    expected = array.any(axis=1).astype(np.float64)
    # A row of ones beside them, so that all-zero rows have something to be compared with.
    assert_close(
        np.append(lengths, 1), np.append(expected, 1), precision=subject.maths, depth=array.shape[1], what="lengths"
    )


@holds("normalize_rows", seed=seeds, shape=st.sampled_from(SHAPES))
def a_tiny_row_is_not_unit(subject: Subject, seed: int, shape: tuple[int, int]) -> None:
    """A row of norm 1e-20 is divided by 1e-12: noise is not blown up to a direction."""
    array = exact(1e-20 * specification.normalize_rows(generator(seed).normal(size=shape)))
    expected = specification.normalize_rows(array)
    assert_close(normalised(subject, array), expected, precision=subject.maths, depth=shape[1], what="tiny rows")


@holds("normalize_rows", array=rows, power=st.integers(-8, 8))
def length_does_not_count(subject: Subject, array: np.ndarray, power: int) -> None:
    """Rows times a positive number are normalised to the same."""
    result = normalised(subject, array * 2.0**power)
    expected = normalised(subject, array)
    assert_close(result, expected, precision=subject.maths, depth=array.shape[1], what="scaled rows")


@holds("normalize_rows", array=rows)
def twice_is_once(subject: Subject, array: np.ndarray) -> None:
    """Normalised rows are normalised to themselves."""
    once = normalised(subject, array)
    assert_close(normalised(subject, once), once, precision=subject.maths, depth=array.shape[1], what="rows again")


@holds("normalize_rows", array=rows, seed=seeds)
def rows_do_not_see_each_other(subject: Subject, array: np.ndarray, seed: int) -> None:
    """Rows in another order, or of other neighbours, are normalised to the same."""
    order = generator(seed).permutation(len(array))
    assert_same(normalised(subject, array[order]), normalised(subject, array)[order], what="permuted rows")


@holds(*TRAINER, seed=run_seeds, share=FEW)
def training_scores_with_unit_prototypes(subject: Subject, seed: int) -> None:
    """Scores are cosines: of embeddings of unit length, and of prototypes normalised before the step."""
    for step in runs.runs(subject, seed):
        _, embeddings, scores = step.outputs
        lengths = np.linalg.norm(embeddings.astype(np.float64), axis=1)
        step.follows(subject, lengths, np.ones_like(lengths), "lengths of embeddings")
        unit = specification.normalize_rows(step.before[PROTOTYPES])
        expected = embeddings.astype(np.float64) @ unit.T
        if subject.precision == "tf32":  # the only low precision that reaches the scores themselves
            step.close(subject, scores, expected, step.gains.outputs[2], "scores")
        else:
            step.follows(subject, scores, expected, "scores")


@holds(*TRAINER, seed=run_seeds, share=FEW)
def frozen_prototypes_are_only_normalised(subject: Subject, seed: int) -> None:
    """In steps 0 .. freeze_steps - 1 the prototypes become their normalised selves and get no buffer: no gradient,
    no decay, no momentum.
    """
    for step in runs.runs(subject, seed):
        if step.number < step.config.freeze_steps:
            expected = specification.normalize_rows(step.before[PROTOTYPES])
            step.follows(subject, step.after[PROTOTYPES], expected, "frozen prototypes")
            assert "momentum/prototypes.weight" not in step.after, f"{step.where}: frozen prototypes have a buffer"


@holds(*TRAINER, seed=run_seeds, share=FEW)
def freed_prototypes_move(subject: Subject, seed: int) -> None:
    """From step freeze_steps on the prototypes move by the rate times their buffer, and keep the length that gives."""
    for step in runs.runs(subject, seed):
        if step.number >= step.config.freeze_steps:
            buffer = step.after.get("momentum/prototypes.weight")
            assert buffer is not None, f"{step.where}: prototypes have no buffer"
            rate = learning_rates(step.config.schedule)[step.number]
            moved = specification.normalize_rows(step.before[PROTOTYPES]) - rate * buffer
            step.follows(subject, step.after[PROTOTYPES], moved, "prototypes")
            assert np.abs(buffer).max() > 0, f"{step.where}: the prototypes' buffer is 0"
            step.close(
                subject,
                buffer,
                step.expected.after["momentum/prototypes.weight"],
                step.gains.after["momentum/prototypes.weight"],
                "buffer",
            )
