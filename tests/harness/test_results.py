"""Committed reports are what their records give: regenerated here, nothing differs."""

from __future__ import annotations

from pathlib import Path

import pytest

from swav_bench import goals, records, report

RESULTS = Path(__file__).parents[2] / "results"
FOLDERS = sorted(path.parent for path in RESULTS.glob("*/records.jsonl") if path.parent.name != "demo")


def test_the_demo_is_among_them():
    assert "demo-cpu" in [folder.name for folder in FOLDERS]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.name)
def test_report_is_that_of_the_records(folder):
    assert report.differences(folder) == []


def test_every_cell_of_the_demo_learns():
    judged, misses = goals.check(records.load(RESULTS / "demo-cpu"))
    assert judged == 24
    assert misses == []
