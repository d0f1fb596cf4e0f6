"""Suites: the right cells, the most telling first, and each of them small enough to be rehearsed."""

from __future__ import annotations

import json
import re
from itertools import pairwise
from pathlib import Path

import pytest

from swav_bench.nvml import SHORTEST_WINDOW_S
from swav_bench.suites import SUITES, Changes, plan
from swav_bench.timing import blocks
from swav_spec.errors import InvalidInput

RESULTS = Path(__file__).parents[2] / "results"
FRAMEWORKS = ["torch", "jax", "tensorflow"]


def test_the_demo_is_24_cells_with_the_frameworks_in_turn():
    planned = plan("demo")
    assert len({cell.id for cell in planned}) == len(planned) == 24
    assert [cell.implementation for cell in planned] == FRAMEWORKS * 8
    assert {(cell.batch, cell.multi_crop, cell.queue_rows) for cell in planned} == {
        (batch, crops, rows) for batch in (32, 64) for crops in (False, True) for rows in (0, 256)
    }


def test_the_demo_s_cells_are_those_of_the_committed_results():
    committed = json.loads((RESULTS / "demo-cpu" / "plan.json").read_text())
    assert [cell.id for cell in plan("demo")] == [cell["id"] for cell in committed["cells"]]


@pytest.mark.parametrize("name", SUITES)
def test_every_suite_has_different_cells_whose_configurations_hold(name):
    planned = plan(name)
    assert len({cell.id for cell in planned}) == len(planned) > 2
    assert {cell.device for cell in planned} == {SUITES[name].device}
    for cell in planned:
        assert cell.config(samples=2048 if cell.dataset == "noise" else 4096).batch == cell.batch


def test_imagenet_shapes_begin_with_the_core():
    planned = plan("imagenet-shapes")
    names = len(SUITES["imagenet-shapes"].matrices[0].implementations)
    core = planned[: 4 * names]
    assert len(core) <= 16
    assert {(cell.batch, cell.precision) for cell in core} == {(256, "bfloat16")}
    assert [(cell.multi_crop, cell.queue_rows) for cell in core[::names]] == [
        (False, 0),
        (True, 0),
        (False, 3840),
        (True, 3840),
    ]
    for one, other in pairwise(core):
        assert one.implementation != other.implementation
    largest = planned[len(core) : len(core) + 6]
    assert {(cell.task, cell.implementation) for cell in largest} == {("largest_batch", name) for name in FRAMEWORKS}
    configs = {cell.multi_crop: cell.config(samples=2048) for cell in core}
    assert configs[True].view_sizes == (224,) * 2 + (96,) * 6
    assert configs[False].view_sizes == (224,) * 2
    assert {cell.batch for cell in planned} == {64, 256, 1024}
    assert {cell.precision for cell in planned} == {"bfloat16", "tf32", "float32"}
    assert {cell.mode for cell in planned} >= {"eager", "compile", "cudagraph", "jit", "graph", "xla"}


def test_cifar_shapes_are_those_of_a_small_network():
    config = plan("cifar", Changes(multi_crop="on"))[0].config(samples=4096)
    assert config.network.stem == "cifar"
    assert config.view_sizes == (32, 32, 16, 16, 16, 16)


def test_full_has_the_cells_of_its_parts_and_the_first_of_each_first():
    planned = plan("full")
    parts = {part: plan(part, device="gpu") for part in SUITES["full"].parts}
    assert {cell.id for cell in planned} == {cell.id for cells in parts.values() for cell in cells}
    first = {cell.suite for cell in planned[:40]}
    assert first == set(parts)


def test_steps_last_long_enough_for_energy_where_the_goals_are_reached():
    """At the throughput that one H200 should reach, the timed blocks of the first cells take nvml.SHORTEST_WINDOW_S."""
    good = {("imagenet-shapes", False): 2500, ("imagenet-shapes", True): 1600, ("cifar", True): 18000}
    for cell in [*plan("imagenet-shapes"), *plan("cifar")]:
        rate = good.get((cell.suite, cell.multi_crop))
        if rate and cell.task == "train" and cell.precision == "bfloat16" and cell.batch <= 512:
            timed = blocks(cell.config(samples=4096))
            assert timed.count * timed.steps * cell.batch / rate > SHORTEST_WINDOW_S, cell.title


def test_repeats_and_seeds_go_round_whole_rounds_of_the_matrix():
    planned = plan("demo", Changes(repeats=2, batches=(32,), multi_crop="off"))
    assert [cell.repeat for cell in planned] == [0] * 6 + [1] * 6


def test_changes_apply_to_every_matrix():
    asked = Changes(batches=(8,), precisions=("float32",), queue="off", steps=15, implementations=("jax",))
    planned = plan("imagenet-shapes", asked, device="cpu")
    assert [(cell.task, cell.implementation, cell.batch, cell.multi_crop, cell.steps) for cell in planned] == [
        ("train", "jax", 8, False, 15),
        ("train", "jax", 8, True, 15),
        ("largest_batch", "jax", 8, False, 15),
        ("largest_batch", "jax", 8, True, 15),
    ]


def test_a_stranger_is_measured_in_its_default_mode_at_each_setting_once():
    planned = plan("imagenet-shapes", Changes(implementations=("fake:Fake", "torch")))
    strangers = [cell for cell in planned if cell.implementation == "fake:Fake"]
    assert {cell.mode for cell in strangers} == {"default"}
    own = {(cell.batch, cell.multi_crop, cell.queue_rows, cell.precision, cell.steps) for cell in strangers}
    assert len(own) == len(strangers) == len([cell for cell in planned if cell.mode == "eager"])


def test_modes_are_for_all_or_for_one():
    planned = plan("demo", Changes(modes=("torch=compile", "tensorflow=xla", "tensorflow=graph"), batches=(32,)))
    modes = {}
    for cell in planned:
        modes.setdefault(cell.implementation, set()).add(cell.mode)
    assert modes == {"torch": {"compile"}, "jax": {"default"}, "tensorflow": {"graph", "xla"}}
    assert {cell.mode for cell in plan("demo", Changes(modes=("eager",)))} == {"eager"}


@pytest.mark.parametrize("name", SUITES)
def test_a_rehearsal_is_short_and_shows_every_axis(name):
    whole, rehearsed = plan(name), plan(name, rehearse=True)
    assert len(rehearsed) <= 36
    assert {cell.device for cell in rehearsed} == {"cpu"}
    for field in ("implementation", "mode", "precision", "task", "multi_crop", "suite"):
        shown = {getattr(cell, field) for cell in rehearsed}
        assert shown == {getattr(cell, field) for cell in whole} - {"cudagraph"}, field
    for cell in rehearsed:
        config = cell.config(samples=1024)
        assert (config.batch, config.network.block, max(config.view_sizes)) == (16, "conv", 32)
        assert (cell.dataset, cell.steps) in (("noise-32", 20), ("digits", 120))


@pytest.mark.parametrize(
    ("name", "changes", "words"),
    [
        ("nothing", {}, "suite = 'nothing': must be one of demo"),
        ("demo", {"implementations": ("pytorch",)}, "implementation = 'pytorch': must be one of numpy, torch"),
        ("demo", {"recipe": "nothing"}, "recipe = 'nothing'"),
        ("demo", {"batches": (1,)}, "batch = 1: must be at least 2"),
        ("demo", {"steps": 3}, "steps = 3: must be at least 15"),
        ("demo", {"seeds": (-1,)}, "seed = -1"),
        ("demo", {"multi_crop": "maybe"}, "multi_crop = 'maybe': must be both, on or off"),
        ("demo", {"batches": (512,), "queue": "on"}, "queue_length = 256"),
        ("demo", {"precisions": ("float16",)}, "precision = 'float16'"),
        ("demo", {"inputs": ("tape",)}, "input = 'tape': must be one of resident, stream, views"),
        ("demo", {"networks": ("resnet1000",)}, "network = 'resnet1000'"),
        ("demo", {"crops": ("2x32",)}, "crops = '2x32'"),
    ],
)
def test_what_cannot_be_planned_is_one_sentence(name, changes, words):
    with pytest.raises(InvalidInput, match=re.escape(words)):
        plan(name, Changes(**changes))
