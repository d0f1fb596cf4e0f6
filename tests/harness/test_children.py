"""Child processes: what the parent makes of one that cannot start, breaks down, or leaves others behind."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import psutil
import pytest

from swav_bench import children
from swav_bench.children import Process
from swav_bench.probe import DEVICES, probe
from swav_spec.errors import InvalidInput

#: Of the signals for programs' own use, which have no names.
NAMELESS = 40


class Forking:
    """Dies, and leaves a process that has everything open that it had; FAKE_MARK names the file with its number."""

    def __init__(self, execution):
        left = os.fork()
        if left == 0:
            time.sleep(600)
        Path(os.environ["FAKE_MARK"]).write_text(str(left))
        os._exit(7)


class KilledByNameless:
    def __init__(self, execution):
        os.kill(os.getpid(), NAMELESS)


@pytest.fixture
def go(cell, tmp_path):
    """Tries a batch with the implementation of this name in a child; how it ended."""

    def run(name, log=tmp_path / "log.txt", **process):
        job = {"cell": cell(implementation=name).to_job(), "memory_limit_bytes": None}
        return children.run("try batch", job, Process(name, log, **process), lambda event: None, timeout_s=60)

    return run


def test_a_child_that_dies_is_told_at_once_and_what_it_left_is_ended(go, tmp_path, monkeypatch):
    mark = tmp_path / "mark"
    monkeypatch.setenv("FAKE_MARK", str(mark))
    ended = go("test_children:Forking")
    assert (ended.status, ended.result) == ("error", None)
    assert ended.reason.startswith("exit code 7 while batch 16, importing the framework")
    deadline = time.monotonic() + 10
    while runs(int(mark.read_text())):
        assert time.monotonic() < deadline
        time.sleep(0.01)


def runs(number):
    """Whether the process of this number has not been ended, whoever is to take note of its end."""
    try:
        return psutil.Process(number).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def test_a_signal_without_a_name_is_told_by_its_number(go):
    ended = go("test_children:KilledByNameless")
    assert (ended.status, ended.reason) == (
        "error",
        f"killed by signal {NAMELESS} (unknown) while batch 16, importing the framework",
    )


@pytest.mark.parametrize(
    ("process", "words"),
    [
        (
            {"log": Path("nowhere/log.txt")},
            r"log = 'nowhere/log\.txt': cannot be written \(No such file or directory\)",
        ),
        (
            {"interpreters": {"fake:Fake": "/no/such/python"}},
            r"python = '/no/such/python': cannot be started \(No such file or directory\)",
        ),
    ],
)
def test_a_child_that_cannot_start_is_one_sentence_and_leaves_no_pipe(go, process, words):
    before = psutil.Process().num_fds()
    with pytest.raises(InvalidInput, match=words):
        go("fake:Fake", **process)
    assert psutil.Process().num_fds() == before


@pytest.mark.parametrize(
    ("script", "answer"),
    [
        (None, "FileNotFoundError: {} gave no answer"),
        ("echo {}; echo one >&2; echo the last words >&2; exit 3", "the last words"),
        ("exit 3", "exit code 3"),
        ("exit 0", "exit code 0"),
    ],
)
def test_an_interpreter_that_cannot_answer_for_an_implementation_is_said_for_each_device(tmp_path, script, answer):
    python = tmp_path / "python"
    if script is not None:
        python.write_text(f"#!/bin/sh\n{script}\n")
        python.chmod(0o755)
    assert probe("numpy", str(python), dict(os.environ)) == dict.fromkeys(DEVICES, answer.format(python))


def test_an_implementation_answers_for_each_device():
    found = probe("numpy", sys.executable, children.child_environment(1, "gpu"))
    assert found["cpu"]["framework"] == "numpy"
    assert found["cpu"]["modes"]
    assert found["gpu"].startswith("device = 'gpu'")


def test_peers_run_where_torch_does_unless_told_otherwise():
    given = children.interpreters(["torch=/t/python", "jax=/j/python", "lightly=/l/python"])
    assert given == {
        "torch": "/t/python",
        "jax": "/j/python",
        "lightly": "/l/python",
        "plain-torch": "/t/python",
    }
    assert children.interpreters(["jax=/j/python"]) == {"jax": "/j/python"}
