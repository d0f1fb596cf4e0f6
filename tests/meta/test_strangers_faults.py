"""Faults by somebody who has not read the properties are found too."""

import pytest

from swav_spec.testing import faults
from swav_spec.testing.strangers_faults import STRANGERS_FAULTS, WRITTEN_AFTERWARDS


@pytest.mark.parametrize("fault", STRANGERS_FAULTS, ids=lambda fault: fault.what)
def test_is_found(fault):
    outcome = faults.judged(fault, fault.target)
    assert outcome.status == "failed", f"survived {fault.target}"
    # A crash would be found by anything; the property itself has to see the difference.
    assert not outcome.crashed, outcome.reason


def test_written_afterwards_names_their_killers():
    assert {fault.target for fault in STRANGERS_FAULTS} >= WRITTEN_AFTERWARDS
