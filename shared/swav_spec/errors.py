"""The one exception for bad input, and the one sentence it carries."""

from __future__ import annotations


class InvalidInput(ValueError):
    """Input that a person can correct: says what was given, where, and what is allowed.

    Commands turn it into that sentence and exit code 2; every other exception is a defect.
    """


def require(condition: bool, field: str, value: object, allowed: str) -> None:
    """Raises InvalidInput naming the field, its value and what is allowed, unless `condition` holds."""
    if not condition:
        raise InvalidInput(f"{field} = {value!r}: must be {allowed}")
