"""What is true of the codes. N rows (samples), K columns (prototypes), L = scores / epsilon, T iterations.

From Q = diag(u) exp(L) diag(v) alone follow the symmetries and the cross-ratios; from the last half step the
exact rows; from Sinkhorn's theory the monotone marginals and the Lipschitz bound.
"""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np

from swav_spec import sinkhorn as specification
from swav_spec import tolerance
from swav_spec.testing import pot
from swav_spec.testing.assertions import assert_close, assert_codes_close
from swav_spec.testing.properties import holds
from swav_spec.testing.strategies import SETTINGS, SHAPES, Problem, exact, generator, problems, seeds
from swav_spec.testing.subject import Subject


def log_bound(subject: Subject, problem: Problem, *, like: np.ndarray | None = None, iterations: int = 0) -> float:
    """Largest change of a code's logarithm that rounding explains; `like`: the largest scores met on the way."""
    return tolerance.codes_log_bound(
        subject.maths,
        iterations=iterations or problem.iterations,
        epsilon=problem.epsilon,
        largest_score=_largest(problem.scores if like is None else like),
    )


def same(
    subject: Subject,
    problem: Problem,
    actual: np.ndarray,
    expected: np.ndarray,
    what: str,
    like: np.ndarray | None = None,
) -> None:
    """Codes agree as far as rounding lets them."""
    assert_codes_close(
        actual,
        expected,
        precision=subject.maths,
        iterations=problem.iterations,
        epsilon=problem.epsilon,
        largest_score=_largest(problem.scores if like is None else like),
        what=what,
    )


def codes(subject: Subject, problem: Problem) -> np.ndarray:
    """The subject's codes of a problem."""
    return subject.sinkhorn(problem.scores, **problem.settings)


@holds("sinkhorn", problem=problems())
def equals_the_specification(subject: Subject, problem: Problem) -> None:
    """The codes are those of the specification."""
    expected = specification.sinkhorn(problem.scores, **problem.settings)
    same(subject, problem, codes(subject, problem), expected, "codes")


@holds("sinkhorn", problem=problems(largest=1000.0))
def finite_for_any_finite_scores(subject: Subject, problem: Problem) -> None:
    """Codes are finite and not negative, and rows sum to 1, for any finite scores (here up to 1,000)."""
    result = codes(subject, problem)
    assert np.isfinite(result).all(), f"codes are not all finite: {result}"
    assert (result >= 0).all(), f"a code is negative: {result.min()}"
    assert_close(
        result.sum(axis=1), np.ones(len(result)), precision=subject.maths, depth=result.shape[1], what="row sums"
    )


@holds("sinkhorn", problem=problems())
def rows_sum_to_one(subject: Subject, problem: Problem) -> None:
    """Every sample's codes sum to 1, and all of them to N."""
    result = codes(subject, problem)
    assert result.shape == problem.scores.shape, f"codes have shape {result.shape}, scores {problem.scores.shape}"
    rows, columns = result.shape
    assert_close(result.sum(axis=1), np.ones(rows), precision=subject.maths, depth=columns, what="row sums")
    assert_close(result.sum(), np.float64(rows), precision=subject.maths, depth=result.size, what="sum of all codes")


@holds("sinkhorn", problem=problems())
def marginals_never_worsen(subject: Subject, problem: Problem) -> None:
    """With more iterations the prototypes' shares never get further from 1/K: L1, L2, both KLs, largest, smallest."""
    most = 4
    slack = np.expm1(log_bound(subject, problem, iterations=most))
    before: dict[str, float] = {}
    for iterations in range(1, most + 1):
        result = subject.sinkhorn(problem.scores, epsilon=problem.epsilon, iterations=iterations).astype(np.float64)
        errors = _marginal_errors(result.sum(axis=0) / result.sum())
        for name, value in errors.items():
            allowed = before.get(name, np.inf)
            assert value <= allowed + slack * (2 + abs(value)), (
                f"{name} of the prototypes' shares grew from {allowed:.6g} to {value:.6g} at iteration {iterations}"
            )
        before = errors


def _marginal_errors(share: np.ndarray) -> dict[str, float]:
    even = 1 / len(share)
    ratio = np.maximum(share, tolerance.SMALLEST_CODE) / even
    return {
        "L1 error": float(np.abs(share - even).sum()),
        "L2 error": float(np.sqrt(np.square(share - even).sum())),
        "KL(share, 1/K)": float((share * np.log(ratio)).sum()),
        "KL(1/K, share)": float(-np.log(ratio).mean()),
        "the largest": float(share.max()),
        "minus the smallest": float(-share.min()),
    }


@holds("sinkhorn", problem=problems(), seed=seeds)
def samples_can_be_permuted(subject: Subject, problem: Problem, seed: int) -> None:
    """Samples in another order get the same codes in that order."""
    order = generator(seed).permutation(len(problem.scores))
    permuted = codes(subject, problem._replace(scores=problem.scores[order]))
    same(subject, problem, permuted, codes(subject, problem)[order], "codes of permuted samples")


@holds("sinkhorn", problem=problems(), seed=seeds)
def prototypes_can_be_permuted(subject: Subject, problem: Problem, seed: int) -> None:
    """Prototypes in another order get the same codes in that order."""
    order = generator(seed).permutation(problem.scores.shape[1])
    permuted = codes(subject, problem._replace(scores=problem.scores[:, order]))
    same(subject, problem, permuted, codes(subject, problem)[:, order], "codes of permuted prototypes")


@holds("sinkhorn", problem=problems(), shift=st.integers(-32, 32))
def a_global_shift_changes_nothing(subject: Subject, problem: Problem, shift: int) -> None:
    """Adding one number to all scores leaves the codes."""
    shifted = problem.scores + shift / 16
    actual = codes(subject, problem._replace(scores=shifted))
    same(subject, problem, actual, codes(subject, problem), "codes after a shift", like=np.append(shifted, 1.0))


@holds("sinkhorn", problem=problems(), seed=seeds)
def a_shift_of_a_prototype_changes_nothing(subject: Subject, problem: Problem, seed: int) -> None:
    """Adding a number to all scores of a prototype leaves the codes: its first scaling takes it out."""
    shift = generator(seed).integers(-16, 17, problem.scores.shape[1]) / 16
    shifted = problem.scores + shift
    actual = codes(subject, problem._replace(scores=shifted))
    same(
        subject,
        problem,
        actual,
        codes(subject, problem),
        "codes after shifts of prototypes",
        like=np.append(shifted, 1.0),
    )


@holds("sinkhorn", problem=problems(), seed=seeds)
def sums_of_a_row_and_a_column_give_even_codes(subject: Subject, problem: Problem, seed: int) -> None:
    """Scores a_b + c_k, constant scores among them, tell samples no prototypes apart: every code is 1/K."""
    rows, columns = problem.scores.shape
    random = generator(seed)
    of_samples, of_prototypes = (random.integers(-8, 9, size) / 16 for size in ((rows, 1), columns))
    scores = of_samples + (of_prototypes if seed % 2 else 0.0)
    even = problem._replace(scores=np.broadcast_to(scores, (rows, columns)))
    same(subject, even, codes(subject, even), np.full((rows, columns), 1 / columns), "codes of a_b + c_k")


@holds("sinkhorn", problem=problems(shapes=((1, 3), (3, 1))))
def one_sample_or_one_prototype_is_even(subject: Subject, problem: Problem) -> None:
    """One sample alone gets 1/K everywhere, one prototype alone gets 1 from everybody."""
    expected = np.full(problem.scores.shape, 1 / problem.scores.shape[1])
    same(subject, problem, codes(subject, problem), expected, "codes")


@holds("sinkhorn", problem=problems(shapes=SHAPES[:2]))
def a_batch_twice_gets_its_codes_twice(subject: Subject, problem: Problem) -> None:
    """Every sample given twice: the same codes, twice."""
    twice = codes(subject, problem._replace(scores=np.concatenate([problem.scores] * 2)))
    same(subject, problem, twice, np.concatenate([codes(subject, problem)] * 2), "codes of a duplicated batch")


@holds("sinkhorn", problem=problems(shapes=SHAPES[:2]))
def prototypes_twice_halve_their_codes(subject: Subject, problem: Problem) -> None:
    """Every prototype given twice: each copy gets half the code."""
    twice = codes(subject, problem._replace(scores=np.concatenate([problem.scores] * 2, axis=1)))
    same(
        subject,
        problem,
        twice,
        np.concatenate([codes(subject, problem) / 2] * 2, axis=1),
        "codes of duplicated prototypes",
    )


@holds("sinkhorn", problem=problems(), factor=st.sampled_from((2.0, 0.5, 10.0)))
def only_scores_over_epsilon_count(subject: Subject, problem: Problem, factor: float) -> None:
    """Scores and epsilon times the same number: the same codes."""
    scaled = problem._replace(scores=problem.scores * factor, epsilon=problem.epsilon * factor)
    same(subject, problem, codes(subject, scaled), codes(subject, problem), "codes of scaled scores and epsilon")


@holds("sinkhorn", problem=problems())
def cross_ratios_are_those_of_the_kernel(subject: Subject, problem: Problem) -> None:
    """q_bk q_cl / (q_bl q_ck) = exp((s_bk + s_cl - s_bl - s_ck) / epsilon) after any number of iterations."""
    result = codes(subject, problem).astype(np.float64)
    rest = np.log(np.maximum(result, tolerance.SMALLEST_CODE)) - problem.scores / problem.epsilon
    # What is left of a cross-ratio, with the first sample and prototype as the other corner.
    second = rest - rest[:1] - rest[:, :1] + rest[:1, :1]
    counted = result > tolerance.SMALLEST_CODE
    counted = counted & counted[:1] & counted[:, :1] & counted[:1, :1]
    found = np.abs(np.where(counted, second, 0.0)).max()
    allowed = 4 * log_bound(subject, problem)
    assert found <= allowed, f"logarithm of a cross-ratio is off by {found:.3g}, allowed {allowed:.3g}"


@holds("sinkhorn", problem=problems(shapes=SHAPES[:2] + SHAPES[4:], settings=((0.5, 3), (0.25, 2))))
def iterations_compose(subject: Subject, problem: Problem) -> None:
    """T iterations are one iteration on epsilon times the log of the codes of T - 1."""
    before = subject.sinkhorn(problem.scores, epsilon=problem.epsilon, iterations=problem.iterations - 1)
    again = problem.epsilon * np.log(before.astype(np.float64))
    composed = subject.sinkhorn(again, epsilon=problem.epsilon, iterations=1)
    like = np.append(again, problem.scores)
    same(subject, problem, composed, codes(subject, problem), "one more iteration on the codes", like=like)


@holds("sinkhorn:keep", problem=problems(settings=SETTINGS[:2]), seed=seeds)
def keep_is_a_slice(subject: Subject, problem: Problem, seed: int) -> None:
    """`keep` gives the last rows of all codes."""
    rows = len(problem.scores)
    keep = (1, rows, max(rows // 2, 1))[seed % 3]
    kept = subject.sinkhorn(problem.scores, keep=keep, **problem.settings)
    same(subject, problem, kept, codes(subject, problem)[rows - keep :], f"the last {keep} rows")


@holds(
    "sinkhorn:all_sum",
    "sinkhorn:all_max",
    problem=problems(settings=SETTINGS[:2]),
    # Few, since some frameworks compile for every number of rows: empty shards in either place, even and uneven ones.
    cut=st.sampled_from((0, 1, 5, 12)),
    share=0.3,
)
def shards_equal_the_whole(subject: Subject, problem: Problem, cut: int) -> None:
    """Rows spread over shards, unequal or empty ones too, get the codes of the undivided rows."""
    rows = len(problem.scores)
    at = cut % (rows + 1)
    shards = np.split(problem.scores, [at, (at + rows) // 2])
    sharded = np.concatenate(subject.sinkhorn_in_shards(shards, **problem.settings))
    same(subject, problem, sharded, codes(subject, problem), f"codes in shards of {[len(s) for s in shards]} rows")


@holds("sinkhorn", problem=problems(), row=st.integers(0, 11))
def a_zero_row_is_finite(subject: Subject, problem: Problem, row: int) -> None:
    """A sample whose scores are all 0, as a zero embedding's are, gets finite codes that sum to 1."""
    scores = problem.scores.copy()
    scores[row % len(scores)] = 0.0
    result = codes(subject, problem._replace(scores=scores))
    assert np.isfinite(result).all(), f"codes are not all finite: {result}"
    assert_close(
        result.sum(axis=1), np.ones(len(result)), precision=subject.maths, depth=result.shape[1], what="row sums"
    )


@holds("sinkhorn", problem=problems(), seed=seeds, size=st.sampled_from((1 / 16, 1 / 2)))
def logarithms_are_lipschitz(subject: Subject, problem: Problem, seed: int, size: float) -> None:
    """Scores changed by at most d change the logarithm of every code by at most 4 T d / epsilon."""
    change = exact(size * generator(seed).uniform(-1, 1, problem.scores.shape))
    moved = codes(subject, problem._replace(scores=problem.scores + change)).astype(np.float64)
    start = codes(subject, problem).astype(np.float64)
    counted = (start > tolerance.SMALLEST_CODE) & (moved > tolerance.SMALLEST_CODE)
    found = np.abs(np.log(moved[counted]) - np.log(start[counted])).max(initial=0.0)
    rounding = 2 * log_bound(subject, problem, like=np.append(problem.scores, 1 + size))
    allowed = 4 * problem.iterations * np.abs(change).max() / problem.epsilon + rounding
    assert found <= allowed, f"the logarithm of a code moved by {found:.3g}, allowed {allowed:.3g}"


@holds("sinkhorn", problem=problems(settings=SETTINGS[:2]))
def low_precision_scores_are_widened(subject: Subject, problem: Problem) -> None:
    """Scores in float16 get the float32 codes of the rounded scores: nothing of Sinkhorn is computed in 16 bits."""
    rounded = problem.scores.astype(np.float16)
    actual = subject.sinkhorn_as_given(rounded, **problem.settings)
    assert_codes_close(
        actual,
        specification.sinkhorn(rounded.astype(np.float64), **problem.settings),
        precision="float32",
        iterations=problem.iterations,
        epsilon=problem.epsilon,
        largest_score=_largest(rounded),
        what="codes of float16 scores",
    )


@holds("sinkhorn", problem=problems())
def zero_iterations_are_refused(subject: Subject, problem: Problem) -> None:
    """No iterations, or an epsilon that is not positive, is an error: the result would not be an assignment."""
    for settings in ({"epsilon": problem.epsilon, "iterations": 0}, {"epsilon": 0.0, "iterations": 1}):
        try:
            subject.sinkhorn(problem.scores, **settings)
        except ValueError:
            continue
        raise AssertionError(f"{settings} must raise ValueError")


@holds("sinkhorn", problem=problems(settings=pot.SETTINGS), oracle="ot")
def equals_an_independent_library(subject: Subject, problem: Problem) -> None:
    """At T iterations the codes are N times POT's transport plan between even marginals at cost -scores."""
    same(subject, problem, codes(subject, problem), pot.codes(problem), "codes against POT")


@holds("sinkhorn", problem=problems(pot.CONVERGED_LARGEST, settings=pot.CONVERGED), oracle="ot")
def converges_to_optimal_transport(subject: Subject, problem: Problem) -> None:
    """After many iterations the codes are N times POT's converged plan, computed there on logarithms."""
    same(subject, problem, codes(subject, problem), pot.codes(problem, converged=True), "converged codes against POT")


@holds("sinkhorn", number=st.integers(0, pot.RECORDED - 1))
def equals_an_independent_library_as_recorded(subject: Subject, number: int) -> None:
    """The codes are those that POT gave when the file beside pot.py was made."""
    problem, expected = pot.recorded()[number]
    same(subject, problem, codes(subject, problem), expected, f"codes against POT's number {number}")


def _largest(scores: np.ndarray) -> float:
    return float(np.abs(scores).max())
