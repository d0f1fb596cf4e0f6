"""Every planted fault is found by the property meant for it, and edits that change nothing by none."""

from pathlib import Path

import pytest

from swav_spec.testing import faults, suite
from swav_spec.testing.properties import all_properties
from swav_spec.testing.reference import Reference
from swav_spec.testing.subject import Subject

PAGE = Path(__file__).parents[1] / "FAULTS.md"
ALL = [fault for of_idea in faults.FAULTS.values() for fault in of_idea]


@pytest.mark.parametrize("fault", ALL, ids=lambda fault: fault.what)
def test_is_found(fault):
    outcome = faults.judged(fault, fault.target)
    assert outcome.status == "failed", f"survived {fault.target}"
    # A crash would be found by anything; the property itself has to see the difference.
    assert not outcome.crashed, outcome.reason


@pytest.mark.parametrize("edit", faults.HARMLESS, ids=lambda edit: edit.what)
def test_harmless_edit_survives(edit):
    outcome = faults.killer(edit)
    assert outcome is None, f"{outcome.property.name}: {outcome.reason}"


def test_planting_leaves_no_trace():
    fault = ALL[0]
    assert faults.judged(fault, fault.target).status == "failed"
    item = next(item for item in all_properties() if item.name == fault.target)
    assert suite.run(item, Subject(Reference())).status == "passed"


def test_there_are_enough_of_each_idea():
    assert len(ALL) >= 60
    assert len({fault.what for fault in ALL}) == len(ALL)
    assert all(len(of_idea) >= 6 for of_idea in faults.FAULTS.values())
    assert len(faults.HARMLESS) >= 3


def test_page_is_up_to_date():
    killed = {fault.what: fault.target for fault in ALL}
    assert PAGE.read_text(encoding="utf-8") == faults.table(killed), (
        f"run python -m swav_spec.testing.faults tests/{PAGE.name}"
    )
