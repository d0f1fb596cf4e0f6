"""Cells."""

from __future__ import annotations

import dataclasses
import re

import pytest

from swav_bench import cells


def test_an_id_depends_on_every_field_and_on_nothing_else(cell):
    first = cell()
    assert first.id == cell().id
    changes = {"suite": "x", "mode": "eager", "batch": 32, "multi_crop": True, "queue_rows": 64, "seed": 1, "steps": 30}
    changes |= {"repeat": 1, "lr": 0.0, "device": "gpu", "precision": "tf32", "implementation": "torch"}
    assert len({first.id, *(dataclasses.replace(first, **{name: value}).id for name, value in changes.items())}) == 13


def test_fields_that_came_later_change_an_id_only_where_they_are_set(cell):
    first = cell()
    assert cells.cell_id({"task": "train", "crops": None} | first._public()) == first.id
    later = {"task": "kernels", "input": "views", "network": "resnet18-cifar", "crops": "2x32+4x16"}
    assert len({first.id, *(cell(**{name: value}).id for name, value in later.items())}) == 5


def test_a_cell_goes_to_a_job_and_back(cell):
    assert cells.from_job(cell().to_job()) == cell()


def test_a_record_names_the_data_set_and_not_its_place(cell):
    assert cell(dataset="/home/someone/pictures").to_dict()["dataset"] == "pictures"
    assert cell(dataset="/home/someone/pictures").id == cell(dataset="/elsewhere/pictures").id


@pytest.mark.parametrize("name", ["../../etc:x", "a b:c", "\x1b[31m:red", "é:é", ":", "a" * 500 + ":b"])
def test_ids_are_file_names_whatever_an_implementation_is_called(cell, name):
    assert re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._+-]{0,120}", cell(implementation=name).id)


def test_lr_replaces_the_whole_schedule(cell):
    schedule = cell(lr=0.0).config(samples=96).schedule
    assert schedule.base_lr == schedule.final_lr == schedule.start_warmup == 0
