"""The folder of a run: its log is valid after any kill, and it is held by one run at a time."""

from __future__ import annotations

import os

import pytest

from swav_bench import run_folder
from swav_bench.run_folder import RunFolder
from swav_spec.errors import InvalidInput


@pytest.fixture
def folder(tmp_path):
    return RunFolder(tmp_path)


def line(step):
    return {"step": step, "loss": step / 4}


def test_lines_come_back_in_order(folder):
    for step in (2, 4, 6):
        folder.append(line(step))
    assert folder.lines() == [line(2), line(4), line(6)]
    assert RunFolder(folder.path / "nowhere").lines() == []


@pytest.mark.parametrize(
    "torn", ['{"step": 8, "lo', '{"loss": 1}\n', "[]\n", '{"step": 6}\n', '{"step": 8}', "\x00\x00"]
)
def test_what_a_kill_leaves_of_a_line_is_taken_off(folder, torn):
    for step in (2, 4, 6):
        folder.append(line(step))
    with folder.log.open("a") as log:
        log.write(torn)
    assert folder.lines() == [line(2), line(4), line(6)]
    assert folder.rewind(6) == [line(2), line(4), line(6)]
    folder.append(line(8))
    assert folder.lines() == [line(2), line(4), line(6), line(8)]


def test_going_back_takes_later_lines_off_so_that_no_step_stands_twice(folder):
    for step in (2, 4, 6):
        folder.append(line(step))
    assert folder.rewind(4) == [line(2), line(4)]
    folder.append(line(6))
    assert folder.lines() == [line(2), line(4), line(6)]
    assert len(folder.log.read_bytes().splitlines()) == 3


def test_a_full_disk_takes_no_half_line(folder, monkeypatch):
    folder.append(line(2))
    write = os.write
    monkeypatch.setattr(run_folder.os, "write", lambda descriptor, text: write(descriptor, text[: len(text) // 2]))
    with pytest.raises(OSError, match=r"log\.jsonl: the disk is full"):
        folder.append(line(4))
    assert folder.log.read_text() == '{"step":2,"loss":0.5}\n'


def test_half_written_files_of_killed_processes_are_removed(folder):
    folder.checkpoints.mkdir()
    left = [folder.checkpoints / ".step-000000003.safetensors.77.part", folder.path / ".config.json.77.tmp"]
    for path in left:
        path.write_bytes(b"half")
    folder.write(folder.config, {"format": "x"})
    with folder.held():
        assert not any(path.exists() for path in left)


def test_a_second_run_is_refused_and_may_come_later(folder):
    with folder.held(), pytest.raises(InvalidInput, match="another run is using it"), folder.held():
        pass
    with folder.held():
        pass


def test_what_is_refused_before_it_begins_leaves_nothing(tmp_path):
    folder = RunFolder(tmp_path / "run")

    def refused():
        with folder.held():
            folder.child_log.write_text("said")
            raise InvalidInput("no such data")

    with pytest.raises(InvalidInput, match="no such data"):
        refused()
    assert not folder.path.exists()


def test_a_damaged_file_is_named(folder):
    folder.config.write_text('{"format": ')
    with pytest.raises(InvalidInput, match=r"config\.json: cannot be read"):
        folder.read(folder.config)
    folder.config.write_text("[]")
    with pytest.raises(InvalidInput, match="must be a JSON table"):
        folder.read(folder.config)
    assert folder.read(folder.summary) is None
