"""Committed reports and their index are what the records give: regenerated here, nothing differs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from swav_bench import curves, goals, index, records, report

RESULTS = Path(__file__).parents[2] / "results"
FOLDERS = index.folders(RESULTS)


def test_the_demo_is_among_them():
    assert "demo-cpu" in [folder.name for folder in FOLDERS]


@pytest.mark.parametrize("folder", FOLDERS, ids=lambda folder: folder.relative_to(RESULTS).as_posix())
def test_report_is_that_of_the_records(folder):
    assert report.differences(folder) == []


@pytest.mark.parametrize("folder", sorted(RESULTS.glob("seeds-*")), ids=lambda folder: folder.name)
def test_curves_are_those_of_the_logs(folder, tmp_path):
    for run in folder.iterdir():
        if run.is_dir():
            shutil.copytree(run, tmp_path / folder.name / run.name)
    curves.write(tmp_path / folder.name)
    for name in (curves.MARKDOWN, curves.JSON):
        assert (tmp_path / folder.name / name).read_text() == (folder / name).read_text()


@pytest.mark.parametrize("name", [index.MARKDOWN, index.HTML])
def test_the_index_is_that_of_the_records(name):
    """Made with: swav-bench index results"""
    assert (RESULTS / name).read_text() == index.pages(RESULTS, FOLDERS)[name]


def test_every_cell_of_the_demo_learns():
    judged, misses = goals.check(records.load(RESULTS / "demo-cpu"))
    assert judged == 24
    assert misses == []
