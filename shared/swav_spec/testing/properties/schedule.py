"""What is true of the learning rate and of a step's settings."""

from __future__ import annotations

import dataclasses

import hypothesis.strategies as st
import numpy as np

from swav_spec import schedule as specification
from swav_spec.config import Config, CropGroup, Network, Schedule
from swav_spec.testing import runs
from swav_spec.testing.assertions import assert_close
from swav_spec.testing.properties import holds
from swav_spec.testing.properties.network import FEW, TRAINER, run_seeds
from swav_spec.testing.subject import Subject


@st.composite
def schedules(draw: st.DrawFn, least_cosine: int = 0) -> Schedule:
    """Runs of up to 40 steps, warm-ups of none to all of them."""
    cosine = draw(st.integers(max(least_cosine, 0), 24))
    warmup = draw(st.integers(0 if cosine else 1, 16))
    base = draw(st.integers(1, 64)) / 16
    return Schedule(
        steps=warmup + cosine,
        base_lr=base,
        final_lr=base * draw(st.integers(0, 15)) / 16,
        warmup_steps=warmup,
        start_warmup=base * draw(st.integers(0, 15)) / 16,
    )


@st.composite
def configs(draw: st.DrawFn) -> Config:
    """Configs whose queue and freeze begin and end anywhere in a run."""
    batch = draw(st.integers(2, 4))
    length = draw(st.one_of(st.just(0), st.integers(batch, 16)))
    return Config(
        batch=batch,
        crops=(CropGroup(8, 2, (0.5, 1.0)),),
        network=Network(),
        schedule=Schedule(steps=20, base_lr=1.0),
        queue_length=length,
        queue_start=draw(st.integers(0, 8)),
        freeze_steps=draw(st.integers(0, 12)),
    )


def rates(subject: Subject, schedule: Schedule) -> np.ndarray:
    """The subject's rates, one for each step."""
    result = np.asarray(subject.implementation.learning_rates(schedule), dtype=np.float64)
    assert result.shape == (schedule.steps,), f"{result.shape} rates for {schedule.steps} steps"
    return result


@holds("learning_rates", schedule=schedules())
def warms_up_in_a_line_with_both_ends(subject: Subject, schedule: Schedule) -> None:
    """The warm-up starts at start_warmup, ends at base_lr and rises evenly; one step of it is the start value."""
    count = schedule.warmup_steps
    warmup = rates(subject, schedule)[:count]
    if count >= 1:
        assert_close(warmup[0] + 1, schedule.start_warmup + 1, precision="float64", what="first rate")
    if count >= 2:
        assert_close(warmup[-1], schedule.base_lr, precision="float64", what="last rate of the warm-up")
        bend = np.append(np.diff(warmup, 2), schedule.base_lr)
        assert_close(
            bend, np.append(np.zeros(count - 2), schedule.base_lr), precision="float64", what="bend of the warm-up"
        )


@holds("learning_rates", schedule=schedules(least_cosine=2))
def falls_as_half_a_cosine(subject: Subject, schedule: Schedule) -> None:
    """After the warm-up the rate starts at base_lr and falls as half a cosine: rates t and n - t add up to
    base_lr + final_lr, and the rate of n/3 stands three quarters up.
    """
    rest = rates(subject, schedule)[schedule.warmup_steps :]
    ends = schedule.base_lr + schedule.final_lr
    assert_close(rest[0], schedule.base_lr, precision="float64", what="first rate after the warm-up")
    assert_close(rest[1:] + rest[:0:-1], np.full(len(rest) - 1, ends), precision="float64", what="rates t and n - t")
    if len(rest) % 3 == 0:
        third = schedule.final_lr + (schedule.base_lr - schedule.final_lr) * 3 / 4
        assert_close(rest[len(rest) // 3], third, precision="float64", what="rate at a third")


@holds("learning_rates", schedule=schedules(least_cosine=1))
def approaches_the_final_rate(subject: Subject, schedule: Schedule) -> None:
    """The rate falls in every step after the warm-up and stays above final_lr to the last."""
    rest = rates(subject, schedule)[schedule.warmup_steps :]
    assert (np.diff(rest) < 0).all(), f"the rate does not fall: {rest}"
    assert rest[-1] > schedule.final_lr, f"the last rate {rest[-1]} must lie above final_lr {schedule.final_lr}"


@holds("step_settings", "learning_rates", config=configs(), step=st.integers(0, 19), count=st.integers(0, 6))
def a_step_knows_its_place(subject: Subject, config: Config, step: int, count: int) -> None:
    """Frozen before step freeze_steps; pushed from step queue_start on; the queue is used once it is full."""
    rows = count * config.batch
    settings = subject.implementation.step_settings(config, step, rows)
    full = config.queue_length - config.queue_length % config.batch
    assert settings.frozen == (step < config.freeze_steps), f"frozen in step {step}: {settings.frozen}"
    assert settings.push == (full > 0 and step >= config.queue_start), f"pushed in step {step}: {settings.push}"
    assert settings.use_queue == (full > 0 and rows >= full), (
        f"queue of {full} rows used with {rows}: {settings.use_queue}"
    )
    expected = rates(subject, config.schedule)[step]
    assert_close(settings.lr, expected, precision="float64", what=f"rate of step {step}")


@holds("step_settings", config=configs())
def a_step_beyond_the_schedule_is_refused(subject: Subject, config: Config) -> None:
    """There is no rate before the first or after the last step."""
    short = dataclasses.replace(config, schedule=dataclasses.replace(config.schedule, steps=5))
    for step in (-1, 5):
        try:
            subject.implementation.step_settings(short, step, 0)
        except ValueError:
            continue
        raise AssertionError(f"step {step} of 5 must raise ValueError")


@holds(*TRAINER, seed=run_seeds, share=FEW)
def training_follows_the_schedule(subject: Subject, seed: int) -> None:
    """Step t reports the schedule's rate t and leaves the state at step t + 1; one beyond the schedule is refused."""
    for step in runs.runs(subject, seed):
        expected = specification.learning_rates(step.config.schedule)[step.number]
        assert_close(step.metrics["lr"] + 1, expected + 1, precision=subject.maths, what=f"{step.where}: metric lr")
        assert int(step.before["step"]) == step.number, f"{step.where}: step {step.before['step']} before it"
        assert int(step.after["step"]) == step.number + 1, f"{step.where}: step {step.after['step']} after it"
    state = subject.implementation.from_arrays(step.config, step.after)
    try:
        subject.implementation.step_on_views(state, subject.device_views(step.views))
    except ValueError:
        return
    raise AssertionError(f"a step after {step.where}, the last of the schedule, must raise ValueError")
