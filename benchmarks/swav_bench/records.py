"""Records: one JSON line for each measured cell, in results/<name>/records.jsonl.

A folder of results holds `plan.json` (the cells asked for, in order), `records.jsonl` (a line for each cell that
has ended, appended as it ends), `records.broken` (lines that could not be read, set aside), `logs/` and what the
report makes of it. Lines are never changed: a cell that is tried again adds a line, and the last one counts.
"""

from __future__ import annotations

import functools
import json
import os
from dataclasses import dataclass, field
from importlib import resources
from pathlib import Path
from typing import Any

import fastjsonschema

from swav_spec.errors import InvalidInput, require

Record = dict[str, Any]
#: The schema that is written, and those that are read.
SCHEMA = 2
VERSIONS = (1, 2)
RECORDS, BROKEN, PLAN = "records.jsonl", "records.broken", "plan.json"
#: Fields of schema 1's `accuracy` that are of `learning` since.
_LEARNING = (
    "loss_curve",
    "final_loss",
    "final_loss_steps",
    "ln_k",
    "code_entropy",
    "prototypes_used",
    "prototypes",
    "train_s",
)
STATUSES = ("ok", "oom", "timeout", "wrong", "collapsed", "error", "not_run")


@dataclass(frozen=True)
class Results:
    """What a folder of results holds.

    Attributes:
        name: the folder's.
        plan: plan.json: `version`, `environment` and `cells` (as in a record's `cell`); empty without that file.
        records: one for each cell, in the plan's order (cells outside of it last); the newest line of a cell
            counts, and a planned cell without a line is one of status "not_run".
        problems: a sentence for each line that could not be read.
    """

    name: str
    plan: dict[str, Any]
    records: list[Record]
    problems: list[str] = field(default_factory=list)


def validate(record: Any) -> None:
    """Raises InvalidInput, naming the field, unless `record` follows the schema."""
    require(isinstance(record, dict), "record", _short(record), "a table of fields")
    version = record.get("schema")
    require(version in VERSIONS, "schema", version, f"one of {', '.join(map(str, VERSIONS))}, which this program reads")
    try:
        _validator("record", version)(record)
    except fastjsonschema.JsonSchemaValueException as error:
        raise InvalidInput(_short(error.message.replace("data", "record", 1))) from None


def upgrade(record: Record) -> Record:
    """A valid record of an older schema, as one of the newest: what was not measured then is null."""
    if record["schema"] == 1:
        accuracy = record["accuracy"]
        learning = accuracy and {name: accuracy[name] for name in _LEARNING}
        accuracy = accuracy and {name: value for name, value in accuracy.items() if name not in _LEARNING}
        timing = record["timing"] and record["timing"] | {"input_waited_s": None, "input_wait_share": None}
        new = dict.fromkeys(("data", "overhead", "parts", "kernels", "largest_batch"))
        changed = {"schema": 2, "cell": upgrade_cell(record["cell"]), "timing": timing}
        record = record | new | changed | {"learning": learning, "accuracy": accuracy}
    return record


def upgrade_cell(cell: dict[str, Any]) -> dict[str, Any]:
    """A cell of a record or plan of an older schema, as one of the newest; its id stays."""
    return {"task": "train", "input": "resident", "network": None, "crops": None} | cell


def load(folder: Path) -> Results:
    """The results in `folder`, for reports and comparisons; nothing is written.

    Raises:
        InvalidInput: there is neither a plan nor a record.
    """
    plan_file = folder / PLAN
    require(
        plan_file.exists() or (folder / RECORDS).exists(),
        "results folder",
        str(folder),
        f"a folder with {RECORDS} (make one with: swav-bench run)",
    )
    plan = read_plan(folder)
    records, problems = _newest(folder / RECORDS)
    planned = plan.get("cells", [])
    ordered = [records.pop(cell["id"]) if cell["id"] in records else not_run(cell, plan) for cell in planned]
    return Results(name=folder.resolve().name, plan=plan, records=[*ordered, *records.values()], problems=problems)


def machine(record: Record) -> str:
    """The processor that a record's figures are of: the GPU, or the CPU and how many threads it offers.

    Figures of different ones are never compared or ranked.
    """
    here = record["environment"]
    if record["cell"]["device"] == "gpu":
        names = [gpu["name"] for gpu in here["gpus"]]
        return names[0] if names else str((here["implementation"] or {}).get("device", "unknown GPU"))
    return f"{here['cpu']} with {here['cpu_count']} hardware threads"


def finished(folder: Path) -> dict[str, Record]:
    """Cell id -> its newest record."""
    return _newest(folder / RECORDS)[0]


def read_plan(folder: Path) -> dict[str, Any]:
    """plan.json, or an empty table where there is none.

    Raises:
        InvalidInput: it is not what `write_plan` writes.
    """
    path = folder / PLAN
    if not path.exists():
        return {}
    try:
        plan = json.loads(path.read_text(encoding="utf-8"))
        cells = [_checked_cell(cell) for cell in plan["cells"]]
    except (ValueError, KeyError, TypeError, fastjsonschema.JsonSchemaException) as error:
        raise InvalidInput(
            f"{PLAN} in {folder.name} cannot be read ({_short(error)}); delete it to plan afresh"
        ) from error
    return {**plan, "cells": cells}


def write_plan(folder: Path, plan: dict[str, Any]) -> None:
    """Writes plan.json, whole or not at all."""
    write_atomically(folder / PLAN, json.dumps(plan, indent=1, allow_nan=False) + "\n")


def empty() -> Record:
    """A record in which nothing has been measured: every field is null."""
    return dict.fromkeys(_schema()["required"])


def not_run(cell: dict[str, Any], plan: dict[str, Any]) -> Record:
    """The record of a planned cell that has none: what was not measured is null."""
    return empty() | {
        "schema": SCHEMA,
        "status": "not_run",
        "reason": "planned, not reached yet",
        "cell": cell,
        "environment": plan["environment"],
        "swav_bench_version": plan["version"],
        "notes": [],
    }


def append(folder: Path, record: Record) -> None:
    """Adds one validated line in a single write; a line that does not fit on the disk is taken back.

    Raises:
        InvalidInput: the record does not follow the schema.
        OSError: the disk is full, or the folder cannot be written.
    """
    validate(record)
    line = (json.dumps(record, allow_nan=False, separators=(",", ":")) + "\n").encode()
    descriptor = os.open(folder / RECORDS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
    try:
        before = os.fstat(descriptor).st_size
        try:
            if os.write(descriptor, line) != len(line):
                raise OSError(f"{RECORDS}: the disk is full")  # noqa: TRY301 - undone by the same clause as any other
            os.fsync(descriptor)
        except OSError:
            os.ftruncate(descriptor, before)
            raise
    finally:
        os.close(descriptor)


def repair(folder: Path) -> list[str]:
    """Moves lines that cannot be read from records.jsonl to records.broken, so that appending is safe again.

    A kill during a write can leave part of a line; every whole line stays byte for byte as it was.

    Returns:
        A sentence for each line that was moved.
    """
    path = folder / RECORDS
    if not path.exists():
        return []
    content = path.read_bytes()
    good, bad, problems = [], [], []
    for number, line in enumerate(content.splitlines(keepends=True), start=1):
        problem = _parse(line)[1]
        if problem is None:
            good.append(line if line.endswith(b"\n") else line + b"\n")
        else:
            bad.append(line if line.endswith(b"\n") else line + b"\n")
            problems.append(f"{RECORDS} line {number} was set aside in {BROKEN}: {problem}")
    if bad:
        with (folder / BROKEN).open("ab") as broken:
            broken.write(b"".join(bad))
    if b"".join(good) != content:
        write_atomically(path, b"".join(good))
    return problems


def write_atomically(path: Path, content: str | bytes) -> None:
    """Writes a file, whole or not at all: a temporary file beside it, then a rename."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as file:
            file.write(content.encode() if isinstance(content, str) else content)
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)


def _newest(path: Path) -> tuple[dict[str, Record], list[str]]:
    records: dict[str, Record] = {}
    problems = []
    lines = path.read_bytes().splitlines() if path.exists() else []
    for number, line in enumerate(lines, start=1):
        record, problem = _parse(line)
        if record is None:
            problems.append(f"{RECORDS} line {number} is left out: {problem}")
        else:
            records[record["cell"]["id"]] = record
    return records, problems


def _parse(line: bytes) -> tuple[Record | None, str | None]:
    """The record of a line, or why there is none."""
    try:
        record = json.loads(line)
    except ValueError as error:
        return None, f"not a whole JSON line ({_short(error)})"
    try:
        validate(record)
    except InvalidInput as error:
        return None, str(error)
    return upgrade(record), None


def _checked_cell(cell: Any) -> dict[str, Any]:
    cell = upgrade_cell(cell)
    _validator("cell", SCHEMA)(cell)
    return cell


@functools.cache
def _schema(version: int = SCHEMA) -> dict[str, Any]:
    text = resources.files("swav_bench").joinpath(f"schema/record-{version}.json").read_text(encoding="utf-8")
    schema: dict[str, Any] = json.loads(text)
    return schema


@functools.cache
def _validator(part: str, version: int) -> Any:
    schema = _schema(version)
    if part != "record":
        schema = {**schema["properties"][part], "$schema": schema["$schema"]}
    return fastjsonschema.compile(schema, formats={}, use_default=False)


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) <= 200 else text[:197] + "..."
