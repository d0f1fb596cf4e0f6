"""Cells and suites."""

from __future__ import annotations

import dataclasses
import re

import pytest

from swav_bench import cells
from swav_spec.errors import InvalidInput


def test_the_demo_is_24_cells_with_the_frameworks_in_turn():
    planned = cells.plan("demo")
    assert len({cell.id for cell in planned}) == len(planned) == 24
    assert [cell.implementation for cell in planned] == ["torch", "jax", "tensorflow"] * 8
    assert {(cell.batch, cell.multi_crop, cell.queue_rows) for cell in planned} == {
        (batch, crops, rows) for batch in (32, 64) for crops in (False, True) for rows in (0, 256)
    }


def test_an_id_depends_on_every_field_and_on_nothing_else(cell):
    first = cell()
    assert first.id == cell().id
    changes = {"suite": "x", "mode": "eager", "batch": 32, "multi_crop": True, "queue_rows": 64, "seed": 1, "steps": 30}
    changes |= {"repeat": 1, "lr": 0.0, "device": "gpu", "precision": "tf32", "implementation": "torch"}
    assert len({first.id, *(dataclasses.replace(first, **{name: value}).id for name, value in changes.items())}) == 13


def test_a_cell_goes_to_a_job_and_back(cell):
    assert cells.from_job(cell().to_job()) == cell()


def test_a_record_names_the_data_set_and_not_its_place(cell):
    assert cell(dataset="/home/someone/pictures").to_dict()["dataset"] == "pictures"
    assert cell(dataset="/home/someone/pictures").id == cell(dataset="/elsewhere/pictures").id


@pytest.mark.parametrize("name", ["../../etc:x", "a b:c", "\x1b[31m:red", "é:é", ":", "a" * 500 + ":b"])
def test_ids_are_file_names_whatever_an_implementation_is_called(cell, name):
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,120}", cell(implementation=name).id)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"name": "nothing"}, "suite = 'nothing': must be one of demo"),
        ({"implementations": ("pytorch",)}, "implementation = 'pytorch': must be one of numpy, torch"),
        ({"recipe": "nothing"}, "recipe = 'nothing'"),
        ({"batches": (1,)}, "batch = 1: must be at least 2"),
        ({"steps": 3}, "steps = 3: must be at least 15"),
        ({"seeds": (-1,)}, "seed = -1"),
        ({"multi_crop": "maybe"}, "multi_crop = 'maybe': must be both, on or off"),
        ({"batches": (512,), "queue": "on"}, "queue_length = 256"),
        ({"precisions": ("float16",)}, "precision = 'float16'"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(changes, words):
    with pytest.raises(InvalidInput, match=re.escape(words)):
        cells.plan(**{"name": "demo"} | changes)


def test_lr_replaces_the_whole_schedule(cell):
    schedule = cell(lr=0.0).config(samples=96).schedule
    assert schedule.base_lr == schedule.final_lr == schedule.start_warmup == 0
