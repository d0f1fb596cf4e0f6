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

#: Functions of the specification that no implementation needs.
OF_SPECIFICATION = {"crop_plan", "learning_rates", "step_settings", "initial_weights"}
_SUBJECTS: dict[Execution, Subject] = {}


def pytest_generate_tests(metafunc):
    """Pairs of property and precision that apply."""
    if "item" not in metafunc.fixturenames:
        return
    name = metafunc.config.getoption("implementation")
    pairs = [
        (item, execution)
        for execution in _executions(metafunc.config)
        for item in all_properties()
        if not suite.why_not_applicable(item, _subject(name, execution))
    ]
    ids = [f"{item.name}-{execution.precision}" for item, execution in pairs]
    metafunc.parametrize(("item", "execution"), pairs, ids=ids)


def _executions(config):
    name, asked = config.getoption("implementation"), config.getoption("precision")
    default = ("float64",) if name == "numpy" else ("float64", "float32")
    return [
        Execution(config.getoption("device"), precision, config.getoption("mode"))
        for precision in ((asked,) if asked else default)
    ]


def _subject(name, execution):
    if execution not in _SUBJECTS:
        implementation = registry.load(name, execution)
        if isinstance(implementation, NumpyImplementation):
            implementation = Reference(execution)
        _SUBJECTS[execution] = Subject(implementation)
    return _SUBJECTS[execution]


@pytest.mark.needs("maths", "views", "trainer")
def test_no_property_is_left_out_silently(request):
    """All but those of the plan, the schedule and the initial weights, which are the specification's alone, apply."""
    name = request.config.getoption("--implementation")
    left_out = {
        (item.name, precision): reason
        for execution in _executions(request.config)
        for precision in [execution.precision]
        for item in all_properties()
        if (reason := suite.why_not_applicable(item, _subject(name, execution)))
    }
    for (item, precision), reason in left_out.items():
        words = reason.replace(",", "").split()
        of_specification = words[:2] == ["has", "no"] and not OF_SPECIFICATION.isdisjoint(words)
        in_float64 = reason == "judged in float64 only" and precision != "float64"
        assert of_specification or in_float64, f"{item} in {precision}: {reason}"


def test_property(item, execution, request):
    outcome = suite.run(item, _subject(request.config.getoption("implementation"), execution))
    assert outcome.status == "passed", (
        f"{item.statement}\n{outcome.reason}\nsmallest counterexample: {suite.rendered(outcome.counterexample)}"
    )


@pytest.mark.needs("maths")
@pytest.mark.parametrize("false", COUNTEREXAMPLES, ids=lambda false: false.name)
def test_false_statement_has_its_counterexample(false, implementation):
    false.show(Subject(implementation))
