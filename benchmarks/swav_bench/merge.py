"""`swav-bench merge OUT IN...`: records of several runs in one folder, e.g. one run for each framework's environment.

A cell that was measured in several of them becomes several repeats, numbered in the order of the folders: they were
fresh processes indeed. Records of different devices stay apart in every report: they are never ranked against each
other. Nothing is changed but the schema's version, a repeat's number and the cell's id with it, which a note says.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.text import Text

from swav_bench import records
from swav_bench.cells import cell_id
from swav_bench.progress import printable
from swav_bench.records import Record, Results
from swav_bench.runner import PARITY
from swav_spec.errors import InvalidInput, require


@dataclass(frozen=True)
class Merged:
    """What was merged.

    Attributes:
        records: measured ones, in the order of the folders and of their plans.
        planned: cells that no folder has measured; none where devices differ, as it is not known whose they are.
        machines: devices that records are of.
    """

    records: list[Record]
    planned: list[dict[str, Any]]
    machines: list[str]


def merge(sources: Sequence[Results]) -> Merged:
    """Records of all the folders; equal ones count once."""
    taken: dict[str, Record] = {}
    first: dict[str, Record] = {}
    for source in sources:
        for record in source.records:
            if record["status"] == "not_run":
                continue
            kept = record
            while kept["cell"]["id"] in taken and first[kept["cell"]["id"]] != record:
                kept = _as_repeat(record, kept["cell"]["repeat"] + 1, source.name)
            taken.setdefault(kept["cell"]["id"], kept)
            first.setdefault(kept["cell"]["id"], record)
    machines = list(dict.fromkeys(records.machine(record) for record in taken.values()))
    planned = {
        record["cell"]["id"]: record["cell"]
        for source in sources
        for record in source.records
        if record["status"] == "not_run" and record["cell"]["id"] not in taken
    }
    alone = len({records.machine(record) for source in sources for record in source.records}) <= 1
    return Merged(list(taken.values()), list(planned.values()) if alone else [], machines)


def _as_repeat(record: Record, repeat: int, source: str) -> Record:
    """The record as that repeat of its cell."""
    cell = record["cell"] | {"repeat": repeat}
    cell["id"] = cell_id({name: value for name, value in cell.items() if name not in ("id", "queue")})
    note = f"repeat {record['cell']['repeat']} of {source} before it was merged"
    return record | {"cell": cell, "notes": [*record["notes"], note]}


def write(out: Path, folders: Sequence[Path]) -> Merged:
    """Makes the folder `out` of the results in `folders`, whole or not at all.

    Raises:
        InvalidInput: `out` is there already and not empty, a folder has no results, or `out` cannot be written.
    """
    require(not out.exists() or (out.is_dir() and not any(out.iterdir())), "out", str(out), "a new folder")
    sources = [records.load(folder) for folder in folders]
    merged = merge(sources)
    plans = [source.plan for source in sources if source.plan]
    version, here = (
        (plans[0]["version"], plans[0]["environment"])
        if plans
        else (merged.records[0]["swav_bench_version"], merged.records[0]["environment"] | {"implementation": None})
    )
    plan = {
        "version": version,
        "environment": here,
        "cells": [*(record["cell"] for record in merged.records), *merged.planned],
    }
    made = out.with_name(f".{out.name}.{os.getpid()}.tmp")
    try:
        (made / PARITY).mkdir(parents=True)
        records.write_plan(made, plan)
        for record in merged.records:
            records.validate(record)
        lines = [json.dumps(record, allow_nan=False, separators=(",", ":")) + "\n" for record in merged.records]
        records.write_atomically(made / records.RECORDS, "".join(lines))
        for path in (path for folder in folders for path in sorted((folder / PARITY).glob("*.json"))):
            if not (made / PARITY / path.name).exists():
                shutil.copyfile(path, made / PARITY / path.name)
        made.rename(out)
    except OSError as error:
        raise InvalidInput(f"out = {str(out)!r}: cannot be written ({error.strerror or error})") from error
    finally:
        shutil.rmtree(made, ignore_errors=True)
    return merged


def command(
    out: Annotated[Path, typer.Argument(help="A new folder for all of them.", show_default=False)],
    folders: Annotated[list[Path], typer.Argument(metavar="IN...", help="Folders of results.", show_default=False)],
) -> None:
    """Put the records of several runs into one new folder; those that they come from stay as they are."""
    merged = write(out, folders)
    console = Console(highlight=False)
    console.print(f"{len(merged.records)} records of {len(folders)} folders, {len(merged.planned)} cells not run")
    if len(merged.machines) > 1:
        names = ", ".join(merged.machines)
        console.print(
            Text(printable(f"Measured on {names}: figures of different devices are never ranked against each other.")),
            soft_wrap=True,
        )
    console.print(Text(f"Report on them with: swav-bench report {printable(out)}"), soft_wrap=True)
