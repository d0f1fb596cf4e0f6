"""Runs properties on an implementation and says which hold; the smallest counterexample where one does not."""

from __future__ import annotations

import importlib.util
import time
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any, Literal

import hypothesis
import numpy as np
from hypothesis import HealthCheck, Phase, settings
from hypothesis import strategies as st
from hypothesis.stateful import run_state_machine_as_test

from swav_spec.testing.properties import Property, all_properties
from swav_spec.testing.subject import Subject

#: Of the properties and of how they are drawn; changes whenever a verdict could.
VERSION = "1.1"
Status = Literal["passed", "failed", "not applicable"]


@dataclass(frozen=True)
class Profile:
    """How hard to look. `derandomised`: the same examples every time, whatever the seed that was asked for."""

    examples: int
    derandomised: bool = False


PROFILES = MappingProxyType({"dev": Profile(20), "ci": Profile(30, derandomised=True), "thorough": Profile(2000)})


@dataclass(frozen=True)
class Outcome:
    """What came of one property.

    Attributes:
        property: which.
        status: "passed", "failed" or "not applicable".
        reason: what was violated and by how much, or why it does not apply; "" where it passed.
        counterexample: the smallest failing input that was found, by name; None where it passed.
        crashed: whether it failed by an exception of another kind than an assertion's.
        examples: inputs tried, shrinking included.
        seconds: that took.
    """

    property: Property
    status: Status
    reason: str = ""
    counterexample: dict[str, Any] | None = None
    crashed: bool = False
    examples: int = 0
    seconds: float = 0.0


def why_not_applicable(item: Property, subject: Subject) -> str:
    """Why a property cannot be judged for this subject; "" if it can."""
    missing = [need for need in item.needs if not subject.has(need)]
    if missing:
        return "has no " + ", ".join(missing)
    if item.precisions and subject.precision not in item.precisions:
        return f"judged in {', '.join(item.precisions)} only"
    if item.oracle and importlib.util.find_spec(item.oracle) is None:
        return f"its oracle, {item.oracle}, is not installed"
    return ""


def run(item: Property, subject: Subject, *, profile: str = "ci", seed: int = 0, shrink: bool = True) -> Outcome:
    """Judges one property.

    Args:
        item: see `all_properties`.
        subject: the implementation.
        profile: one of PROFILES.
        seed: of the examples, where the profile is not derandomised.
        shrink: whether to look for a small counterexample after the first.
    """
    reason = why_not_applicable(item, subject)
    if reason:
        return Outcome(item, "not applicable", reason)
    chosen = _settings(item, PROFILES[profile], shrink)
    seed = 0 if PROFILES[profile].derandomised else seed
    record = _Record()
    start = time.perf_counter()
    try:
        if item.machine is not None:
            _run_machine(item, subject, chosen, seed, record)
        else:
            _run_check(item, subject, chosen, seed, record)
    except hypothesis.errors.HypothesisException:
        raise  # the suite's own defect, not the implementation's
    except Exception as error:  # noqa: BLE001 - whatever an implementation raises is a verdict on it
        found = {"reason": _sentence(error), "counterexample": record.failing}
        crashed = not isinstance(error, AssertionError)
        return Outcome(
            item, "failed", **found, crashed=crashed, examples=record.examples, seconds=time.perf_counter() - start
        )
    return Outcome(item, "passed", examples=record.examples, seconds=time.perf_counter() - start)


def run_all(subject: Subject, *, profile: str = "ci", seed: int = 0, select: str = "") -> Iterator[Outcome]:
    """Judges every property whose name contains `select`, in order, as they come."""
    for item in all_properties():
        if select in item.name:
            yield run(item, subject, profile=profile, seed=seed)


class _Record:
    """The last failing input. Hypothesis ends by replaying the smallest, so that is the last."""

    def __init__(self) -> None:
        self.examples = 0
        self.failing: dict[str, Any] | None = None


def _settings(item: Property, profile: Profile, shrink: bool) -> settings:
    phases = [Phase.explicit, Phase.generate] + [Phase.shrink] * shrink
    return settings(
        max_examples=max(1, round(profile.examples * item.share)),
        derandomize=False,  # Hypothesis would take its seed from this file's text; ours is given
        database=None,
        deadline=None,
        phases=phases,
        report_multiple_bugs=False,
        print_blob=False,
        stateful_step_count=20,
        # Compiling frameworks are slow at the first example of a shape.
        suppress_health_check=list(HealthCheck),
    )


def _run_check(item: Property, subject: Subject, chosen: settings, seed: int, record: _Record) -> None:
    def judged(inputs: dict[str, Any]) -> None:
        record.examples += 1
        try:
            with _Quiet():
                item.check(subject, **inputs)
        except Exception:
            record.failing = inputs
            raise

    test = hypothesis.given(st.fixed_dictionaries(item.inputs))(judged)
    chosen(hypothesis.seed(seed)(test))()


def _run_machine(item: Property, subject: Subject, chosen: settings, seed: int, record: _Record) -> None:
    base = item.machine(subject)

    class Recorded(base):
        def __init__(self) -> None:
            super().__init__()
            record.examples += 1
            # The machine writes its steps here; the last one run is the smallest that fails.
            self.history: list[str] = []
            record.failing = {"steps": self.history}

    Recorded.__name__ = base.__name__
    machine = hypothesis.seed(seed)(Recorded)
    with _Quiet():
        run_state_machine_as_test(machine, settings=chosen, _min_steps=0)


class _Quiet(warnings.catch_warnings):
    """NumPy's warnings of wrong implementations are not the finding; what they compute is."""

    def __enter__(self):
        entered = super().__enter__()
        warnings.simplefilter("ignore", RuntimeWarning)
        return entered


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    return text if isinstance(error, AssertionError) else f"{type(error).__name__}: {text}"


def rendered(value: Any) -> str:
    """A counterexample in one line, arrays as nested lists."""
    if isinstance(value, np.ndarray):
        return np.array2string(value, separator=", ", threshold=60, max_line_width=10**6).replace("\n", "")
    if hasattr(value, "_fields"):
        return ", ".join(f"{name}={rendered(getattr(value, name))}" for name in value._fields)
    if isinstance(value, dict):
        return ", ".join(f"{name}={rendered(item)}" for name, item in value.items())
    return repr(value)
