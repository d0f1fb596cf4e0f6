"""Records: whole lines or none, never changed, checked on the way in and out."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from swav_bench import environment, records
from swav_bench.cells import cell_id
from swav_bench.records import BROKEN, RECORDS
from swav_spec.errors import InvalidInput

CARD = {"name": "Example H200", "memory_bytes": 1, "driver": "1", "power_limit_w": None}


@pytest.fixture
def record(cell):
    plan = {"version": "1", "environment": environment.describe()}
    failed = {"status": "error", "reason": "it broke", "wall_s": 1.5}
    return lambda **changes: records.not_run(cell(**changes).to_dict(), plan) | failed


def test_a_line_is_added_and_read_again(tmp_path, record):
    records.append(tmp_path, record())
    records.append(tmp_path, record(seed=1))
    assert list(records.finished(tmp_path).values()) == [record(), record(seed=1)]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"schema": 3}, "schema = 3: must be one of 1, 2"),
        ({"status": "fine"}, "record.status"),
        ({"status": "ok"}, "record.reason"),
        ({"reason": None}, "record.reason"),
        ({"extra": 1}, "extra"),
        ({"wall_s": -1}, "record.wall_s"),
    ],
)
def test_what_breaks_the_schema_is_refused_and_nothing_is_written(tmp_path, record, change, words):
    with pytest.raises(InvalidInput, match=words):
        records.append(tmp_path, record() | change)
    assert not (tmp_path / RECORDS).exists()


@pytest.mark.parametrize("field", ["id", "batch", "seed"])
def test_a_cell_without_a_field_is_refused(tmp_path, record, field):
    broken = record()
    del broken["cell"][field]
    with pytest.raises(InvalidInput, match=field):
        records.append(tmp_path, broken)


def test_not_a_number_is_refused(tmp_path, record):
    with pytest.raises(ValueError, match="JSON"):
        records.append(tmp_path, record() | {"wall_s": float("nan")})


def test_a_torn_last_line_is_set_aside(tmp_path, record):
    records.append(tmp_path, record())
    whole = (tmp_path / RECORDS).read_bytes()
    torn = whole[: len(whole) // 2]
    (tmp_path / RECORDS).write_bytes(whole + torn)
    assert len(records.load(tmp_path).problems) == 1
    (problem,) = records.repair(tmp_path)
    assert problem.startswith("records.jsonl line 2 was set aside in records.broken: not a whole JSON line")
    assert (tmp_path / RECORDS).read_bytes() == whole
    assert (tmp_path / BROKEN).read_bytes() == torn + b"\n"
    assert records.repair(tmp_path) == []


@pytest.mark.parametrize("garbage", [b"", b"\x00\xff\x00", b"[]", b"null", b'{"schema": 1}', b"{" * 5000, b"1e999"])
def test_garbage_between_lines_is_set_aside_and_the_others_stay_as_they_are(tmp_path, record, garbage):
    for seed in range(2):
        records.append(tmp_path, record(seed=seed))
    first, second = (tmp_path / RECORDS).read_bytes().splitlines(keepends=True)
    (tmp_path / RECORDS).write_bytes(first + garbage + b"\n" + second)
    assert len(records.repair(tmp_path)) == 1
    assert (tmp_path / RECORDS).read_bytes() == first + second


def test_a_whole_line_that_lost_its_end_of_line_is_kept(tmp_path, record):
    records.append(tmp_path, record())
    whole = (tmp_path / RECORDS).read_bytes()
    (tmp_path / RECORDS).write_bytes(whole.rstrip(b"\n"))
    assert records.repair(tmp_path) == []
    assert (tmp_path / RECORDS).read_bytes() == whole


def test_planned_cells_without_a_record_are_not_run(tmp_path, cell, record):
    done, missing = cell(seed=1), cell()
    plan = {"version": "1", "environment": environment.describe(), "cells": [missing.to_dict(), done.to_dict()]}
    records.write_plan(tmp_path, plan)
    records.append(tmp_path, record(seed=1))
    results = records.load(tmp_path)
    assert [found["status"] for found in results.records] == ["not_run", "error"]
    for found in results.records:
        records.validate(found)


def test_the_newest_line_of_a_cell_counts(tmp_path, record):
    records.append(tmp_path, record())
    records.append(tmp_path, record() | {"reason": "again"})
    assert [found["reason"] for found in records.load(tmp_path).records] == ["again"]


def test_an_empty_folder_and_a_broken_plan_are_one_sentence(tmp_path):
    with pytest.raises(InvalidInput, match=r"must be a folder with records\.jsonl"):
        records.load(tmp_path)
    for content in ("", "{}", '{"cells": [{}]}', '{"cells": 3}', "[]"):
        (tmp_path / records.PLAN).write_text(content)
        with pytest.raises(InvalidInput, match=r"plan\.json .* cannot be read"):
            records.load(tmp_path)


def test_a_write_that_fails_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "file"
    path.write_text("old")

    def full(descriptor):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(records.os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        records.write_atomically(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_the_schema_says_what_every_field_means(record):
    text = records.resources.files("swav_bench").joinpath("schema/record-2.json").read_text()
    schema = json.loads(text)
    assert set(record()) == set(schema["required"]) == set(schema["properties"])


#: Written by version 0.1.0: two cells that went well and one that did not, of four that were planned. Never to change.
FROZEN = Path(__file__).parent / "frozen" / "schema-1"


def test_records_of_schema_1_are_read_as_they_were_meant():
    old = [json.loads(line) for line in (FROZEN / RECORDS).read_text().splitlines()]
    found = records.load(FROZEN).records
    assert [record["schema"] for record in old] == [1, 1, 1]
    assert [record["status"] for record in found] == ["ok", "ok", "oom", "not_run"]
    for before, after in zip(old, found, strict=False):
        records.validate(before)
        records.validate(after)
        assert (after["schema"], after["cell"]["id"]) == (2, before["cell"]["id"])
        assert after["cell"]["task"] == "train"
        assert cell_id({k: v for k, v in after["cell"].items() if k not in ("id", "queue")}) == before["cell"]["id"]
        assert after["parts"] is after["overhead"] is after["kernels"] is after["largest_batch"] is None
    for before, after in zip(old[:2], found, strict=False):
        told = before["accuracy"]
        assert told == after["learning"] | after["accuracy"]
        assert after["timing"]["input_wait_share"] is None
        assert before["timing"].items() <= after["timing"].items()
    assert found[2]["learning"] is found[2]["accuracy"] is None


def test_a_folder_of_schema_1_is_continued_byte_for_byte(tmp_path, record):
    folder = tmp_path / "old"
    shutil.copytree(FROZEN, folder)
    before = (folder / RECORDS).read_bytes()
    assert records.repair(folder) == []
    records.append(folder, record())
    assert (folder / RECORDS).read_bytes().startswith(before)
    assert [found["schema"] for found in records.load(folder).records] == [2] * 5


def test_the_committed_demo_is_read_whatever_its_schema():
    results = records.load(Path(__file__).parents[2] / "results" / "demo-cpu")
    assert results.problems == []
    assert {record["schema"] for record in results.records} == {records.SCHEMA}


def test_devices_are_told_apart_by_the_gpu_or_the_cpu(record):
    here = record()["environment"] | {"cpu": "Example CPU", "cpu_count": 4}
    on_cpu = record() | {"environment": here | {"gpus": [CARD]}}
    assert records.machine(on_cpu) == "Example CPU with 4 hardware threads"
    on_gpu = on_cpu | {"cell": on_cpu["cell"] | {"device": "gpu"}}
    assert records.machine(on_gpu) == "Example H200"
    told = {"framework": "fake", "device": "Example GPU"}
    unseen = on_gpu | {"environment": here | {"gpus": [], "implementation": told}}
    assert records.machine(unseen) == "Example GPU"
