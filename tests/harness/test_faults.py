"""Whatever happens to the disk, a record, a process or a name: one sentence, whole lines, and the next run goes on."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
from html.parser import HTMLParser

import psutil
import pytest

from swav_bench import children, records

SEEDS = 3
HOSTILE = "<script>alert(1)<|script>\x1b[31m`|*[x](javascript:alert(1))\u202e"


@pytest.fixture
def arguments(images):
    def make(name="Fake", folder="results", dataset=images, seeds=SEEDS):
        drawn = [word for seed in range(seeds) for word in ("--seed", seed)]
        matrix = ["--batch", 16, "--multi-crop", "off", "--queue", "off", "--steps", 15, "--precision", "float64"]
        return ["run", "--out", folder, "--dataset", dataset, "-i", f"fake:{name}", *matrix, *drawn]

    return make


@pytest.fixture
def small_disk(tmp_path):
    """A file system of its own of 28 KiB, and how to make it large."""
    place = tmp_path / "disk"
    place.mkdir()

    def mount(options):
        asked = ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(place)]
        return subprocess.run(asked, capture_output=True, check=False).returncode == 0

    if not mount("size=28k"):
        pytest.skip("a small file system needs the right to mount; a limit on files is tested without")
    yield place, lambda: mount("remount,size=20m")
    subprocess.run(["umount", str(place)], check=True)


def whole(file):
    """Records of a file in which every line is a whole one."""
    lines = file.read_text().splitlines()
    found = [json.loads(line) for line in lines]
    for record in found:
        records.validate(record)
    return found


def test_a_full_disk_ends_the_run_with_one_sentence_and_the_next_run_goes_on(command, arguments, small_disk):
    place, enlarge = small_disk
    done = command(*arguments(folder=place / "results"))
    assert done.returncode == 2, done.stdout
    assert done.stderr.count("\n") == 1
    assert "cannot be written" in done.stderr
    before = (place / "results" / records.RECORDS).read_bytes()
    count = len(whole(place / "results" / records.RECORDS))
    assert 1 <= count < SEEDS

    report = command("report", place / "results")
    assert report.returncode == 2
    assert "the report cannot be written (No space left on device); the records are as they were" in report.stderr
    assert (place / "results" / records.RECORDS).read_bytes() == before

    assert enlarge()
    again = command(*arguments(folder=place / "results"))
    assert again.returncode == 0, again.stderr
    assert f"{count} of {SEEDS} cells are already measured" in again.stdout
    assert (place / "results" / records.RECORDS).read_bytes().startswith(before)
    assert [record["status"] for record in whole(place / "results" / records.RECORDS)] == ["ok"] * SEEDS


def test_a_file_that_cannot_grow_is_as_good_as_a_full_disk(command, arguments, tmp_path):
    """The same without a file system of its own: no file may have more than 6,000 bytes, which two records have."""
    limited = "import resource, runpy, sys; resource.setrlimit(resource.RLIMIT_FSIZE, (6000, 6000)); "
    limited += "sys.argv[0] = 'swav-bench'; runpy.run_module('swav_bench', run_name='__main__', alter_sys=True)"
    variables = children.child_environment(1, "cpu")
    done = subprocess.run(
        [sys.executable, "-c", limited, *map(str, arguments())],
        cwd=tmp_path,
        # What it covers would not go into so few bytes either.
        env={name: value for name, value in variables.items() if not name.startswith("COVERAGE_")},
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )
    assert done.returncode == 2, done.stdout
    words = "swav-bench: results folder = 'results': cannot be written (records.jsonl: the disk is full)\n"
    assert done.stderr == words
    assert len(whole(tmp_path / "results" / records.RECORDS)) == 1
    again = command(*arguments())
    assert again.returncode == 0, again.stderr
    assert [record["status"] for record in whole(tmp_path / "results" / records.RECORDS)] == ["ok"] * SEEDS


def test_a_measured_process_that_is_killed_is_a_record_and_the_run_goes_on(command, arguments, tmp_path):
    parent = command(*arguments("Slow", seeds=2), background=True)
    _measured(parent).kill()
    said, _ = parent.communicate(timeout=60)
    assert parent.returncode == 1, said
    first, second = whole(tmp_path / "results" / records.RECORDS)
    assert first["status"] in ("error", "oom")
    assert "killed" in first["reason"]
    assert second["status"] == "ok"
    assert "killed" in (tmp_path / "results" / "report.md").read_text()
    again = command(*arguments("Slow", seeds=2), "--retry-failed")
    assert again.returncode == 0, again.stderr
    assert "killed" not in (tmp_path / "results" / "report.md").read_text()


def _measured(parent):
    """The process that the run measures, once there is one."""
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        for child in psutil.Process(parent.pid).children():
            with contextlib.suppress(psutil.NoSuchProcess):
                if "swav_bench.child" in child.cmdline():
                    return child
        time.sleep(0.02)
    raise AssertionError(parent.communicate())


def test_broken_lines_are_set_aside_measured_again_and_never_shown(command, arguments, tmp_path):
    assert command(*arguments(seeds=3)).returncode == 0
    file = tmp_path / "results" / records.RECORDS
    first, second, third = file.read_bytes().splitlines(keepends=True)
    garbage = b'{"schema": 2, "status": "ok", "cell": "GARBAGE"}\n'
    file.write_bytes(first + garbage + second.replace(b'"steps_per_block"', b'"steps_per_clock"') + third[:-100])
    problems = records.load(tmp_path / "results").problems
    assert [problem.split(":")[0] for problem in problems] == [
        f"records.jsonl line {number} is left out" for number in (2, 3, 4)
    ]
    again = command(*arguments(seeds=3))
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("was set aside in records.broken") == 3
    assert "1 of 3 cells are already measured" in again.stdout
    assert file.read_bytes().startswith(first)
    assert [record["status"] for record in whole(file)] == ["ok"] * 3
    assert (tmp_path / "results" / records.BROKEN).read_bytes().startswith(garbage)
    assert records.load(tmp_path / "results").problems == []
    assert "GARBAGE" not in (tmp_path / "results" / "report.html").read_text()


class Tags(HTMLParser):
    def __init__(self, page):
        super().__init__()
        self.scripts, self.links = 0, []
        self.feed(page)

    def handle_starttag(self, tag, attrs):
        self.scripts += tag == "script"
        self.links += [value for name, value in attrs if name in ("href", "src")]


def test_hostile_names_of_data_and_in_the_environment_are_shown_without_effect(command, arguments, images, tmp_path):
    place = tmp_path / HOSTILE
    place.symlink_to(images)
    harmless = command(*arguments(folder="harmless", seeds=1))
    assert harmless.returncode == 0, harmless.stderr
    done = command(*arguments(dataset=place, seeds=1), XLA_FLAGS=HOSTILE, PYTORCH_CUDA_ALLOC_CONF=HOSTILE)
    assert done.returncode == 0, done.stderr
    assert "\x1b" not in done.stdout + done.stderr
    (record,) = whole(tmp_path / "results" / records.RECORDS)
    assert record["status"] == "ok"
    assert record["cell"]["dataset"] == HOSTILE
    assert str(tmp_path) not in json.dumps(record)
    pages = [Tags((tmp_path / folder / "report.html").read_text()) for folder in ("harmless", "results")]
    assert pages[0].scripts == pages[1].scripts
    assert not [link for link in pages[1].links if link and link.startswith("javascript")]
    page = (tmp_path / "results" / "report.md").read_text()
    assert "<script" not in page
    for command_, *words in (("index", "."), ("compare", "results", "results", "--all")):
        shown = command(command_, *words)
        assert shown.returncode == 0, shown.stderr
        assert "\x1b" not in shown.stdout
    assert "<script" not in (tmp_path / "index.md").read_text()
    assert Tags((tmp_path / "index.html").read_text()).scripts == 0
