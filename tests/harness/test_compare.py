"""Comparing two folders: equal ones are told apart hardly ever, slower ones always."""

from __future__ import annotations

import json
import math
from statistics import NormalDist

import numpy as np
import pytest
from tests.harness import synthetic_records

from swav_bench import compare, records
from swav_bench.cells import cell_id
from swav_bench.records import Results
from swav_spec.errors import InvalidInput

#: Standard deviations of log values: of processes of one cell, of a process's blocks, of starts, of memory.
PROCESS, BLOCK, START, MEMORY = 0.015, 0.01, 0.08, 0.003
CELLS = [
    synthetic_records.record(name, 32, multi_crop=multi_crop, queue=queue)
    for multi_crop in (False, True)
    for queue in (False, True)
    for name in ("torch", "jax")
]


def measured(random, *, processes, slower=None):
    """Eight cells in so many processes; `slower` multiplies a step's time in the first of them."""
    found = []
    for repeat in range(processes):
        for number, base in enumerate(CELLS):
            timing, memory = base["timing"], base["memory"]
            step_s = timing["step_s_median"] * (slower if slower and number == 0 else 1.0)
            process_s = step_s * timing["steps_per_block"] * math.exp(random.normal(0, PROCESS))
            blocks = process_s * np.exp(random.normal(0, BLOCK, 20))
            blocks[random.uniform(size=20) < 0.03] *= 1.5  # something else ran
            changed = {"block_s": list(blocks), "step_s_median": float(np.median(blocks)) / timing["steps_per_block"]}
            changed["time_to_first_step_s"] = timing["time_to_first_step_s"] * math.exp(random.normal(0, START))
            peak = memory["process_peak_bytes"] * math.exp(random.normal(0, MEMORY))
            cell = base["cell"] | {"repeat": repeat}
            cell |= {"id": cell_id({name: value for name, value in cell.items() if name not in ("id", "queue")})}
            parts = {"cell": cell, "timing": timing | changed, "memory": memory | {"process_peak_bytes": int(peak)}}
            found.append(base | parts)
    return found


def results(found, name="run"):
    return Results(name, {}, found)


def flagged(before, after):
    compared = compare.compare(results(before, "before"), results(after, "after"))
    return [change for change in compared.changes if change.verdict != "same"]


@pytest.mark.parametrize("processes", [1, 3, 5])
def test_of_twenty_comparisons_of_equals_at_most_one_flags_anything(processes):
    random = np.random.Generator(np.random.PCG64(processes))
    found = [flagged(*(measured(random, processes=processes) for _ in range(2))) for _ in range(20)]
    assert sum(bool(changes) for changes in found) <= 1


def test_a_tenth_slower_is_flagged_twenty_times_of_twenty_and_nothing_else_is():
    random = np.random.Generator(np.random.PCG64(7))
    others = 0
    for _ in range(20):
        changes = flagged(measured(random, processes=5), measured(random, processes=5, slower=1.1))
        (slow,) = [change for change in changes if change.figure == "step, s" and "torch" in change.cell]
        assert (slow.verdict, slow.word, slow.processes) == ("worse", "slower", (5, 5))
        assert slow.low < 0.1 < slow.high
        others += len(changes) > 1
    assert others <= 1


def test_blocks_of_one_process_are_not_taken_for_many_processes():
    """Two processes that differ as processes do: within each, blocks hardly vary."""
    one, other = measured(np.random.Generator(np.random.PCG64(0)), processes=1)[:1] * 2
    steady = [1.0 + 1e-4 * n for n in range(20)]
    one, other = (
        record | {"timing": record["timing"] | {"block_s": [factor * s for s in steady], "step_s_median": factor}}
        for record, factor in ((one, 1.0), (other, 1.035))
    )
    assert flagged([one], [other]) == []


def test_what_is_known_of_the_spread_is_used_and_said():
    random = np.random.Generator(np.random.PCG64(1))
    single = compare.compare(*(results(measured(random, processes=1)) for _ in range(2)))
    assert "slower or faster: processes are assumed to differ by 2%; --repeats 5 measures it" in single.notes
    several = compare.compare(*(results(measured(random, processes=3)) for _ in range(2)))
    (note,) = (note for note in several.notes if note.startswith("slower or faster: "))
    assert note.endswith("(32 degrees of freedom)")


def test_a_noisier_cell_is_judged_by_its_own_noise():
    random = np.random.Generator(np.random.PCG64(3))
    before, after = (measured(random, processes=5) for _ in range(2))
    noisy = (0.9, 1.1, 0.92, 1.08, 1.0)
    for found, shift in ((before, 1.0), (after, 1.12)):
        for repeat, record in enumerate(found[:: len(CELLS)]):
            record["timing"]["step_s_median"] = shift * noisy[repeat]
    assert flagged(before, after) == []


@pytest.mark.parametrize(
    ("part", "field", "factor", "words"),
    [
        ("timing", "step_s_median", 0.8, "faster"),
        ("timing", "time_to_first_step_s", 3, "slower to start"),
        ("memory", "process_peak_bytes", 1.2, "bigger"),
        ("memory", "process_peak_bytes", 0.8, "smaller"),
        ("accuracy", "knn_top1", 0.7, "less accurate"),
        ("accuracy", "linear_top1", 1.3, "more accurate"),
    ],
)
def test_each_figure_is_flagged_in_its_own_words(part, field, factor, words):
    random = np.random.Generator(np.random.PCG64(5))
    before, after = (measured(random, processes=3) for _ in range(2))
    for record in after:
        record[part] = record[part] | {field: record[part][field] * factor}
    found = flagged(before, after)
    assert [change.word for change in found] == [words] * len(CELLS)
    assert all(change.change == pytest.approx(factor - 1, abs=0.3 * factor) for change in found)


def test_processes_of_one_seed_are_one_accuracy():
    """They learn the same: that says nothing about another program, which rounds otherwise."""
    random = np.random.Generator(np.random.PCG64(6))
    before, after = (measured(random, processes=5) for _ in range(2))
    for record in after:
        record["accuracy"] = record["accuracy"] | {"knn_top1": 0.96 * record["accuracy"]["knn_top1"]}
    assert flagged(before, after) == []
    seeded = [
        [record | {"cell": record["cell"] | {"seed": record["cell"]["repeat"]}} for record in found]
        for found in (before, after)
    ]
    assert {change.word for change in flagged(*seeded)} == {"less accurate"}


def test_a_largest_batch_is_compared_with_its_speed_an_image():
    before, after = (synthetic_records.largest_batch("torch", batch) for batch in (512, 384))
    compared = compare.compare(results([before]), results([after]))
    assert {change.figure for change in compared.changes} == {
        "with the largest batch, s a sample",
        "largest batch that fits",
    }
    (smaller,) = (change for change in compared.changes if change.verdict != "same")
    assert smaller.word == "smaller largest batch"
    (speed,) = (change for change in compared.changes if change.figure.endswith("a sample"))
    assert speed.before == pytest.approx(1 / before["timing"]["samples_per_s"])


def test_cells_are_matched_by_what_they_ask_for():
    random = np.random.Generator(np.random.PCG64(8))
    before, after = measured(random, processes=1), measured(random, processes=1)
    for record in after:
        record["cell"] = record["cell"] | {"suite": "another", "id": "another", "repeat": 7}
    after[0]["cell"]["batch"] = 48
    compared = compare.compare(results(before), results(after))
    assert len({change.cell for change in compared.changes}) == len(CELLS) - 1
    assert compared.missing == ["torch · batch 32 · two crops · no queue"]
    assert compared.new == ["torch · batch 48 · two crops · no queue"]


def test_a_cell_that_no_longer_ends_well_is_worse():
    random = np.random.Generator(np.random.PCG64(9))
    before, after = (measured(random, processes=2) for _ in range(2))
    broken = [synthetic_records.failed(after[0], "oom", "no memory"), *after[1:]]
    compared = compare.compare(results(before), results(broken))
    (outcome,) = compared.outcomes
    assert (outcome.before, outcome.after, outcome.verdict) == ("ok", "ok; oom: no memory", "worse")
    assert compared.worse(0.5) == [outcome]
    (outcome,) = compare.compare(results(broken), results(before)).outcomes
    assert outcome.verdict == "better"


def test_different_devices_are_refused():
    random = np.random.Generator(np.random.PCG64(10))
    before = [synthetic_records.gpu(record, "Example H100") for record in measured(random, processes=1)]
    after = [synthetic_records.gpu(record, "Example H200") for record in measured(random, processes=1)]
    with pytest.raises(InvalidInput, match="H100 was measured on Example H100, H200 on Example H200: figures of"):
        compare.compare(results(before, "H100"), results(after, "H200"))
    both = compare.compare(results(before + after), results(after))
    assert len(both.missing) == len(CELLS)
    assert all(change.change == 0 for change in both.changes)


def test_folders_without_a_common_cell_are_refused():
    random = np.random.Generator(np.random.PCG64(11))
    found = measured(random, processes=1)
    with pytest.raises(InvalidInput, match="cells in common"):
        compare.compare(results(found[:1]), results(found[1:2]))
    with pytest.raises(InvalidInput, match="cells in common"):
        compare.compare(results([]), results(found))


def test_versions_and_settings_that_differ_are_named():
    random = np.random.Generator(np.random.PCG64(12))
    before, after = (measured(random, processes=1) for _ in range(2))
    for record in after:
        here = record["environment"]
        record["environment"] = here | {"packages": here["packages"] | {"torch": "2.14.0"}}
    compared = compare.compare(results(before), results(after))
    assert compared.context == ["torch: 2.13.0 → 2.14.0"]


@pytest.mark.parametrize(("freedom", "chance", "known"), [(1, 0.975, 12.706), (4, 0.995, 4.604), (30, 0.9995, 3.646)])
def test_quantiles_are_those_of_the_tables(freedom, chance, known):
    assert round(compare.student_quantile(chance, freedom), 3) == known


def test_quantiles_approach_the_normal_distribution_s():
    assert compare.student_quantile(0.999, 5000) == pytest.approx(NormalDist().inv_cdf(0.999), rel=1e-3)


def test_the_command_says_what_changed_and_fails_over_a_margin(command, tmp_path):
    random = np.random.Generator(np.random.PCG64(13))
    synthetic_records.write(tmp_path / "before", measured(random, processes=3))
    synthetic_records.write(tmp_path / "after", measured(random, processes=3, slower=1.15))
    done = command("compare", "before", "after")
    assert done.returncode == 0, done.stderr
    assert "1 slower" in done.stdout.splitlines()[-1]
    assert "torch · batch 32 · two crops · no queue" in done.stdout
    assert command("compare", "before", "after", "--fail-over", "5%").returncode == 1
    assert command("compare", "before", "after", "--fail-over", "0.3").returncode == 0
    assert command("compare", "after", "before", "--fail-over", "5%", "--json", "changes.json").returncode == 0
    changes = json.loads((tmp_path / "changes.json").read_text())["changes"]
    assert [change["word"] for change in changes if change["verdict"] != "same"] == ["faster"]
    for mistake, words in ((["--fail-over", "lots"], "fail-over = 'lots': must be a share"), ([], "folder with")):
        done = command("compare", "before", "after" if mistake else "nowhere", *mistake)
        assert done.returncode == 2
        assert words in done.stderr


def test_everything_that_differs_is_shown(main, tmp_path):
    random = np.random.Generator(np.random.PCG64(15))
    before, after = (measured(random, processes=1) for _ in range(2))
    for found, version in ((before, "2.12.0"), (after, "2.13.0")):
        for record in found:
            here = record["environment"]
            record["environment"] = here | {"packages": here["packages"] | {"torch": version}}
        found.append(synthetic_records.kernels("torch"))
        card = synthetic_records.gpu(synthetic_records.record("jax", 64, multi_crop=True, queue=False))
        found.append(card)
    before[0]["timing"] = before[0]["timing"] | {"step_s_median": 0.5 * before[0]["timing"]["step_s_median"]}
    after[1] = synthetic_records.failed(after[1], "oom", "no memory")
    not_run = synthetic_records.failed(after.pop(2), "not_run", "planned, not reached yet")
    synthetic_records.write(tmp_path / "before", before)
    synthetic_records.write(tmp_path / "after", [*after, not_run])
    done = main("compare", "before", "after", "--all")
    assert done.code == 0, done.err
    for words in (
        "differs: torch: 2.12.0, 2.13.0 → 2.13.0",
        "worse: jax · batch 32 · two crops · no queue: ok → oom: no memory",
        "only before: torch · batch 32 · two crops · queue 256",
        "sinkhorn 4096x3000, s",
        "energy, J a sample",
        "1 slower; 1 cells no longer end well.",
    ):
        assert words in done.out, words
    refused = main("compare", "before", "after", "--json", "nowhere/changes.json")
    assert refused.code == 2
    assert refused.err == "swav-bench: json = 'nowhere/changes.json': cannot be written (No such file or directory)\n"


def test_hostile_records_are_shown_without_effect(command, tmp_path):
    found = measured(np.random.Generator(np.random.PCG64(14)), processes=1)
    hostile = found[0] | {"cell": found[0]["cell"] | {"implementation": "[red]\x1b[31mx:y"}}
    for name, factor in (("before", 1.0), ("after", 2.0)):
        timing = hostile["timing"] | {"step_s_median": factor}
        synthetic_records.write(tmp_path / name, [hostile | {"timing": timing}])
    done = command("compare", "before", "after")
    assert done.returncode == 0, done.stderr
    assert "[red]?[31mx:y" in done.stdout
    assert "\x1b" not in done.stdout


def test_a_real_slowdown_is_flagged(run, cell, tmp_path, monkeypatch):
    """Real processes; the step of the later ones sleeps a third longer."""
    cells = [cell("Paced", repeat=repeat) for repeat in range(3)]
    for folder, step_s in (("before", 0.03), ("after", 0.04)):
        monkeypatch.setenv("FAKE_STEP_S", str(step_s))
        assert {record["status"] for record in run(*cells, folder=tmp_path / folder)} == {"ok"}
    compared = compare.compare(*(records.load(tmp_path / name) for name in ("before", "after")))
    (step,) = (change for change in compared.changes if change.figure == "step, s")
    assert (step.word, step.processes) == ("slower", (3, 3))
    assert step in compared.worse(0.05)
