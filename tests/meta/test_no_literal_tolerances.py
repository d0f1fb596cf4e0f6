"""Implementations are judged by the tolerances of swav_spec.tolerance and swav_spec.testing.assertions alone.

So is the specification itself, by independent libraries and by hand. What is not the rounding of arithmetic is no
tolerance: a margin of chance, of a clock or of clipped pixels stands under a name of its own, with its reason.
"""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
HOMES = {ROOT / "shared/swav_spec/tolerance.py", ROOT / "shared/swav_spec/testing/assertions.py"}
#: Where the specification and implementations are judged and compared. Tests of data and of the harness compare
#: percentages of a few digits, scikit-learn's probabilities, shares of pixels: no rule would be theirs in common.
PLACES = (
    "shared/swav_spec/testing",
    "tests/spec",
    "tests/contract",
    "tests/parity",
    "tests/meta",
    "benchmarks/micro",
    "benchmarks/swav_bench",
)
FILES = sorted({path for place in PLACES for path in (ROOT / place).rglob("*.py")} - HOMES)
#: Arguments and functions that carry a tolerance of their own.
ARGUMENTS = {"rtol", "atol", "rel", "abs", "abs_tol", "rel_tol", "decimal", "significant", "delta", "places"}
FUNCTIONS = {"allclose", "isclose", "assert_allclose", "assert_almost_equal", "assert_array_almost_equal", "approx"}
#: A number this small, compared with or added to something, is a tolerance.
SMALL = 1e-2


def called(node):
    return node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")


def is_small_number(node):
    if isinstance(node, ast.UnaryOp):
        return is_small_number(node.operand)
    return isinstance(node, ast.Constant) and isinstance(node.value, float) and 0 < abs(node.value) <= SMALL


def literal_tolerances(tree):
    """(line, what) of each literal tolerance in a module."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Call) and called(node) in FUNCTIONS:
            yield node.lineno, f"{called(node)} has a tolerance of its own"
        elif isinstance(node, ast.keyword) and node.arg in ARGUMENTS and isinstance(node.value, ast.Constant):
            yield node.value.lineno, f"{node.arg} = {node.value.value}"
        elif isinstance(node, ast.Compare) and any(map(is_small_number, node.comparators)):
            inequality = any(isinstance(op, ast.Lt | ast.LtE) for op in node.ops)
            if inequality:
                yield node.lineno, "compared with a small number"


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_literal_tolerance(path):
    found = list(literal_tolerances(ast.parse(path.read_text(encoding="utf-8"))))
    assert not found, "\n".join(f"{path.relative_to(ROOT)}:{line}: {what}" for line, what in found)


@pytest.mark.parametrize(
    "text",
    [
        "np.testing.assert_allclose(a, b)",
        "assert x == pytest.approx(2)",
        "close(a, b, rtol=1e-3)",
        "assert abs(a - b) < 1e-6",
    ],
)
def test_the_search_finds_what_it_is_for(text):
    assert list(literal_tolerances(ast.parse(text)))
