"""The page of planted faults and who found them: `python -m swav_spec.testing.fault_page tests/FAULTS.md`."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from swav_spec.testing.faults import FAULTS, HARMLESS, Fault, killer
from swav_spec.testing.properties import all_properties
from swav_spec.testing.strangers_faults import STRANGERS_FAULTS, WRITTEN_AFTERWARDS

ALL = (*(fault for of_idea in FAULTS.values() for fault in of_idea), *STRANGERS_FAULTS)


def page(killed: Mapping[Fault, str]) -> str:
    """The page, in Markdown.

    Args:
        killed: fault -> name of the property that found it, for all of them.
    """
    planted = sum(map(len, FAULTS.values()))
    lines = [
        "# Planted faults, and what finds them",
        "",
        f"{planted} faults that people make in SwAV, and {len(STRANGERS_FAULTS)} by somebody who had not read the",
        "properties, are planted one at a time in a copy of the specification; each is found by the",
        "property beside it.",
        f"{len(HARMLESS)} edits that change no result survive every property.",
        "Written by `python -m swav_spec.testing.fault_page tests/FAULTS.md`.",
    ]
    for idea, faults in FAULTS.items():
        lines += ["", f"## {idea[0].upper()}{idea[1:]}", "", *_table(faults, killed)]
    lines += [
        "",
        "## A stranger's faults",
        "",
        "Written from the specification's source alone, and fixed before any was planted. Where it says so, the fault",
        "survived all properties there were, and the one beside it was written then.",
        "",
        *_table(STRANGERS_FAULTS, killed),
    ]
    lines += ["", "## Survive, as they should", ""]
    lines += [f"- {fault.what} (`{fault.file}.py`)" for fault in HARMLESS]
    lines += ["", "## The properties named above", "", "| property | statement |", "|---|---|"]
    named = set(killed.values())
    # A bar would end the cell.
    statements = {item.name: item.statement.replace("|", r"\|") for item in all_properties() if item.name in named}
    lines += [f"| `{name}` | {text} |" for name, text in statements.items()]
    return "\n".join(lines) + "\n"


def _table(faults: Iterable[Fault], killed: Mapping[Fault, str]) -> list[str]:
    rows = [(fault.what, killed[fault]) for fault in faults]
    afterwards = dict.fromkeys(WRITTEN_AFTERWARDS, ", written afterwards")
    return [
        "| fault | found by |",
        "|---|---|",
        *(f"| {what} | `{name}`{afterwards.get(name, '')} |" for what, name in rows),
    ]


def main(arguments: list[str]) -> int:
    """Plants every fault and writes the page; 1 if one survives or a harmless edit does not."""
    (path,) = arguments
    killed = {}
    for fault in ALL:
        outcome = killer(fault)
        if outcome is None:
            print(f"survived: {fault.what}")
            return 1
        killed[fault] = outcome.property.name
        print(f"{outcome.property.name:60s} {fault.what}: {outcome.reason[:100]}")
    for fault in HARMLESS:
        outcome = killer(fault)
        if outcome is not None:
            print(f"found, but harmless: {fault.what} by {outcome.property.name}: {outcome.reason}")
            return 1
    Path(path).write_text(page(killed), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
