"""The largest batch that fits: the search, and real processes that run out of memory in several ways."""

from __future__ import annotations

import pytest

from swav_bench import largest
from swav_bench.derive import derive
from swav_bench.largest import search
from swav_spec.errors import InvalidInput


def tried(most, **settings):
    batches = []

    def fits(batch):
        batches.append(batch)
        return batch <= most

    return search(fits, **settings), batches


def test_it_doubles_until_one_does_not_fit_and_bisects():
    found, batches = tried(100, start=16, step=8, limit=1024)
    assert found == (96, 104)
    assert batches == [16, 32, 64, 128, 96, 112, 104]


def test_it_halves_where_the_first_does_not_fit():
    found, batches = tried(20, start=128, step=8, limit=1024)
    assert found == (16, 24)
    assert batches == [128, 64, 32, 16, 24]


def test_none_or_all_may_fit():
    assert tried(7, start=64, step=8, limit=1024) == ((None, 8), [64, 32, 16, 8])
    assert tried(10**6, start=64, step=8, limit=300) == ((296, None), [64, 128, 256, 296])


@pytest.mark.parametrize("most", range(0, 200, 7))
@pytest.mark.parametrize(("start", "step"), [(8, 8), (24, 8), (160, 8), (2, 2), (30, 10)])
def test_it_finds_the_largest_and_tries_nothing_twice(most, start, step):
    found, batches = tried(most, start=start, step=step, limit=180)
    multiples = range(step, 180 + 1, step)
    assert found.fits == max((batch for batch in multiples if batch <= most), default=None)
    assert found.too_large == min((batch for batch in multiples if batch > most), default=None)
    assert len(batches) == len(set(batches))
    assert set(batches) <= set(multiples)


@pytest.mark.parametrize("change", [{"step": 1}, {"start": 12}, {"start": 0}, {"limit": 8}])
def test_limits_that_make_no_sense_are_refused(change):
    with pytest.raises(InvalidInput):
        tried(10, **{"start": 16, "step": 8, "limit": 64} | change)


@pytest.fixture
def of_task(cell):
    return lambda name, **changes: cell(name, task="largest_batch", **changes)


@pytest.mark.parametrize(
    ("name", "said"), [("FullAbove40", "MemoryError: no room for 42"), ("AbortingAbove40", "signal 6 (SIGABRT)")]
)
def test_out_of_memory_is_an_answer_however_it_shows(run, of_task, tmp_path, name, said):
    (record,) = run(of_task(name))
    assert record["status"] == "ok", record["reason"]
    found = record["largest_batch"]
    assert (found["batch"], found["smallest_too_large"], found["step"]) == (40, 42, 2)
    assert [one["batch"] for one in found["tries"]] == [16, 32, 64, 48, 40, 44, 42]
    assert [one["status"] for one in found["tries"]] == ["ok", "ok", "oom", "oom", "ok", "oom", "oom"]
    assert said in found["tries"][-1]["reason"]
    assert found["tries"][0]["peak_bytes"] > 10 * 2**20
    assert record["learning"] is record["accuracy"] is record["parity"] is None
    assert record["environment"]["implementation"]["framework"] == "fake"
    assert derive(record) == record
    logs = {path.name for path in (tmp_path / "results" / "logs").iterdir()}
    assert f"{record['cell']['id']}.42.log" in logs


def test_the_largest_batch_is_trained_with_for_its_speed(run, of_task):
    (record,) = run(of_task("FullAbove40"))
    assert (record["cell"]["batch"], record["config"]["batch"]) == (16, 40)
    timing = record["timing"]
    assert timing["samples_per_s"] == pytest.approx(40 / timing["step_s_median"])
    assert record["memory"]["process_peak_bytes"] > 0
    assert record["overhead"]["encoder_step_s_median"] > 0
    assert record["notes"] == ["speed and memory are of batch 40, whose first step was not compared with others'"]


def test_a_batch_that_fits_but_cannot_be_trained_with_is_a_note(run, of_task):
    (record,) = run(of_task("BrokenLater", batch=48))
    assert (record["status"], record["largest_batch"]["batch"]) == ("ok", 96)
    assert record["timing"] is record["memory"] is None
    assert record["notes"] == [
        "batch 96 fits, but training with it failed: while training: ValueError: broken after ten steps"
    ]


def test_a_limit_of_memory_counts(run, of_task):
    """16 images take 64 MiB; their arrays, and those of a step in passing, little more."""
    (record,) = run(of_task("Hungry", batch=16), memory_limit_bytes=150 << 20)
    found = record["largest_batch"]
    assert found["smallest_too_large"] - found["batch"] == 2
    assert 20 <= found["batch"] <= 38
    assert record["notes"][0] == "tries had 150 MiB of main memory beyond their framework's"
    assert {one["status"] for one in found["tries"]} == {"ok", "oom"}


def test_a_crash_counts_only_under_a_limit(run, of_task):
    limited, free = run(of_task("CrashingAbove40"), memory_limit_bytes=1 << 30), run(of_task("CrashingAbove40", seed=1))
    assert (limited[0]["status"], limited[0]["largest_batch"]["batch"]) == ("ok", 40)
    assert free[0]["status"] == "error"
    assert "signal 11" in free[0]["reason"]


def test_nothing_that_fits_is_no_ok(run, of_task):
    (record,) = run(of_task("Hungry", batch=8), memory_limit_bytes=1 << 20)
    assert (record["status"], record["reason"]) == ("oom", "not even batch 2 fits")
    assert record["largest_batch"]["batch"] is None


def test_another_failure_ends_the_search(run, of_task, cell):
    record, after = run(of_task("BrokenAbove40"), cell())
    assert record["status"] == "error"
    expected = "the try of batch 64 failed otherwise: while compiling: ValueError: no kernel for so many, see kernel.cu"
    assert record["reason"] == expected
    assert (record["largest_batch"]["batch"], record["largest_batch"]["smallest_too_large"]) == (32, None)
    assert after["status"] == "ok"


def test_a_loss_that_is_no_number_is_not_a_batch_that_fits(run, of_task):
    (record,) = run(of_task("NotANumber"))
    assert record["status"] == "error"
    assert record["reason"] == "the try of batch 16 failed otherwise: training broke down: the loss was nan"
    assert record["timing"] is None


def test_all_tries_share_the_cell_s_time(run, of_task):
    (record,) = run(of_task("Slow"), timeout_s=3.0)
    assert record["status"] == "timeout"
    assert record["largest_batch"]["tries"][-1]["status"] == "timeout"


def test_a_queue_bounds_the_batch(of_task):
    sizes = []

    def attempt(cell):
        sizes.append(cell.batch)
        return {"status": "ok", "reason": None, "peak_bytes": 1}

    found = largest.measure(of_task("Fake", batch=16, queue_rows=50), attempt)["largest_batch"]
    assert sizes == [16, 32, 50]
    assert (found["batch"], found["smallest_too_large"]) == (50, None)
