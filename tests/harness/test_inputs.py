"""Feeds: the same pixels wherever they come from, nothing hidden, nothing left behind, no more ahead than allowed."""

from __future__ import annotations

import contextlib
import dataclasses
import hashlib
import io
import shutil
import subprocess
import sys
import threading
import time
import uuid
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import psutil
import pytest
from PIL import Image
from rich.console import Console

from swav_bench import evaluation, first_step, inputs, measure, records, runner, training
from swav_bench.progress import Display
from swav_bench.training import Span
from swav_data import stream as streams
from swav_data.encoded import decoded
from swav_data.sources import load, open_source
from swav_spec.config import Execution
from swav_spec.errors import InvalidInput
from swav_spec.multicrop import central_plan

WORKERS = (0, 1)


@pytest.fixture
def trainer(monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))
    import fake

    return fake.Fake(Execution("cpu", "float64"))


@pytest.fixture
def photos(tmp_path):
    """Folder with 40 training and 10 test images of two classes, none as large as the others."""
    random = np.random.default_rng(0)
    for split, count in (("train", 40), ("test", 10)):
        for number in range(count):
            folder = tmp_path / "photos" / split / ("light", "dark")[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            height, width = 20 + number, 60 - number
            pixels = random.integers(0, 120, (height, width, 3)) + 120 * (number % 2 == 0)
            Image.fromarray(pixels.astype(np.uint8)).save(folder / f"{split}-{number:02}.png")
    return tmp_path / "photos"


@pytest.fixture
def config(cell):
    return cell(batch=8).config(samples=40)


def seen(trainer, feed, steps):
    """Each step's views, and its plan, by a trainer that makes views of what it is given."""
    with contextlib.closing(feed.arguments(steps)) as arguments:
        return [
            ([view.copy() for view in trainer.views(images, plan, feed._config)], plan) for images, plan in arguments
        ]


def assert_same(some, others):
    assert len(some) == len(others) > 0
    for (one, plan), (other, also) in zip(some, others, strict=True):
        for a, b in zip(one, other, strict=True):
            assert np.array_equal(a, b)
        for group, same in zip(plan.groups, also.groups, strict=True):
            assert all(np.array_equal(a, b) for a, b in zip(group, same, strict=True))


@pytest.mark.parametrize("workers", WORKERS)
def test_a_stream_gives_what_resident_images_give_from_any_step_on(trainer, photos, config, workers):
    opened, in_memory = open_source(photos).train, load(photos).train
    expected = seen(trainer, inputs.Resident(trainer, in_memory, config, seed=3), range(12))
    with inputs.Streamed(trainer, opened, config, seed=3, workers=workers) as feed:
        assert_same(seen(trainer, feed, range(12)), expected)
        assert_same(seen(trainer, feed, range(7, 12)), expected[7:])
        assert (feed.samples, feed.workers) == (40, workers)
    with inputs.Streamed(trainer, in_memory, config, seed=3, workers=2) as feed:
        assert_same(seen(trainer, feed, range(7, 12)), expected[7:])
        assert feed.workers == 0


def test_ready_views_are_those_of_the_first_batch(trainer, photos, config):
    with inputs.Streamed(trainer, open_source(photos).train, config, seed=3) as feed:
        ((views, _),) = seen(trainer, feed, range(1))
    for images in (open_source(photos).train, load(photos).train):
        ready = inputs.ReadyViews(trainer, images, config, seed=3)
        for (given,) in ready.arguments(range(2)):
            assert all(np.array_equal(a, b) for a, b in zip(given, views, strict=True))


@pytest.mark.parametrize("workers", WORKERS)
def test_no_more_is_on_the_device_than_was_allowed_and_nobody_writes_to_it(photos, config, workers):
    sent = []

    class Device:
        def to_device(self, array):
            sent.append((array, hashlib.sha256(array).digest()))
            return array

    with (
        inputs.Streamed(Device(), open_source(photos).train, config, seed=0, workers=workers) as feed,
        contextlib.closing(feed.arguments(range(30))) as arguments,
    ):
        for taken, _ in zip(range(1, 12), arguments, strict=False):
            deadline = time.monotonic() + 20
            while len(sent) < taken + inputs.BATCHES_AHEAD and time.monotonic() < deadline:
                time.sleep(0.001)
            time.sleep(0.02)
            assert len(sent) == taken + inputs.BATCHES_AHEAD
    assert all(hashlib.sha256(array).digest() == digest for array, digest in sent)


def left_behind():
    """Threads and decoding processes of a feed."""
    threads = [thread.name for thread in threading.enumerate() if thread.name.startswith("input")]
    return threads + [child.pid for child in psutil.Process().children() if "spawn_main" in " ".join(child.cmdline())]


@pytest.mark.parametrize("workers", WORKERS)
def test_an_image_that_turns_bad_ends_the_run_at_its_step(trainer, photos, config, workers):
    with inputs.Streamed(trainer, open_source(photos).train, config, seed=3, workers=workers) as feed:
        arguments = feed.arguments(range(30))
        next(arguments)
        shutil.rmtree(photos)
        with pytest.raises(InvalidInput, match=r"photos/train/.*\.png: cannot be read \(No such file"):
            for _ in arguments:
                pass
    assert not left_behind()


@pytest.mark.parametrize("workers", WORKERS)
def test_steps_before_a_bad_image_are_made(trainer, photos, config, workers):
    opened = open_source(photos).train
    bad = opened.files.paths[int(inputs.batch_samples(40, 8, 3, 4)[1][5])]
    Path(bad).write_bytes(Path(bad).read_bytes()[:200])
    losses = []
    state = trainer.init(config, {"prototypes.weight": np.eye(30, config.network.embedding)})
    with inputs.Streamed(trainer, opened, config, seed=3, workers=workers) as feed, pytest.raises(InvalidInput) as told:
        training.train(trainer, state, feed, fences=range(1, 21), observe=lambda span: losses.append(span.losses))
    assert str(told.value).startswith(f"{bad}: cannot be decoded")
    assert len(losses) == 4
    with inputs.Streamed(trainer, opened, config, seed=3, workers=workers, on_bad_image="skip") as feed:
        assert [says.split(":")[0] for says in feed.skipped] == [bad]
        assert len(seen(trainer, feed, range(5))) == 5


@pytest.mark.parametrize("workers", [0, 2])
def test_an_error_in_the_loop_leaves_no_thread_and_no_process(trainer, photos, config, workers):
    class Failing:
        to_device = staticmethod(trainer.to_device)

        def step(self, state, images, plan):
            raise RuntimeError("no")

    state = SimpleNamespace(config=config, step=0)
    with (
        pytest.raises(RuntimeError, match="no"),
        inputs.Streamed(Failing(), open_source(photos).train, config, seed=3, workers=workers) as feed,
    ):
        training.train(Failing(), state, feed, fences=[10], observe=lambda span: None)
    assert not left_behind()


@pytest.mark.parametrize(
    ("field", "value"), [("workers", -1), ("prefetch", 0), ("on_bad_image", "hide")], ids=["workers", "prefetch", "bad"]
)
def test_readings_out_of_range_are_named(field, value):
    with pytest.raises(InvalidInput, match=f"^{field} = "):
        inputs.Reading(**{field: value})


# How long the loop waits


def slow_decoding(monkeypatch, seconds):
    original = streams.decode_into

    def decode_into(*arguments):
        time.sleep(seconds)
        return original(*arguments)

    monkeypatch.setattr(streams, "decode_into", decode_into)


def paced(trainer, feed, step_s):
    """Seconds of twenty steps, and those in which their input was waited for."""
    started = time.perf_counter()
    for _ in feed.arguments(range(20)):
        time.sleep(step_s)
    return time.perf_counter() - started, feed.waited_s


def test_a_slow_feed_is_waited_for_and_a_fast_one_is_not(trainer, photos, config, monkeypatch):
    images = load(photos).train
    with inputs.Streamed(trainer, images, config, seed=0) as feed:
        wall, waited = paced(trainer, feed, 0.01)
    assert waited < 0.5 * wall
    slow_decoding(monkeypatch, 0.02)
    with inputs.Streamed(trainer, open_source(photos).train, config, seed=0) as feed:
        wall, waited = paced(trainer, feed, 0.001)
    assert waited > 0.5 * wall


def test_a_copy_that_waits_for_the_device_is_not_the_inputs_fault(photos, config):
    class Busy:
        def to_device(self, array):
            time.sleep(0.02)
            return array

    with inputs.Streamed(Busy(), load(photos).train, config, seed=0) as feed:
        wall, waited = paced(Busy(), feed, 0.0)
    assert wall > 20 * 0.02
    assert waited < 0.5 * wall


@pytest.mark.parametrize(
    ("waited", "fence", "limited"),
    [(0.5, 0.1, True), (0.5, 0.0, True), (0.09, 0.0, False), (0.5, 0.4, False)],
    ids=["waits", "waits, nothing to fence", "hardly waits", "waits while the device has enough to do"],
)
def test_a_limit_is_told_from_a_device_that_has_enough_to_do(waited, fence, limited):
    blocks = SimpleNamespace(steps=10)
    span = Span(1, wall_s=1.0, cpu_s=0, waited_s=waited, fence_s=fence, late_s=0, losses=np.zeros(1), metrics={})
    measurement = SimpleNamespace(found={"notes": []})
    measure.Measurement._input_limit(measurement, [span] * 5, blocks)
    assert measurement.found["notes"] == (
        [f"limited by its input: it waited for it {waited:.0%} of the time"] * limited
    )


# Cells


@pytest.fixture
def measured(cell, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parent))

    def go(name="Fake", against=None, reading=None, raw=None, **changes):
        made = cell(name, **{"batch": 8, "steps": 15} | changes)
        job = {"cell": made.to_job(), "first_step": None, "parity": against, "raw_pixels": raw}
        reporter = SimpleNamespace(send=lambda event, **values: None, phase=lambda name: None)
        measurement = measure.Measurement(job | {"reading": reading or {}}, reporter)
        measurement.run()
        return measurement

    return go


@pytest.mark.parametrize("lower", ["float64", "bfloat16"])
def test_a_streaming_cell_takes_the_same_first_step_and_does_not_load_the_set(measured, photos, monkeypatch, lower):
    for part in (photos / "test").iterdir():
        shutil.rmtree(part)
    (photos / "test").rmdir()
    resident = measured(dataset=str(photos), precision=lower)
    assert resident.found["data"] | {"workers": 0, "prefetch": 3} != resident.found["data"]
    against = {"implementation": "resident", **resident.found["parity_summary"]}
    asked = []
    original = streams.decode_into
    monkeypatch.setattr(streams, "decode_into", lambda *given: (asked.append(len(given[1])), original(*given))[1])
    monkeypatch.setattr(first_step, "load", None)
    for kind in ("stream", "views"):
        asked.clear()
        reading = {"workers": 0, "prefetch": 3}
        streaming = measured(
            against=against, dataset=str(photos), input=kind, precision=lower, steps=15, reading=reading
        )
        assert streaming.status == "ok"
        assert streaming.found["parity"]["loss_error"] == 0
        assert streaming.found["parity"]["gradient_error"] == 0
        data = {"train_samples": 40, "skipped": 0, "skipped_reasons": []}
        data |= {"workers": 0, "prefetch": 3} if kind == "stream" else {"workers": None, "prefetch": None}
        assert streaming.found["data"] == data
        most = 15 + 4 * (1 + inputs.BATCHES_AHEAD)  # its steps, and what is made ahead and dropped at each end
        assert sum(asked) <= 8 * (most if kind == "stream" else 3)


def test_a_streaming_cell_is_evaluated_on_the_middles_of_its_images(measured, photos):
    streaming = measured(dataset=str(photos), input="stream")
    accuracy = streaming.found["accuracy"]
    assert accuracy["split"] == "test"
    assert accuracy["raw_knn_top1"] == streaming.found["raw_pixels"]["knn_top1"] == 1  # light and dark
    again = measured(dataset=str(photos), input="stream", raw=streaming.found["raw_pixels"] | {"knn_top1": 0.25})
    assert again.found["accuracy"] == accuracy | {"raw_knn_top1": 0.25}
    # Images of different sizes look the same from memory; ready-made views teach nothing.
    resident = measured(dataset=str(photos))
    assert resident.found["accuracy"] == accuracy
    assert "accuracy" not in measured(dataset=str(photos), input="views").found


def test_a_cell_that_waits_for_its_input_says_so(measured, photos, monkeypatch):
    fast = measured("Slow", dataset=str(photos), input="stream")
    assert not [note for note in fast.found["notes"] if "limited by its input" in note]
    slow_decoding(monkeypatch, 0.02)
    slow = measured(dataset=str(photos), input="stream")
    (note,) = [note for note in slow.found["notes"] if note.startswith("limited by its input: it waited for it ")]
    share = sum(slow.found["timing"]["input_waited_s"]) / sum(slow.found["timing"]["block_s"])
    assert share > 0.5
    assert f"{share:.0%} of the time" in note


def test_middles_are_each_images_own_in_their_order(trainer, photos, config, monkeypatch):
    original = trainer.views

    def views(images, plan, asked):  # an implementation may compile for what the config says
        assert [(group.size, len(group.box)) for group in plan.groups] == list(asked.resolutions)
        return original(images, plan, asked)

    encoded = open_source(photos).train
    in_memory = decoded(encoded, streams.Canvas())
    states = [trainer.init(config, {"prototypes.weight": np.eye(30, 32)})] * 2
    config = dataclasses.replace(config, batch=3)  # chunks of 6, the last of which is not full
    monkeypatch.setattr(trainer, "views", views)
    found = evaluation.middles(trainer, states, encoded, config, inputs.Reading())
    monkeypatch.setattr(trainer, "views", original)
    assert len(found.features) == 2
    for row in range(40):
        height, width = in_memory.heights[row], in_memory.widths[row]
        alone = in_memory.images[row : row + 1, :height, :width]
        size, looks = (np.array([height]), np.array([width])), config.augmentation
        seen = trainer.views(alone, central_plan(config.crops[0].size, *size), config)
        expected = trainer.forward(states[0], seen, train=False)[0][0]
        assert np.array_equal(found.features[1][row], expected.astype(np.float32))
        (small,) = trainer.views(alone, central_plan(evaluation.RAW_SIDE, *size), config)
        raw = small * np.array(looks.std) + np.array(looks.mean) - 0.5
        assert np.array_equal(found.raw[row], raw.ravel().astype(np.float32))


def test_a_large_set_is_sampled_and_bad_images_are_left_out_of_its_evaluation(photos):
    encoded, notes = open_source(photos).train, []
    assert evaluation.sample(encoded, 40, inputs.Reading(), notes) is encoded
    assert len(evaluation.sample(encoded, 40, inputs.Reading(on_bad_image="skip"), notes)) == 40
    assert notes == []
    bad = encoded.files.paths[7]
    Path(bad).write_bytes(b"")
    few = evaluation.sample(encoded, 25, inputs.Reading(), notes)
    rows = [encoded.files.paths.index(few[row].path) for row in range(25)]
    assert rows == sorted(set(rows))
    assert np.array_equal(few.labels, encoded.labels[rows])
    assert notes == ["evaluated with 25 of the 40 images of photos/train"]
    in_memory = load(photos, on_bad_image="skip").train
    assert len(evaluation.sample(in_memory, 25, inputs.Reading(), [])) == 25
    notes.clear()
    good = evaluation.sample(encoded, 40, inputs.Reading(on_bad_image="skip"), notes)
    assert len(good) == 39
    assert notes == [f"1 images of photos/train were left out of the evaluation; the first: {bad}: is empty (0 bytes)"]


@pytest.mark.parametrize("kind", ["resident", "stream", "views"])
def test_skipped_images_are_counted_and_named_in_the_record_and_on_the_terminal(cell, photos, tmp_path, kind):
    for number in range(0, 24, 2):
        (photos / f"train/light/train-{number:02}.png").write_bytes(b"")
    shutil.rmtree(photos / "test")  # nothing to evaluate on
    written = io.StringIO()
    cells = [cell(dataset=str(photos), input=kind, batch=8, steps=15, seed=seed) for seed in (1, 2)]
    reading = inputs.Reading(workers=1, on_bad_image="skip")
    display = Display(Console(file=written, width=200))
    for record in runner.run(tmp_path / "results", cells, runner.Options(60, reading=reading), display):
        assert record["status"] == "ok", record["reason"]
        data = record["data"]
        assert (data["train_samples"], data["skipped"], len(data["skipped_reasons"])) == (28, 12, 10)
        assert data["skipped_reasons"][9] == "train-18.png: is empty (0 bytes)"
        assert (data["workers"], data["prefetch"]) == ((1, 2) if kind == "stream" else (None, None))
    said = written.getvalue().splitlines()
    at = said.index("12 images were left out, 28 are trained on:")
    assert said[at + 1] == "  train-00.png: is empty (0 bytes)"
    assert said[at + 11] == "  and 2 more"
    assert written.getvalue().count("were left out") == 1  # once, not for each cell


def test_the_command_streams_and_says_what_it_left_out(command, photos, tmp_path):
    shutil.rmtree(photos / "test")
    (photos / "train/light/train-04.png").write_bytes(b"no image")
    matrix = ["--batch", "8", "--multi-crop", "off", "--queue", "off", "--steps", "15", "--precision", "float64"]
    matrix += ["-i", "fake:Fake", "--dataset", photos, "--input", "stream", "--out", "results"]
    done = command("run", *matrix, "--workers", "1", "--prefetch", "3", "--on-bad-image", "skip")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "1 images were left out, 39 are trained on:\n  train-04.png: is not an image of a known" in done.stdout
    (record,) = records.load(tmp_path / "results").records
    assert (record["cell"]["input"], record["data"]["workers"], record["data"]["prefetch"]) == ("stream", 1, 3)


@pytest.mark.parametrize(
    ("option", "value", "says"),
    [("--on-bad-image", "hide", "on_bad_image = 'hide': must be one of error, skip"), ("--input", "disk", "input = ")],
)
def test_options_out_of_range_are_one_sentence(command, option, value, says):
    done = command("run", "-i", "fake:Fake", option, value)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(f"swav-bench: {says}")


def test_a_bad_image_ends_its_cell_and_names_the_file(run, cell, photos):
    (photos / "train/light/train-04.png").write_bytes(b"no image")
    (record,) = run(cell(dataset=str(photos), input="stream", batch=8, steps=15), reading=inputs.Reading(workers=1))
    assert record["status"] == "error"
    assert record["reason"].startswith("train-04.png: is not an image of a known format (JPEG, ")


def test_a_streaming_cell_that_is_killed_leaves_no_process_and_no_memory(run, cell, photos, monkeypatch):
    shared = Path("/dev/shm")
    before = {path.name for path in shared.iterdir()} if shared.is_dir() else set()
    mark = f"mark-{uuid.uuid4()}"
    monkeypatch.setenv("FAKE_MARK", mark)
    reading = inputs.Reading(workers=2)
    (record,) = run(cell("Hanging", dataset=str(photos), input="stream", batch=8), timeout_s=8.0, reading=reading)
    assert record["status"] == "timeout"
    assert mark not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    alive = [process for process in psutil.process_iter() if mark in environment_of(process)]
    assert not alive
    after = {path for path in shared.iterdir() if path.name not in before} if shared.is_dir() else set()
    assert sum(path.stat().st_size for path in after) < 2**12  # a semaphore or two, but no batches of pixels


def environment_of(process):
    try:
        return process.environ().get("FAKE_MARK", "") if process.pid != psutil.Process().pid else ""
    except psutil.Error:
        return ""


def test_the_harness_needs_no_framework_for_its_feeds():
    code = "import swav_bench.inputs, sys; assert not {'torch', 'jax', 'tensorflow'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True, env={"PYTHONPATH": ":".join(filter(None, sys.path))})
