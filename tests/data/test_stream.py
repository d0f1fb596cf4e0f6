"""Batches come in the order of the epochs, and whatever goes wrong in a worker is said and never hangs."""

from __future__ import annotations

import dataclasses
import errno
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest

from swav_data.canvas import Canvas
from swav_data.encoded import Encoded, EncodedSet, decoded
from swav_data.epochs import batch_samples, shard
from swav_data.folder import FileList
from swav_data.stream import Stream, without_bad
from swav_data.workers import WorkerLost
from swav_spec.errors import InvalidInput

CANVAS = Canvas(16, 20)
SHARED_MEMORY = Path("/dev/shm")


def batches(images, **options):
    with Stream(images, **({"batch": 5, "seed": 3, "steps": range(6), "canvas": CANVAS} | options)) as stream:
        return list(stream)


def assert_equal(some, others):
    for one, other in zip(some, others, strict=True):
        for field, value in one._asdict().items():
            assert np.array_equal(value, getattr(other, field)), field


class Logged:
    """Files that say how many images were asked for."""

    def __init__(self, files):
        self.files = files
        self.asked = 0

    def __getitem__(self, position):
        self.asked += 1
        return self.files[position]


def test_batches_are_those_of_the_epochs(encoded_set, pictures):
    images, labels = pictures
    for step, batch in enumerate(batches(encoded_set)):
        epoch, samples = batch_samples(len(images), 5, 3, step)
        assert (batch.step, batch.epoch) == (step, epoch)
        assert np.array_equal(batch.samples, samples)
        assert np.array_equal(batch.labels, labels[samples])
        assert batch.images.shape == (5, 20, 20, 3)
        for canvas, height, width, sample in zip(batch.images, batch.heights, batch.widths, samples, strict=True):
            assert (height, width) == images[sample].shape[:2]
            assert np.array_equal(canvas[:height, :width], images[sample])
            assert canvas.astype(int).sum() == images[sample].astype(int).sum()


@pytest.mark.parametrize("workers", [1, 2])
def test_workers_resuming_and_a_second_pass_change_nothing(encoded_set, workers):
    alone = batches(encoded_set)
    with Stream(encoded_set, batch=5, seed=3, steps=range(2, 6), workers=workers, canvas=CANVAS) as stream:
        assert_equal(stream, alone[2:])
        for _ in stream:
            break  # slots that were being written into are used again
        assert_equal(stream, alone[2:])
        assert stream.waited_s > 0
        first = iter(stream)
        next(first)
        with pytest.raises(RuntimeError, match="once at a time"):
            next(iter(stream))


def test_images_in_memory_give_the_same(encoded_set):
    in_memory = decoded(encoded_set, CANVAS)
    for one, other in zip(batches(in_memory, workers=2), batches(encoded_set), strict=True):
        height, width = in_memory.images.shape[1:3]
        assert np.array_equal(one.images, other.images[:, :height, :width])
        assert np.array_equal(one.heights, other.heights)
        assert np.array_equal(one.samples, other.samples)


@pytest.mark.parametrize("workers", [0, 2])
def test_shards_of_unequal_size_make_the_batch(encoded_set, workers):
    whole = batches(encoded_set)
    for rank in range(3):
        part = batches(encoded_set, workers=workers, rank=rank, ranks=3)
        for one, of_all in zip(part, whole, strict=True):
            assert np.array_equal(one.samples, shard(of_all.samples, rank, 3))
            assert np.array_equal(one.images, shard(of_all.images, rank, 3))


def test_an_empty_shard_is_an_empty_batch(encoded_set):
    (last,) = batches(encoded_set, batch=2, steps=range(1), workers=1, rank=2, ranks=3)
    assert last.images.shape == (0, 20, 20, 3)
    assert last.heights.shape == last.labels.shape == (0,)


@pytest.mark.parametrize("workers", [0, 2])
def test_without_a_seed_all_come_once_in_their_own_order(encoded_set, workers):
    got = batches(encoded_set, seed=None, steps=None, workers=workers)
    assert [len(batch.samples) for batch in got] == [5, 5, 2]
    assert np.concatenate([batch.samples for batch in got]).tolist() == list(range(12))
    part = batches(encoded_set, seed=None, steps=None, workers=workers, rank=1, ranks=2)
    assert [batch.samples.tolist() for batch in part] == [[3, 4], [8, 9], [11]]


def test_no_more_is_decoded_ahead_than_was_allowed(encoded_set):
    logged = Logged(encoded_set.files)
    watched = dataclasses.replace(encoded_set, files=logged)
    with Stream(watched, batch=2, seed=0, steps=range(50), workers=1, prefetch=3, canvas=CANVAS) as stream:
        for taken, _ in zip(range(1, 5), stream, strict=False):
            assert logged.asked == 2 * (taken + 3)


@pytest.mark.parametrize("workers", [0, 2])
def test_a_bad_image_is_named_when_its_batch_is_due(encoded_set, workers):
    bad = encoded_set.files.paths[int(batch_samples(12, 5, 3, 1)[1][2])]
    Path(bad).write_bytes(b"")
    with Stream(encoded_set, batch=5, seed=3, steps=range(6), workers=workers, canvas=CANVAS) as stream:
        iterator = iter(stream)
        assert next(iterator).step == 0
        with pytest.raises(InvalidInput) as caught:
            next(iterator)
    assert str(caught.value) == f"{bad}: is empty (0 bytes)"


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_images_that_are_skipped_leave_the_order_of_the_good_ones(encoded_set, workers):
    paths = encoded_set.files.paths
    good = [row for row in range(12) if row not in (4, 9)]
    expected = batches(
        EncodedSet("good", FileList([paths[row] for row in good]), encoded_set.labels[good], ("a", "b", "c"))
    )
    Path(paths[4]).write_bytes(b"no image")
    Path(paths[9]).unlink()
    with Stream(
        encoded_set, batch=5, seed=3, steps=range(6), workers=workers, canvas=CANVAS, on_bad_image="skip"
    ) as stream:
        assert stream.samples == 10
        assert [says.split(":")[0] for says in stream.skipped] == [paths[4], paths[9]]
        assert_equal(stream, expected)
    left = without_bad(encoded_set, canvas=CANVAS, workers=workers)
    assert left.skipped == stream.skipped
    assert_equal(batches(left), expected)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_folder_that_disappears_mid_run_is_named(encoded_set, tmp_path, workers):
    with Stream(encoded_set, batch=5, seed=3, steps=range(60), workers=workers, canvas=CANVAS) as stream:
        iterator = iter(stream)
        next(iterator)
        shutil.rmtree(tmp_path / "files")
        with pytest.raises(InvalidInput, match=r"cannot be read \(No such file"):
            for _ in iterator:
                pass


def test_a_killed_worker_ends_the_stream(encoded_set):
    with Stream(encoded_set, batch=5, seed=3, steps=range(1000), workers=2, canvas=CANVAS) as stream:
        iterator = iter(stream)
        next(iterator)
        os.kill(next(iter(stream._pool._executor._processes)), signal.SIGKILL)
        with pytest.raises(WorkerLost, match="was killed"):
            for _ in iterator:
                pass


def test_a_read_that_never_ends_ends_the_stream(tmp_path, encoded_set):
    pipe = str(tmp_path / "stalled.png")
    os.mkfifo(pipe)  # opening it waits for a writer, as a dead disk does
    stalled = EncodedSet("stalled", FileList([*encoded_set.files.paths, pipe]), np.zeros(13, int), ("a",))
    started = time.monotonic()
    with (
        Stream(stalled, batch=13, seed=0, steps=range(1), workers=1, canvas=CANVAS, task_seconds=2) as stream,
        pytest.raises(WorkerLost, match="too long"),
    ):
        next(iter(stream))
    assert time.monotonic() - started < 60


def test_leaving_a_loop_waits_for_what_is_being_written(tmp_path, encoded_set):
    pipe = tmp_path / "slow.png"
    os.mkfifo(pipe)
    paths = encoded_set.files.paths
    slow = EncodedSet("slow", FileList([*paths[:2], str(pipe)]), np.zeros(3, int), ("a",))
    being_read, finished = threading.Event(), threading.Event()

    def write():
        while True:
            try:
                end = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
                break
            except OSError:  # nobody reads yet
                time.sleep(0.01)
        being_read.set()
        time.sleep(0.3)
        finished.set()
        os.write(end, Path(paths[0]).read_bytes())
        os.close(end)

    writer = threading.Thread(target=write, daemon=True)
    with Stream(slow, batch=2, seed=None, workers=1, prefetch=2, canvas=CANVAS) as stream:
        iterator = iter(stream)
        next(iterator)
        writer.start()
        assert being_read.wait(30)
        iterator.close()
        assert finished.is_set()


def test_an_unexpected_fault_in_a_worker_is_not_hidden(encoded_set):
    broken = dataclasses.replace(encoded_set, files=[Encoded("here", data=3)] * 12)
    with (
        Stream(broken, batch=5, seed=0, steps=range(1), workers=1, canvas=CANVAS) as stream,
        pytest.raises(InvalidInput, match=r"^here: cannot be decoded"),
    ):
        next(iter(stream))


def no_room(descriptor, offset, length):
    raise OSError(errno.ENOSPC, "No space left on device")


@pytest.mark.parametrize(
    ("module", "name", "instead", "why"),
    [
        (psutil, "virtual_memory", lambda: SimpleNamespace(available=3 * 2**10), r"0 are free"),
        (os, "posix_fallocate", no_room, "No space left on device"),
    ],
)
def test_too_little_memory_is_said_before_anything_starts(encoded_set, monkeypatch, module, name, instead, why):
    monkeypatch.setattr(module, name, instead)
    with pytest.raises(InvalidInput, match=rf"^2 batches of 5 images of up to 20 x 20 .* \({why}\): use a smaller"):
        batches(encoded_set, workers=1)


def shared():
    """What lies in shared memory, but for semaphores of other processes, as of tests that run beside this one."""
    foreign = re.compile(rf"sem\.loky-(?!{os.getpid()}-)")
    return {path for path in SHARED_MEMORY.iterdir() if not foreign.match(path.name)}


@pytest.mark.skipif(not SHARED_MEMORY.is_dir(), reason="looks at Linux's shared memory")
def test_nothing_is_left_behind(encoded_set):
    before, descriptors = shared(), len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(2):
        with Stream(encoded_set, batch=5, seed=3, steps=range(9), workers=1, canvas=CANVAS) as stream:
            for _ in stream:
                break
            workers = list(stream._pool._executor._processes)
            # Pixels have no name there, so that they go with the processes even if all are killed at once.
            named = {path.name for path in shared() - before}
            assert all(name.startswith("sem.") for name in named)
        assert not any(map(alive, workers))
    assert shared() <= before
    # Of the two more, one goes to the tracker of semaphores, which stays.
    assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors + 2


ORPHANS = """
import sys
import numpy as np
from swav_data.encoded import EncodedSet
from swav_data.folder import FileList
from swav_data.stream import Stream, without_bad

if __name__ == "__main__":
    images = EncodedSet("some", FileList(sys.argv[1:]), np.zeros(len(sys.argv) - 1, int), ("a",))
    with Stream(images, batch=4, seed=0, steps=range(10**6), workers=2) as stream:
        for batch in stream:
            print(*stream._pool._executor._processes, flush=True)
            sys.stdin.read()
"""


def alive(process):
    try:
        return Path(f"/proc/{process}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="looks for processes in /proc")
def test_workers_do_not_outlive_a_killed_parent(tmp_path, encoded_set):
    script = tmp_path / "train.py"
    script.write_text(ORPHANS)
    command = [sys.executable, str(script), *encoded_set.files.paths]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=environment
    ) as parent:
        workers = parent.stdout.readline().split()
        assert len(workers) == 2
        assert all(map(alive, workers))
        parent.kill()
    deadline = time.monotonic() + 30
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, workers))


def test_outside_with_it_is_refused(encoded_set):
    with pytest.raises(RuntimeError, match="inside `with`"):
        next(iter(Stream(encoded_set, batch=5, seed=0, steps=range(1))))


@pytest.mark.parametrize(
    ("options", "field"),
    [
        ({"workers": -1}, "workers"),
        ({"prefetch": 0}, "prefetch"),
        ({"task_seconds": 0}, "task_seconds"),
        ({"batch": 0}, "batch"),
        ({"batch": 13}, "batch"),
        ({"steps": None}, "steps"),
        ({"seed": None}, "steps"),
        ({"steps": range(3, 0, -1)}, "steps"),
        ({"steps": range(-1, 3)}, "steps"),
        ({"rank": 1}, "rank"),
        ({"on_bad_image": "hide"}, "on_bad_image"),
    ],
)
def test_arguments_out_of_range_are_named(encoded_set, options, field):
    with pytest.raises(InvalidInput, match=f"^{field} = "):
        batches(encoded_set, **options)
