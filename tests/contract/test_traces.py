"""Golden files g: two whole training runs of small ResNets, recorded from the method's original program.

The first has everything at once (two resolutions, queue, freeze, warm-up, random batch normalisation); the second
starts from the published initialisation, with the batch normalisation's biases at zero.
"""

from pathlib import Path

import numpy as np
import pytest

from swav_spec.network import is_buffer, parameter_names
from swav_spec.schedule import learning_rates
from swav_spec.testing.assertions import assert_close, assert_trace
from swav_spec.testing.golden import arrays_of, norms, play, trace

pytestmark = pytest.mark.needs("trainer")

GOLDEN = Path(__file__).parents[1] / "golden"
#: By make_trace_spread.py.
SPREAD = arrays_of(Path(__file__).parent, "trace_spread")
TRACES = {name: trace(GOLDEN, name) for name in ("g_trace_a", "g_trace_b_bnzero")}


@pytest.fixture(scope="module", params=TRACES)
def golden(request):
    return TRACES[request.param]


@pytest.fixture(scope="module")
def record(implementation, precision, golden):
    return play(implementation, golden, precision)


def assert_recorded(values, name, golden, precision):
    """A quantity of every step."""
    assert_trace(
        values,
        golden.arrays[f"{name}_float32"],
        golden.arrays[f"{name}_float64"],
        SPREAD[f"{golden.name}/{name}"],
        precision=precision,
        what=name,
    )


def assert_recorded_once(value, name, golden, precision):
    """A quantity of one moment, by the rule of a trace of one step."""
    float32, float64 = golden.arrays[f"{name}_float32"], golden.arrays[f"{name}_float64"]
    spread = SPREAD.get(f"{golden.name}/{name}", np.zeros(1))
    assert_trace([value], float32[None], float64[None], spread, precision=precision, what=name)


def test_parameters_are_those_of_the_file(golden):
    assert golden.parameter_names == parameter_names(golden.config.network)


def test_learning_rates(precision, golden, record):
    assert_close(learning_rates(golden.config.schedule), golden.lr, precision="float64", what="schedule")
    assert_close(record["lr"], golden.lr, precision=precision, what="lr of the metrics")


def test_losses(precision, golden, record):
    assert_recorded(record["loss"], "loss", golden, precision)
    assert_recorded(record["loss_before"], "loss", golden, precision)


def test_all_scores_were_finite(golden, record):
    assert np.all(record["finite"])


@pytest.mark.parametrize("name", ["grad_norms_raw", "param_norms", "prototypes_raw_after"])
def test_every_step(precision, golden, record, name):
    assert_recorded(record[name], name, golden, precision)


def test_queue(precision, golden, record):
    assert record["sinkhorn_rows"] == golden.arrays["sinkhorn_rows_float64"].tolist()
    if not golden.config.queue_rows:
        assert record["queue_after"] == [None] * len(record["loss"])
        return
    start, batch = golden.config.queue_start, golden.config.batch
    pushed = [max(0, step + 1 - start) * batch for step in range(len(record["loss"]))]
    assert record["queue_count"] == pushed
    before = np.full(golden.arrays["queue_after_float64"].shape[1:], np.nan)
    after = [queue if count else before for queue, count in zip(record["queue_after"], pushed, strict=True)]
    assert_recorded(after, "queue_after", golden, precision)


def test_first_and_last_forward(implementation, precision, golden, record):
    for name in ("emb_step0", "scores_step0", "scores_last"):
        assert_recorded_once(record[name], name, golden, precision)


@pytest.mark.needs("maths")
def test_first_codes(implementation, precision, golden, record):
    config = golden.config
    by_view = record["scores_step0"].reshape(config.views, config.batch, -1)
    codes = [
        implementation.to_host(
            implementation.sinkhorn(
                implementation.to_device(by_view[view]), epsilon=config.epsilon, iterations=config.iterations
            )
        )
        for view in config.assigned
    ]
    assert_recorded_once(np.stack(codes), "q_step0", golden, precision)


def test_batch_normalisation(precision, golden, record):
    buffers = [name for name in record["model"] if is_buffer(name)]
    assert len(buffers) == len([name for name in golden.arrays if name.startswith("bn_float64/")])
    for name in buffers:
        if name.endswith("num_batches_tracked"):
            assert int(record["model"][name]) == int(golden.arrays[f"bn_float64/{name}"]), name
        else:
            float32, float64 = (golden.arrays[f"bn_{dtype}/{name}"][None] for dtype in ("float32", "float64"))
            spread = SPREAD[f"{golden.name}/bn/{name}"]
            value = [record["model"][name]]
            assert_trace(value, float32, float64, spread, precision=precision, what=name)


def test_end(precision, golden, record):
    names = golden.parameter_names
    norms_after = [*record["param_norms"][:-1], norms(record["model"], names)]
    assert_recorded(norms_after, "param_norms", golden, precision)
    # Whole weights are recorded of the first trace, and to be compared in float64 alone.
    final = {name: value for name, value in golden.arrays.items() if name.startswith("final_float64/")}
    for name, expected in final.items() if precision == "float64" else ():
        short = name.removeprefix("final_float64/")
        assert_close(record["model"][short], expected, precision=precision, what=f"{short} at the end")


def test_the_first_trace_has_its_final_weights():
    golden = TRACES["g_trace_a"]
    final = [name for name in golden.arrays if name.startswith("final_float64/")]
    assert len(final) == len(golden.parameter_names)


def test_running_statistics_at_work(precision, golden, record):
    assert_recorded_once(record["eval_backbone"], "eval_backbone", golden, precision)
    assert_recorded_once(record["eval_emb"], "eval_emb", golden, precision)
