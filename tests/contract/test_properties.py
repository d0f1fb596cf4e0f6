"""Every property of the suite, on the implementation under test, in each precision that it is tested in.

What an implementation does not have is not collected; the specification itself is judged with its plan,
schedule and NumPy trainer.
"""

from __future__ import annotations

import pytest

from swav_spec import registry
from swav_spec.config import Execution
from swav_spec.implementation import NumpyImplementation
from swav_spec.testing import suite
from swav_spec.testing.counterexamples import COUNTEREXAMPLES
from swav_spec.testing.properties import all_properties
from swav_spec.testing.reference import Reference
from swav_spec.testing.subject import Subject

_SUBJECTS: dict[Execution, Subject] = {}


def pytest_generate_tests(metafunc):
    """Pairs of property and precision that apply."""
    if "item" not in metafunc.fixturenames:
        return
    config = metafunc.config
    name, asked = config.getoption("implementation"), config.getoption("precision")
    default = ("float64",) if name == "numpy" else ("float64", "float32")
    executions = [
        Execution(config.getoption("device"), precision, config.getoption("mode"))
        for precision in ((asked,) if asked else default)
    ]
    pairs = [
        (item, execution)
        for execution in executions
        for item in all_properties()
        if not suite.why_not_applicable(item, _subject(name, execution))
    ]
    ids = [f"{item.name}-{execution.precision}" for item, execution in pairs]
    metafunc.parametrize(("item", "execution"), pairs, ids=ids)


def _subject(name, execution):
    if execution not in _SUBJECTS:
        implementation = registry.load(name, execution)
        if isinstance(implementation, NumpyImplementation):
            implementation = Reference(execution)
        _SUBJECTS[execution] = Subject(implementation)
    return _SUBJECTS[execution]


def test_property(item, execution, request):
    outcome = suite.run(item, _subject(request.config.getoption("implementation"), execution))
    assert outcome.status == "passed", (
        f"{item.statement}\n{outcome.reason}\nsmallest counterexample: {suite.rendered(outcome.counterexample)}"
    )


@pytest.mark.parametrize("false", COUNTEREXAMPLES, ids=lambda false: false.name)
def test_false_statement_has_its_counterexample(false, implementation):
    false.show(Subject(implementation))
