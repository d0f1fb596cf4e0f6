"""Every planted fault is found by the property meant for it, and edits that change nothing by none."""

from pathlib import Path

import pytest

from swav_spec.testing import fault_page, faults, suite
from swav_spec.testing.properties import all_properties
from swav_spec.testing.reference import Reference
from swav_spec.testing.strangers_faults import STRANGERS_FAULTS
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
    # That each fault is found by its target is what the tests here and in test_strangers_faults.py say.
    killed = {fault: fault.target for fault in fault_page.ALL}
    assert PAGE.read_text(encoding="utf-8") == fault_page.page(killed), (
        f"run python -m swav_spec.testing.fault_page tests/{PAGE.name}"
    )


def test_page_has_every_fault_once():
    rows = [line for line in PAGE.read_text(encoding="utf-8").splitlines() if line.startswith("| ")]
    for fault in fault_page.ALL:
        assert len([row for row in rows if row.startswith(f"| {fault.what} | `{fault.target}`")]) == 1, fault.what
    assert {*ALL, *STRANGERS_FAULTS} == set(fault_page.ALL)
