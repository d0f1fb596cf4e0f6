"""Estimates: the right order of magnitude by count, and close to what similar cells took."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
from tests.harness import synthetic_records as synthetic

from swav_bench import cells, records
from swav_bench.estimate import Estimator
from swav_bench.suites import Changes, plan

DEMO = records.load(Path(__file__).parents[2] / "results" / "demo-cpu").records


def cell_of(record):
    return cells.from_job({name: value for name, value in record["cell"].items() if name not in ("id", "queue")})


def test_counts_alone_are_within_a_factor_of_three_of_the_committed_demo():
    estimator = Estimator()
    for record in DEMO:
        about = estimator.cell(cell_of(record))
        assert about.similar == 0
        assert 1 / 3 < about.wall_s / record["wall_s"] < 3
        assert 1 / 2 < about.memory_bytes / record["memory"]["process_peak_bytes"] < 2


@pytest.mark.parametrize("left_out", range(0, 24, 5))
def test_records_of_similar_cells_bring_it_within_a_third(left_out):
    record = DEMO[left_out]
    estimator = Estimator(DEMO[:left_out] + DEMO[left_out + 1 :])
    about = estimator.cell(cell_of(record))
    assert about.similar >= 1
    assert 0.67 < about.wall_s / record["wall_s"] < 1.5
    assert 0.8 < about.memory_bytes / record["memory"]["process_peak_bytes"] < 1.25


def test_more_work_takes_longer_and_more_memory():
    (base,) = plan("imagenet-shapes", Changes(implementations=("torch",), modes=("eager",), multi_crop="on"))[:1]
    estimator = Estimator()

    def about(**changes):
        return estimator.cell(dataclasses.replace(base, **changes))

    assert about(steps=200).wall_s > about().wall_s
    assert about(batch=512).wall_s > about().wall_s
    assert about(precision="float32").wall_s > about().wall_s
    assert about(mode="compile").wall_s > about().wall_s
    assert about(task="largest_batch").wall_s > about().wall_s
    assert about(precision="float32").memory_bytes > 1.5 * about().memory_bytes
    assert about(batch=512).memory_bytes > 1.9 * about().memory_bytes
    assert about(multi_crop=False).memory_bytes < about().memory_bytes
    # ResNet-50 in half precision: about 90 MB an image of 224 pixels, as is often reported.
    assert 0.5 < about(multi_crop=False).memory_bytes / (2 * 256 * 90e6) < 1.5


def test_a_peer_s_views_on_the_host_take_their_time():
    asked = Changes(implementations=("torch", "plain-torch"), modes=("eager",), multi_crop="on")
    cells = plan("imagenet-shapes", asked)
    column, peer = (Estimator(threads=8).cell(dataclasses.replace(cell, mode="default")) for cell in cells[:2])
    assert peer.wall_s > 2 * column.wall_s
    fewer = Estimator(threads=1).cell(dataclasses.replace(cells[1], mode="default"))
    assert fewer.wall_s > 4 * peer.wall_s


def test_only_cells_that_went_well_and_are_alike_teach():
    good = DEMO[0]
    failed = synthetic.failed(good, "oom", "no memory") | {"wall_s": 500.0}
    cell = cell_of(good)
    assert Estimator([failed]).cell(cell) == Estimator().cell(cell)
    assert Estimator([good]).cell(dataclasses.replace(cell, implementation="jax")).similar == 0
    assert Estimator([good]).cell(dataclasses.replace(cell, task="kernels")).similar == 0
    other_shape = Estimator([good]).cell(dataclasses.replace(cell, batch=64))
    assert other_shape.similar == 1


def test_other_tasks_take_what_they_took():
    kernels = DEMO[0] | {"wall_s": 77.0, "cell": DEMO[0]["cell"] | {"task": "kernels"}}
    about = Estimator([kernels]).cell(dataclasses.replace(cell_of(DEMO[0]), task="kernels"))
    assert (about.wall_s, about.similar) == (77.0, 1)


def test_more_threads_are_faster():
    cell = dataclasses.replace(cell_of(DEMO[0]), network="resnet50")
    assert Estimator(threads=8).cell(cell).wall_s < Estimator(threads=1).cell(cell).wall_s
