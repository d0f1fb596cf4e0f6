"""Merging folders: every record once, repeats for cells measured twice, devices never ranked against each other."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from tests.harness import synthetic_records as synthetic

from swav_bench import environment, findings, merge, records, report, tables
from swav_bench.cells import cell_id
from swav_bench.runner import PARITY
from swav_spec.errors import InvalidInput


def made(name="torch", **changes):
    """A record whose id is that of its cell."""
    record = synthetic.record(name, 32, multi_crop=False, queue=False) | {"dirty": changes.pop("dirty", False)}
    cell = record["cell"] | changes
    record = json.loads(json.dumps(record))  # tuples as lists, as they are read
    return record | {"cell": cell | {"id": cell_id({n: v for n, v in cell.items() if n not in ("id", "queue")})}}


def test_records_of_all_folders_are_there_and_the_folders_stay_as_they_are(tmp_path):
    one, other = made("torch"), made("jax")
    synthetic.write(tmp_path / "a", [one])
    synthetic.write(tmp_path / "b", [other])
    before = (tmp_path / "a" / records.RECORDS).read_bytes()
    merged = merge.write(tmp_path / "out", [tmp_path / "a", tmp_path / "b"])
    assert merged.records == [one, other]
    assert records.load(tmp_path / "out").records == [one, other]
    assert (tmp_path / "a" / records.RECORDS).read_bytes() == before


def test_a_cell_measured_twice_becomes_two_repeats(tmp_path):
    synthetic.write(tmp_path / "a", [made(), made(repeat=1)])
    synthetic.write(tmp_path / "b", [made(dirty=True), made(repeat=1, dirty=True)])
    merged = merge.write(tmp_path / "out", [tmp_path / "a", tmp_path / "b"])
    assert [record["cell"]["repeat"] for record in merged.records] == [0, 1, 2, 3]
    assert [record["dirty"] for record in merged.records] == [False, False, True, True]
    assert [record["cell"]["id"] for record in merged.records] == [made(repeat=n)["cell"]["id"] for n in range(4)]
    assert merged.records[3]["notes"] == ["repeat 1 of b before it was merged"]
    assert len(records.finished(tmp_path / "out")) == 4


def test_equal_records_count_once_however_often_they_are_merged(tmp_path):
    synthetic.write(tmp_path / "a", [made()])
    synthetic.write(tmp_path / "b", [made(dirty=True)])
    merge.write(tmp_path / "ab", [tmp_path / "a", tmp_path / "b"])
    merged = merge.write(tmp_path / "again", [tmp_path / "ab", tmp_path / "a"])
    assert merged.records == records.load(tmp_path / "ab").records


def test_what_no_folder_has_measured_stays_planned(tmp_path, cell):
    planned = [cell(seed=seed).to_dict() for seed in range(2)]
    plan = {"version": "1", "environment": environment.describe(), "cells": planned}
    for name, seed in (("a", None), ("b", 1)):
        (tmp_path / name).mkdir()
        records.write_plan(tmp_path / name, plan)
        if seed is not None:
            failed = {"status": "error", "reason": "it broke", "wall_s": 1.0}
            records.append(tmp_path / name, records.not_run(planned[seed], plan) | failed)
    merged = merge.write(tmp_path / "out", [tmp_path / "a", tmp_path / "b"])
    assert [one["seed"] for one in merged.planned] == [0]
    found = {record["cell"]["seed"]: record["status"] for record in records.load(tmp_path / "out").records}
    assert found == {0: "not_run", 1: "error"}


def test_older_records_become_new_ones(tmp_path):
    demo = records.load(Path(__file__).parents[2] / "results" / "demo-cpu")
    folder = Path(__file__).parents[2] / "results" / "demo-cpu"
    merge.write(tmp_path / "out", [folder])
    assert records.load(tmp_path / "out").records == demo.records


def test_different_devices_are_kept_apart_and_never_ranked(command, tmp_path):
    """The slower framework on the faster device: no sentence may call either of them the fastest."""
    for name, card, speed in (("torch", "Example H100", 1.0), ("jax", "Example H200", 9.0)):
        record = synthetic.gpu(synthetic.record(name, 32, multi_crop=False, queue=False, speed=speed), card)
        synthetic.write(tmp_path / name, [record])
    done = command("merge", "out", "torch", "jax")
    assert done.returncode == 0, done.stderr
    words = "Measured on Example H100, Example H200: figures of different devices are never ranked"
    assert words in done.stdout
    assert command("report", "out").returncode == 0
    study = tables.study(records.load(tmp_path / "out").records)
    assert len({row.setting.machine for row in study.rows}) == len(study.rows) == 2
    sentences = findings.headline(study)
    assert not any(sentence.startswith("Fastest") for sentence in sentences)
    assert "Different devices are never ranked against each other." in sentences
    page = (tmp_path / "out" / report.MARKDOWN).read_text()
    assert not [line for line in page.splitlines() if line.startswith("|") and "**" in line]  # bold is for the best


def test_the_first_folder_s_reference_of_a_first_step_is_kept(tmp_path):
    for name in ("a", "b"):
        synthetic.write(tmp_path / name, [made(dirty=name == "b")])
        (tmp_path / name / PARITY).mkdir()
        (tmp_path / name / PARITY / "both.json").write_text(f'"of {name}"')
    (tmp_path / "b" / PARITY / "one.json").write_text('"of b"')
    merge.write(tmp_path / "out", [tmp_path / "a", tmp_path / "b"])
    kept = {path.name: path.read_text() for path in (tmp_path / "out" / PARITY).iterdir()}
    assert kept == {"both.json": '"of a"', "one.json": '"of b"'}


def test_one_device_needs_no_warning(main, tmp_path):
    synthetic.write(tmp_path / "a", [made()])
    done = main("merge", "out", "a")
    assert done == (
        0,
        "1 records of 1 folders, 0 cells not run\nReport on them with: swav-bench report out\n",
        "",
    )


def test_a_folder_in_use_and_one_without_results_are_refused(tmp_path):
    synthetic.write(tmp_path / "a", [made()])
    with pytest.raises(InvalidInput, match="must be a new folder"):
        merge.write(tmp_path / "a", [tmp_path / "a"])
    with pytest.raises(InvalidInput, match=r"must be a folder with records\.jsonl"):
        merge.write(tmp_path / "out", [tmp_path / "a", tmp_path / "nowhere"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]


def test_a_merge_that_fails_leaves_nothing(tmp_path, monkeypatch):
    synthetic.write(tmp_path / "a", [made()])

    def full(path, content):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(records, "write_atomically", full)
    with pytest.raises(InvalidInput, match="cannot be written \\(No space left on device\\)"):
        merge.write(tmp_path / "out", [tmp_path / "a"])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a"]
