"""What a record says of the machine, and what it must not say."""

from __future__ import annotations

import socket
import subprocess

import pytest

from swav_bench import environment, memory, records


def test_the_environment_fits_the_schema():
    plan = {"version": "1", "environment": environment.describe()}
    schema = records._schema()["properties"]["environment"]
    assert set(plan["environment"]) == set(schema["required"])
    assert plan["environment"]["packages"]["numpy"]


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("no /home/me/weights/a.bin here", "no a.bin here"),
        ('File "/usr/lib/python3/x.py", line 3', 'File "x.py", line 3'),
        (r"C:\Users\me\a.txt", "a.txt"),
        ("3/4 of 1/2", "3/4 of 1/2"),
        ("see https://example.org/a/b", "see https://example.org/a/b"),
        ("a\x1b[31m\nb\u2028c\x9b", "a [31m b c"),
    ],
)
def test_texts_lose_folders_and_control_characters(text, clean):
    assert environment.without_paths(text) == clean


def test_texts_lose_the_machine_s_name(monkeypatch):
    monkeypatch.setattr(socket, "gethostname", lambda: "secret-host")
    assert environment.without_paths("on secret-host!") == "on this-machine!"


def test_children_get_one_thread_or_as_many_as_asked(monkeypatch):
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=x")
    one, four, gpu = (environment.for_child(*given) for given in ((1, "cpu"), (4, "cpu"), (16, "gpu")))
    assert {one[name] for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "TF_NUM_INTRAOP_THREADS")} == {"1"}
    assert one["XLA_FLAGS"] == "--xla_dump_to=x --xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
    assert four["OMP_NUM_THREADS"] == "4"
    assert "XLA_FLAGS" not in four
    assert gpu["XLA_PYTHON_CLIENT_PREALLOCATE"] == "false"
    assert gpu["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"


def _git(folder, *arguments):
    identity = ["-c", "user.name=A", "-c", "user.email=a@example.org"]
    subprocess.run(["git", "-C", str(folder), *identity, *arguments], check=True, capture_output=True)


def test_the_commit_is_of_the_tracked_source_and_dirty_when_it_was_changed(tmp_path, monkeypatch):
    source, result = tmp_path / "code.py", tmp_path / "results" / "record"
    result.parent.mkdir()
    monkeypatch.setattr(environment, "__file__", str(source))

    def state():
        environment.commit.cache_clear()
        return environment.commit()

    source.write_text("1")
    result.write_text("1")
    assert state() == (None, None)
    _git(tmp_path, "init")
    assert state() == (None, None)
    _git(tmp_path, "add", ".")
    _git(tmp_path, "commit", "-m", "first")
    commit, dirty = state()
    assert len(commit) == 40
    assert dirty is False
    result.write_text("2")
    assert state() == (commit, False)
    source.write_text("2")
    assert state() == (commit, True)
    environment.commit.cache_clear()


def test_peak_memory_is_the_systems_high_water_mark(tmp_path):
    status = tmp_path / "status"
    status.write_text("VmPeak:\t 900 kB\nVmHWM:\t 123 kB\nVmRSS:\t 50 kB\n")
    assert memory.process_peak_bytes(status) == 123 * 1024
    assert memory.process_peak_bytes(tmp_path / "missing") is None
    status.write_text("VmRSS:\t 50 kB\n")
    assert memory.process_peak_bytes(status) is None
