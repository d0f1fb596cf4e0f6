"""Committed reports and their index are what the records give: regenerated here, nothing differs."""

from __future__ import annotations

from pathlib import Path

import pytest

from swav_bench import goals, index, records, report

RESULTS = Path(__file__).parents[2] / "results"
FOLDERS = index.folders(RESULTS)


def test_the_demo_is_among_them():
    assert "demo-cpu" in [folder.name for folder in FOLDERS]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.relative_to(RESULTS).as_posix())
def test_report_is_that_of_the_records(folder):
    assert report.differences(folder) == []


@pytest.mark.parametrize("name", [index.MARKDOWN, index.HTML])
def test_the_index_is_that_of_the_records(name):
    """Made with: swav-bench index results"""
    assert (RESULTS / name).read_text() == index.pages(RESULTS, FOLDERS)[name]


def test_every_cell_of_the_demo_learns():
    judged, misses = goals.check(records.load(RESULTS / "demo-cpu"))
    assert judged == 24
    assert misses == []
