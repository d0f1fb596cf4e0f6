"""Is this SwAV right? The suite of swav_spec on an implementation, ours or a stranger's, and its verdict.

    swav-bench conform my_package.my_module:MyClass

A class with some of the contract's functions gets the properties that these are enough for. It may take an
Execution or nothing, and give and take NumPy arrays where it has no `to_device` and `to_host`. This process
judges one implementation and does nothing else, so it is a child of its own.
"""

from __future__ import annotations

import importlib
import inspect
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from rich.console import Console
from rich.table import Table
from rich.text import Text

from swav_bench import __version__
from swav_bench.records import write_atomically
from swav_spec import registry
from swav_spec.config import Execution
from swav_spec.errors import InvalidInput, require

if TYPE_CHECKING:
    from swav_spec.testing.subject import Subject
    from swav_spec.testing.suite import Outcome

PASSED, FAILED = 0, 1
#: A counterexample longer than this is cut in the table; the JSON has it whole.
CHARACTERS = 300
_STYLES = {"passed": "green", "failed": "bold red", "not applicable": "dim"}


def conform(
    target: str,
    *,
    device: str = "cpu",
    precision: str = "float32",
    mode: str = "default",
    profile: str = "ci",
    seed: int = 0,
    select: str = "",
    json_path: Path | None = None,
    console: Console | None = None,
) -> int:
    """Judges an implementation, prints the table of verdicts and writes them where asked.

    Args:
        target: a name in the registry, or "package.module:Class", looked for in the working directory too.
        device, precision, mode: of the Execution that it gets; precision sets the tolerance.
        profile: "dev", "ci" (the same examples every time) or "thorough" (2,000 a property).
        seed: of the examples, except in "ci".
        select: only properties whose name contains this.
        json_path: where the verdicts go as JSON, whole or not at all.
        console: where the table goes; standard output by default.

    Returns:
        0 if nothing failed, 1 if something did.

    Raises:
        InvalidInput: there is no such class, device or profile, hypothesis is not installed, the class has no function
            that a selected property is about, or the file cannot be written.
    """
    suite = _suite()
    require(profile in suite.PROFILES, "profile", profile, "one of " + ", ".join(suite.PROFILES))
    require(0 <= seed < 2**32, "seed", seed, "in 0..2^32-1")
    if json_path is not None:
        require(json_path.parent.is_dir(), "json", str(json_path), "in a folder that exists")
    subject = load(target, Execution(device, precision, mode))  # type: ignore[arg-type]
    console = console or Console()
    outcomes = []
    with console.status(f"judging {target}") as status:
        for outcome in suite.run_all(subject, profile=profile, seed=seed, select=select):
            status.update(f"judging {target}: {outcome.property.name}")
            outcomes.append(outcome)
    require(bool(outcomes), "select", select, "part of a property's name")
    judged = any(outcome.status != "not applicable" for outcome in outcomes)
    needs = sorted({need.partition(":")[0] for outcome in outcomes for need in outcome.property.needs})
    require(judged, "implementation", target, "a class with at least one of " + ", ".join(needs))

    console.print(table(target, outcomes))
    if json_path is not None:
        settings = {"device": device, "precision": precision, "mode": mode, "profile": profile, "seed": seed}
        verdicts = json.dumps(report(target, settings, outcomes), indent=1, allow_nan=False) + "\n"
        try:
            write_atomically(json_path, verdicts)
        except OSError as error:
            raise InvalidInput(f"json = {str(json_path)!r}: cannot be written ({error.strerror or error})") from error
    return FAILED if any(outcome.status == "failed" for outcome in outcomes) else PASSED


def load(target: str, execution: Execution) -> Subject:
    """The implementation to judge.

    Raises:
        InvalidInput: see `conform`.
    """
    suite_subject: type[Subject] = importlib.import_module("swav_spec.testing.subject").Subject
    if target in registry.BUILT_IN:
        return suite_subject(registry.load(target, execution))
    if (here := str(Path.cwd())) not in sys.path:
        sys.path.insert(0, here)
    make = registry.find(target)
    try:
        takes_execution = bool(inspect.signature(make).parameters)
    except ValueError:  # a class in C tells nothing
        takes_execution = False
    return suite_subject(make(execution) if takes_execution else make(), execution.precision)


def table(target: str, outcomes: Sequence[Outcome]) -> Table:
    """Property, verdict, and what was found, for people."""
    suite = _suite()
    counts = _counts(outcomes)
    result = Table(
        title=target + ": " + ", ".join(f"{count} {status}" for status, count in counts.items()),
        caption=f"swav-bench conformance suite {suite.VERSION}",
        title_justify="left",
        caption_justify="left",
    )
    result.add_column("property", no_wrap=True)
    result.add_column("verdict", no_wrap=True)
    result.add_column("what was found, and the smallest counterexample", overflow="fold")
    for outcome in outcomes:
        found = outcome.reason
        if outcome.counterexample is not None:
            shown = suite.rendered(outcome.counterexample)
            shown = shown if len(shown) <= CHARACTERS else shown[:CHARACTERS] + " ..."
            found = f"{outcome.property.statement}\n{found}\n{shown}"
        result.add_row(outcome.property.name, Text(outcome.status, _STYLES[outcome.status]), Text(found))
    return result


def report(target: str, settings: dict[str, Any], outcomes: Sequence[Outcome]) -> dict[str, Any]:
    """The verdicts as JSON values, with what is needed to cite and to repeat them."""
    return {
        "suite": "swav-bench conformance",
        "suite_version": _suite().VERSION,
        "swav_bench_version": __version__,
        "implementation": target,
        **settings,
        "counts": _counts(outcomes),
        "properties": [
            {
                "name": outcome.property.name,
                "statement": outcome.property.statement,
                "status": outcome.status,
                "reason": outcome.reason,
                "counterexample": _plain(outcome.counterexample),
                "examples": outcome.examples,
                "seconds": round(outcome.seconds, 3),
            }
            for outcome in outcomes
        ],
    }


def _counts(outcomes: Sequence[Outcome]) -> dict[str, int]:
    return {status: sum(outcome.status == status for outcome in outcomes) for status in _STYLES}


def _plain(value: Any) -> Any:
    """JSON values of a counterexample; arrays become nested lists, other things their text."""
    if isinstance(value, np.ndarray | np.generic):
        return value.tolist()
    if hasattr(value, "_asdict"):
        return _plain(value._asdict())
    if isinstance(value, dict):
        return {str(name): _plain(item) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return repr(value)


def _suite() -> Any:
    """The suite, which needs hypothesis; everything else of the command does without."""
    try:
        return importlib.import_module("swav_spec.testing.suite")
    except ModuleNotFoundError as error:
        raise InvalidInput(
            f"conform needs {error.name}, which is not installed; install it with: pip install 'swav-bench[conform]'"
        ) from error
