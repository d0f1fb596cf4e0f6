"""What is true of the queue of embeddings, against a list of everything that was ever pushed.

What is multiplied are numbers that TF32 holds, so that scores are judged alike in every precision.
"""

from __future__ import annotations

import hypothesis.strategies as st
import numpy as np
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from swav_spec.testing import runs
from swav_spec.testing.assertions import assert_close, assert_same
from swav_spec.testing.properties import holds, machine
from swav_spec.testing.properties.network import FEW, TRAINER, run_seeds
from swav_spec.testing.strategies import arrays, coarse, exact, generator, seeds
from swav_spec.testing.subject import Subject

#: (assigned views A, batch B, steps until full, dimension D); rows R = batch * steps.
SIZES = ((1, 1, 1, 2), (1, 1, 2, 2), (2, 2, 2, 3), (2, 3, 4, 3), (2, 1, 3, 2))
PROTOTYPES = 3
#: Of queued embeddings, a power of 2: numbers of 11 bits of this size would not survive in a queue of float16.
SMALL = 2.0**-20


@machine("queue_read", "queue_push", share=0.5)
def is_a_list(subject: Subject) -> type[RuleBasedStateMachine]:
    """Newest rows in front, the oldest dropped, per view; not read until it has been filled once, then all of it;
    a stop and a resume in the middle, or steps without a push, change nothing.
    """

    class Queue(RuleBasedStateMachine):
        history: list[str]

        @initialize(size=st.sampled_from(SIZES))
        def start(self, size):
            assigned, self.batch, steps, self.dimension = size
            self.rows = self.batch * steps
            self.queue = np.zeros((assigned, self.rows, self.dimension))
            self.count = 0
            self.pushed = [np.empty((0, self.dimension)) for _ in range(assigned)]
            self.history = [f"queue of {self.rows} rows for {assigned} views, batch {self.batch}"]

        @rule(seed=seeds, zero=st.booleans())
        def push(self, seed, zero):
            self.history.append(f"push({seed=}, {zero=})")
            embeddings = SMALL * coarse(generator(seed).normal(size=(len(self.pushed), self.batch, self.dimension)))
            if zero:  # a dead network's embedding; it must not look like an empty row
                embeddings[:, -1] = 0.0
            self.queue, self.count = subject.queue_push(self.queue, self.count, embeddings)
            self.pushed = [np.concatenate([new, old]) for new, old in zip(embeddings, self.pushed, strict=True)]

        @rule()
        def stop_and_resume(self):
            self.history.append("stop and resume")
            self.queue, self.count = np.array(self.queue), int(self.count)

        @precondition(lambda self: hasattr(self, "queue"))
        @invariant()
        def is_read_when_full(self):
            prototypes = coarse(generator(self.count).normal(size=(PROTOTYPES, self.dimension)))
            scores = subject.queue_read(self.queue, self.count, prototypes)
            total = len(self.pushed[0])
            if total < self.rows:
                assert scores is None, f"read after {total} of {self.rows} rows: must wait until the queue is full"
                return
            assert scores is not None, f"not read though all {self.rows} rows have been filled"
            expected = np.stack([rows[: self.rows] @ prototypes.T for rows in self.pushed])
            assert_close(scores, expected, precision=subject.maths, depth=self.dimension, gain=4, what="scores")

        @precondition(lambda self: hasattr(self, "queue"))
        @invariant()
        def holds_the_newest(self):
            filled = min(len(self.pushed[0]), self.rows)
            assert self.queue.shape == (len(self.pushed), self.rows, self.dimension), f"shape {self.queue.shape}"
            # Beyond full, how far it is counted is nobody's business.
            assert min(self.count, self.rows) == filled, f"count {self.count} after {len(self.pushed[0])} rows"
            for view, rows in enumerate(self.pushed):
                expected = rows[:filled].astype(self.queue.dtype)
                assert_same(self.queue[view, :filled], expected, what=f"the newest rows of assigned view {view}")

    return Queue


@holds("queue_push", size=st.sampled_from(SIZES), seed=seeds)
def the_newest_are_in_front(subject: Subject, size: tuple[int, ...], seed: int) -> None:
    """One push: its embeddings first, in their order, then the rows that were first before."""
    assigned, batch, steps, dimension = size
    rows, random = batch * steps, generator(seed)
    queue, new = (exact(random.normal(size=(assigned, count, dimension))) for count in (rows, batch))
    pushed, count = subject.queue_push(queue, 0, new)
    expected = np.concatenate([new, queue], axis=1)[:, :rows].astype(pushed.dtype)
    assert_same(pushed, expected, what="queue after a push")
    assert count == batch, f"count {count} after the first {batch} rows"


@holds("queue_read", prototypes=arrays((PROTOTYPES, 2)).map(coarse), size=st.sampled_from(SIZES[:2]), seed=seeds)
def read_with_the_given_prototypes(subject: Subject, prototypes: np.ndarray, size: tuple[int, ...], seed: int) -> None:
    """A full queue is read as its embeddings times the prototypes given now; one row short of full it is not read."""
    assigned, batch, steps, dimension = size
    rows = batch * steps
    queue = coarse(generator(seed).normal(size=(assigned, rows, dimension)))
    assert subject.queue_read(queue, rows - 1, prototypes) is None, f"read with {rows - 1} of {rows} rows filled"
    scores = subject.queue_read(queue, rows, prototypes)
    assert scores is not None, "a full queue is not read"
    # Next to 1, so that products that cancel are judged by what they are made of.
    one = np.ones((assigned, 1, PROTOTYPES))
    actual, expected = (np.concatenate([s, one], axis=1) for s in (scores, queue @ prototypes.T))
    assert_close(actual, expected, precision=subject.maths, depth=dimension, gain=4, what="scores of the queue")


@holds(*TRAINER, seed=run_seeds, share=FEW)
def training_pushes_its_embeddings(subject: Subject, seed: int) -> None:
    """From its first step on, the queue of each assigned view holds the embeddings of the last steps, newest first,
    in the order of `assigned`; its count tells how many rows it has received.
    """
    for step in runs.runs(subject, seed):
        config = step.config
        count = max(step.number + 1 - config.queue_start, 0) * config.batch if config.queue_rows else 0
        rows, found = config.queue_rows, int(step.after["queue_count"])
        assert found == count, f"{step.where}: queue_count {found}, must be {count}"
        if not count:
            continue
        own = step.outputs[1].reshape(config.views, config.batch, -1)[list(config.assigned)]
        queue = step.after["queue"]
        assert queue.shape == (len(config.assigned), rows, own.shape[-1]), f"{step.where}: queue of shape {queue.shape}"
        step.close(subject, queue[:, : config.batch], own, step.gains.outputs[1], "newest rows of the queue")
        if count > config.batch:
            older = step.before["queue"][:, : rows - config.batch]
            assert_same(queue[:, config.batch :], older, what=f"{step.where}: older rows of the queue")


@holds(*TRAINER, seed=run_seeds, share=FEW)
def training_uses_a_full_queue(subject: Subject, seed: int) -> None:
    """The loss is that of codes found with the queue's rows in front, scored with this step's normalised prototypes,
    from the step after the queue has been filled once, and of the batch's rows alone before.
    """
    for step in runs.runs(subject, seed):
        step.close(subject, step.loss, step.expected.loss, step.gains.loss, "loss")
        step.close(subject, step.metrics["loss"], step.expected.loss, step.gains.loss, "metric loss")
