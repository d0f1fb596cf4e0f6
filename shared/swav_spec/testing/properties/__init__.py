"""What is true of every right implementation, one file an idea. A property is a value, not a test function.

So pytest, the planted faults and `swav-bench conform` all run the same thing. A check is called with the
implementation under test (a Subject: NumPy in, NumPy out) and inputs drawn from its strategies; it raises
AssertionError where the property does not hold. Each property holds in the range that its strategies draw
from; what sounds alike but is false stands in counterexamples.py.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from hypothesis.stateful import RuleBasedStateMachine
from hypothesis.strategies import SearchStrategy

IDEAS = ("sinkhorn", "loss", "queue", "optimizer", "schedule", "prototypes", "network", "multicrop")


@dataclass(frozen=True)
class Property:
    """One statement that the suite judges.

    Attributes:
        name: "idea.statement-in-short".
        statement: one sentence.
        needs: functions that an implementation must have for this to apply, "sinkhorn" or, with a keyword that
            it must take, "sinkhorn:keep".
        inputs: keyword of `check` -> strategy; empty for a state machine.
        check: called with the subject and the inputs, raises AssertionError; or None for a state machine.
        machine: makes the class of a state machine for a subject; or None.
        share: of a profile's examples, less than 1 where one example is dear.
        precisions: in which it can be judged; all if empty.
        oracle: a module that must be importable here; "" for none.
    """

    name: str
    statement: str
    needs: tuple[str, ...]
    inputs: dict[str, SearchStrategy]
    check: Callable[..., None] | None = None
    machine: Callable[[Any], type[RuleBasedStateMachine]] | None = None
    share: float = 1.0
    precisions: tuple[str, ...] = ()
    oracle: str = ""

    @property
    def idea(self) -> str:
        """The file that the property is in."""
        return self.name.partition(".")[0]


_PROPERTIES: dict[str, Property] = {}


def holds(
    *needs: str, share: float = 1.0, precisions: tuple[str, ...] = (), oracle: str = "", **inputs: SearchStrategy
) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Makes a function(subject, **inputs) a property; its docstring is the statement, its name the short one."""

    def register(check: Callable[..., None]) -> Callable[..., None]:
        _add(
            check, Property, needs=needs, inputs=inputs, check=check, share=share, precisions=precisions, oracle=oracle
        )
        return check

    return register


def machine(*needs: str, share: float = 1.0) -> Callable[[Callable], Callable]:
    """Makes a function(subject) -> RuleBasedStateMachine class a property."""

    def register(make: Callable[[Any], type[RuleBasedStateMachine]]) -> Callable:
        _add(make, Property, needs=needs, inputs={}, machine=make, share=share)
        return make

    return register


def _add(function: Callable, kind: type[Property], **fields: Any) -> None:
    name = f"{function.__module__.rpartition('.')[2]}.{function.__name__.replace('_', '-')}"
    statement = " ".join((function.__doc__ or "").split())
    assert statement, f"{name} needs a statement"
    assert name not in _PROPERTIES, f"{name} is there already"
    _PROPERTIES[name] = kind(name=name, statement=statement, **fields)


def all_properties() -> tuple[Property, ...]:
    """Every property, idea by idea, in the order of the files."""
    for idea in IDEAS:
        importlib.import_module(f"{__name__}.{idea}")
    return tuple(sorted(_PROPERTIES.values(), key=lambda item: IDEAS.index(item.idea)))
