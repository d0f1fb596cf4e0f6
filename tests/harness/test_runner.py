"""One process a cell: every way in which it can end is a record, and the run goes on."""

from __future__ import annotations

import json
import os
import subprocess
import time
import uuid

import pytest

from swav_bench import children, records, runner
from swav_bench.derive import derive
from swav_bench.estimate import Estimate
from swav_spec.errors import InvalidInput


def test_a_cell_that_goes_well_is_a_whole_record(run, cell, tmp_path):
    (record,) = run(cell())
    assert (record["status"], record["reason"]) == ("ok", None)
    assert record["timing"]["warmup_steps"] >= 10
    assert len(record["timing"]["block_s"]) >= 5
    assert record["memory"]["allocator_peak_bytes"] is None
    assert record["memory"]["process_peak_bytes"] > 10 * 2**20
    assert record["energy"] is record["accuracy"] is record["parity"] is None
    assert record["environment"]["variables"]["OMP_NUM_THREADS"] == "1"
    assert record["environment"]["implementation"]["framework"] == "fake"
    assert derive(record) == record
    (line,) = (tmp_path / "results" / records.RECORDS).read_text().splitlines()
    assert json.loads(line) == record


def test_accuracy_is_shown_beside_raw_pixels_random_weights_and_ln_k(run, cell, images_with_test):
    learnt, unlearnt = run(
        cell(dataset=str(images_with_test), steps=60),
        cell(dataset=str(images_with_test), steps=60, lr=0.0),
    )
    accuracy, learning = learnt["accuracy"], learnt["learning"]
    assert learning["loss_curve"][0][0] == 1
    assert learning["loss_curve"][-1][0] == 60
    assert learning["final_loss"] < learning["loss_curve"][0][1]
    assert learning["ln_k"] == pytest.approx(3.4011973816)
    assert accuracy["chance"] == 0.5
    assert accuracy["split"] == "test"
    assert unlearnt["accuracy"]["knn_top1"] == unlearnt["accuracy"]["random_knn_top1"]
    assert unlearnt["accuracy"]["raw_knn_top1"] == accuracy["raw_knn_top1"]


def test_a_collapse_is_not_ok(run, cell, images_with_test):
    (record,) = run(cell("Collapsed", dataset=str(images_with_test)))
    assert record["status"] == "collapsed"
    assert "ln K" in record["reason"]
    assert record["learning"]["final_loss"] == pytest.approx(record["learning"]["ln_k"], abs=1e-6)


FAILURES = {
    "Segfaulting": ("error", "killed by signal 11 (SIGSEGV) while training"),
    "Full": ("oom", "Unable to allocate"),
    "Limited": ("oom", "Unable to allocate"),
    "FullGpu": ("oom", "CUDA out of memory"),
    "Exiting": ("error", "exit code 7 while compiling: the last thing it said"),
    "NotFinite": ("error", "scores of view 1 were not finite in step 12"),
    "Unprintable": ("error", "not JSON serializable"),
    "Strange": ("error", "no valid record"),
    "Missing": ("error", "there is no class Missing in fake"),
}


def test_a_failing_cell_is_a_record_and_the_next_one_runs(run, cell):
    *failed, last = run(*(cell(name) for name in FAILURES), cell())
    for record, (status, words) in zip(failed, FAILURES.values(), strict=True):
        assert record["status"] == status, record
        assert words in record["reason"]
    assert last["status"] == "ok"


@pytest.mark.parametrize(("counts", "status"), [((3, 3), "error"), ((3, 4), "oom"), ((None, None), "oom")])
def test_a_kill_counts_as_out_of_memory_unless_the_system_says_otherwise(run, cell, monkeypatch, counts, status):
    counted = iter(counts)
    monkeypatch.setattr(children, "_out_of_memory_kills", lambda: next(counted))
    (record,) = run(cell("Killed"))
    assert record["status"] == status
    assert "killed" in record["reason"]


def test_a_hanging_cell_is_killed_with_all_it_started(run, cell, monkeypatch):
    mark = f"mark-{uuid.uuid4()}"
    monkeypatch.setenv("FAKE_MARK", mark)
    (record,) = run(cell("Hanging"), timeout_s=8.0)
    assert (record["status"], record["reason"]) == ("timeout", "no result after 8 s; it was training")
    assert mark not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout


def test_a_wrong_loss_or_gradient_is_never_timed(run, cell):
    first, wrong, gradient, other = run(cell(), cell("Wrong"), cell("WrongGradient"), cell("Broken", batch=32))
    assert first["status"] == "ok"
    assert wrong["status"] == gradient["status"] == "wrong"
    assert wrong["timing"] is None
    assert wrong["parity"]["loss_error"] == pytest.approx(1)
    assert "differs from fake:Fake's: loss off by 1.0e+00" in wrong["reason"]
    assert "one of the two is wrong" in wrong["reason"]
    assert gradient["parity"]["loss_error"] < 1e-12
    assert gradient["parity"]["gradient_error"] == pytest.approx(1e-3, rel=0.01)
    assert other["status"] == "error"


def test_a_fence_that_does_not_wait_is_caught(run, cell):
    unfenced, fenced = run(cell("Unfenced", steps=60), cell("Fenced", steps=60))
    assert unfenced["status"] == "wrong"
    assert "fence does not wait" in unfenced["reason"]
    assert fenced["status"] == "ok", fenced["reason"]
    assert fenced["timing"]["step_s_median"] >= 0.005


def test_reasons_hold_no_paths_and_nothing_that_a_terminal_acts_on(run, cell, tmp_path):
    (record,) = run(cell("Broken"))
    assert record["reason"] == (
        "while compiling: ValueError: bad [bold]file[/bold] [31m weights.bin <script>alert(1)</script>"
    )
    assert "noise" in (tmp_path / "results" / "logs" / f"{record['cell']['id']}.log").read_text()


def test_only_missing_cells_run_and_failed_ones_when_asked(run, cell, tmp_path):
    good, bad, new = cell(), cell("Exiting"), cell(seed=3)
    run(good, bad)
    file = tmp_path / "results" / records.RECORDS
    before = file.read_bytes()
    assert [record["status"] for record in run(good, bad)] == ["ok", "error"]
    assert file.read_bytes() == before
    run(good, bad, new, retry_failed=True)
    after = file.read_bytes()
    assert after.startswith(before)
    assert [json.loads(line)["cell"]["id"] for line in after.splitlines()[2:]] == [bad.id, new.id]
    assert [record["cell"]["id"] for record in records.load(tmp_path / "results").records] == [good.id, bad.id, new.id]


def test_two_runs_do_not_share_a_folder(run, cell, tmp_path):
    with runner._usable(tmp_path / "results"), pytest.raises(InvalidInput, match="another run is using it"):
        run(cell())


def test_a_folder_that_cannot_be_written_is_one_sentence(run, cell, tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "results"):
        with pytest.raises(InvalidInput, match="must be a folder that can be written"):
            run(cell(), folder=folder)


def test_a_full_disk_is_one_sentence_and_leaves_whole_lines(run, cell, tmp_path, monkeypatch):
    run(cell())
    before = (tmp_path / "results" / records.RECORDS).read_bytes()
    write = os.write

    def half(descriptor, data):
        return write(descriptor, data[: len(data) // 2])

    monkeypatch.setattr(records.os, "write", half)
    with pytest.raises(InvalidInput, match="the disk is full"):
        run(cell(seed=1))
    assert (tmp_path / "results" / records.RECORDS).read_bytes() == before


class Known:
    """Estimates that are as long as a cell's seed says."""

    def __init__(self, known, *, threads):
        pass

    def learn(self, record):
        pass

    def cell(self, cell):
        return Estimate(wall_s=float(cell.seed), memory_bytes=0)


def test_within_a_time_budget_what_is_too_long_is_left_for_the_next_run(run, cell, tmp_path, monkeypatch):
    monkeypatch.setattr(runner, "Estimator", Known)
    cells = [cell(seed=seed) for seed in (3000, 1, 2000, 2)]  # the first is tried whatever is expected of it
    assert [record["status"] for record in run(*cells, budget_s=60)] == ["ok", "ok", "not_run", "ok"]
    found = records.load(tmp_path / "results").records
    assert [(record["cell"]["seed"], record["status"]) for record in found] == [
        (3000, "ok"),
        (1, "ok"),
        (2000, "not_run"),
        (2, "ok"),
    ]
    before = (tmp_path / "results" / records.RECORDS).read_bytes()
    assert [record["status"] for record in run(*cells)] == ["ok"] * 4
    assert (tmp_path / "results" / records.RECORDS).read_bytes().startswith(before)


def test_a_cell_that_the_end_of_the_budget_stops_is_not_run_and_no_timeout(run, cell, tmp_path, monkeypatch):
    mark = f"mark-{uuid.uuid4()}"
    monkeypatch.setenv("FAKE_MARK", mark)
    started = time.monotonic()
    found = run(cell("Hanging"), cell(), timeout_s=300, budget_s=6)
    assert [record["status"] for record in found] == ["not_run", "not_run"]
    assert time.monotonic() - started < 30
    assert not (tmp_path / "results" / records.RECORDS).exists()
    assert mark not in subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True, check=True).stdout
    (record,) = run(cell("Hanging"), timeout_s=6, budget_s=300)
    assert record["status"] == "timeout"


def test_what_is_not_installed_is_said_before_anything_runs(run, cell, tmp_path):
    with pytest.raises(InvalidInput, match="nowhere_at_all is not installed"):
        run(cell(), cell(implementation="nowhere_at_all:Class"))
    assert not (tmp_path / "results" / records.RECORDS).exists()
    with pytest.raises(InvalidInput, match=r"python = '/no/such/python'"):
        run(cell(), interpreters={"fake:Fake": "/no/such/python"})


def test_another_interpreter_runs_from_a_plain_checkout(run, cell, tmp_path):
    interpreter = tmp_path / "python"
    interpreter.write_text(f'#!/bin/sh\nexport OMP_NUM_THREADS=7\nexec {os.sys.executable} "$@"\n')
    interpreter.chmod(0o755)
    (record,) = run(cell(), interpreters={"fake:Fake": str(interpreter)})
    assert record["status"] == "ok"
    assert record["environment"]["variables"]["OMP_NUM_THREADS"] == "7"
