"""Golden files b: one step's queue, codes, loss and gradient, on one rank and on two."""

from pathlib import Path

import numpy as np
import pytest

from swav_spec.testing.assertions import assert_golden, assert_golden_scores
from swav_spec.testing.golden import cases, codes_of_ranks, views_and_batch
from swav_spec.testing.subject import Subject

pytestmark = pytest.mark.needs("maths")

GOLDEN = Path(__file__).parents[1] / "golden"
CASES = cases(GOLDEN, "b_loss_world1", "b_loss_world2")


@pytest.mark.parametrize("case", [c for c in CASES if c.about["queue_rows_local"]], ids=lambda case: case.name)
def test_queue_joins_in_front(implementation, precision, case):
    rows, (views, batch) = case.about["queue_rows_local"], views_and_batch(case)
    prototypes = implementation.normalize_rows(implementation.to_device(case.input("W_raw", precision)))
    scores = case.input("scores", precision)
    for rank, queue in enumerate(case.input("queue_before", precision)):
        queued = implementation.to_host(implementation.queue_read(implementation.to_device(queue), rows, prototypes))
        own = scores[rank].reshape(views, batch, -1)[list(case.about["crops_for_assign"])]
        given = np.concatenate([queued, own], axis=1)
        expected = case.output("sinkhorn_in", precision)[rank]
        assert_golden_scores(given, expected, precision=precision, what=f"{case.name}, rows of rank {rank}")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_codes(implementation, precision, case):
    _, batch = views_and_batch(case)
    settings = {"epsilon": case.about["epsilon"], "iterations": case.about["sinkhorn_iterations"]}
    for slot in range(len(case.about["crops_for_assign"])):
        of_ranks = list(case.output("sinkhorn_in", precision)[:, slot])
        expected = case.output("q", precision)[:, slot]
        what = f"{case.name}, codes of slot {slot}"
        kept = codes_of_ranks(implementation, of_ranks, batch, case.about)
        assert_golden(kept, expected, precision=precision, what=what)
        if len(of_ranks) > 1:
            apart = Subject(implementation).sinkhorn_in_shards(of_ranks, keep=batch, **settings)
            assert_golden(np.stack(apart), expected, precision=precision, what=f"{what}, each rank its own")
        else:
            scores = implementation.to_device(of_ranks[0])
            last = implementation.to_host(implementation.sinkhorn(scores, keep=batch, **settings))
            assert_golden(last[None], expected, precision=precision, what=f"{what}, last rows only")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_loss_and_gradient(implementation, precision, case):
    views, batch = views_and_batch(case)
    for rank, scores in enumerate(case.input("scores", precision)):
        codes = case.output("q", precision)[rank]
        loss, gradient = implementation.swapped_loss(
            implementation.to_device(scores.reshape(views, batch, -1)),
            implementation.to_device(codes),
            temperature=case.about["temperature"],
            assigned=tuple(case.about["crops_for_assign"]),
        )
        what = f"{case.name}, rank {rank}"
        gradient = implementation.to_host(gradient).reshape(scores.shape)
        expected = case.output("loss", precision)[rank]
        assert_golden(implementation.to_host(loss), expected, precision=precision, what=f"{what}, loss")
        expected = case.output("grad_scores", precision)[rank]
        assert_golden(gradient, expected, precision=precision, what=f"{what}, gradient")


@pytest.mark.parametrize("case", [c for c in CASES if c.about["queue_rows_local"]], ids=lambda case: case.name)
def test_queue_after(implementation, precision, case):
    views, batch = views_and_batch(case)
    rows = case.about["queue_rows_local"]
    for rank, embeddings in enumerate(case.input("emb", precision)):
        pushed = embeddings.reshape(views, batch, -1)[list(case.about["crops_for_assign"])]
        queue = implementation.to_device(case.input("queue_before", precision)[rank])
        after, count = implementation.queue_push(queue, rows, implementation.to_device(pushed))
        expected = case.output("queue_after", precision)[rank]
        assert_golden(implementation.to_host(after), expected, precision=precision, what=f"{case.name}, rank {rank}")
        assert count == rows + batch
