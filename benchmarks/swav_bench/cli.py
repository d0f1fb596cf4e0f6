"""The command `swav-bench`: every option says what it does, every mistake gets one sentence and exit code 2."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from swav_bench import (
    __version__,
    assign,
    children,
    compare,
    convert,
    curves,
    embed,
    environment,
    evaluate,
    goals,
    index,
    merge,
    probe,
    progress,
    protocol,
    records,
    runner,
    show_crops,
    suites,
    train,
)
from swav_bench.cells import Cell
from swav_bench.estimate import Estimator
from swav_bench.inputs import Reading
from swav_bench.progress import display, printable
from swav_data.sources import NAMES as DATASETS
from swav_spec import recipes
from swav_spec.config import PRECISIONS
from swav_spec.errors import InvalidInput, require
from swav_spec.network import count_parameters
from swav_spec.registry import BUILT_IN

FAILED, INVALID, INTERRUPTED, TERMINATED = 1, 2, 130, 143

app = typer.Typer(
    add_completion=False,
    no_args_is_help=True,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
    epilog="Start with: [bold]swav-bench run --suite demo[/bold]   (24 small cells on a CPU, a few minutes)",
)

#: Panels of `swav-bench --help`.
MEASURE, USE, JUDGE = "Measure", "Train, and use what was learnt", "Judge and look"
#: Panels of `swav-bench run --help`.
MATRIX = "Which cells (by default those of the suite; lists by naming an option again)"
HOW = "How they are run"


def _option(metavar: str, text: str, *names: str, panel: str | None = MATRIX, **limits: Any) -> Any:
    """An option without a default of its own."""
    return typer.Option(*names, metavar=metavar, help=text, show_default=False, rich_help_panel=panel, **limits)


Folder = Annotated[
    Path, typer.Argument(help="A folder that `swav-bench run` has filled, e.g. results/demo.", show_default=False)
]
PYTHON = (
    "NAME=INTERPRETER",
    "Python that has the framework of NAME, e.g. jax=/opt/jax/bin/python. Repeatable.",
    "--python",
)


def main() -> None:
    """Runs the command of this process's arguments."""
    signal.signal(signal.SIGTERM, _terminate)
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except InvalidInput as error:
        _say(f"swav-bench: {error}")
        sys.exit(INVALID)
    except BrokenPipeError:
        # Whoever read the output has gone; Python would complain again when it flushes at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(FAILED)


@app.callback(invoke_without_command=True)
def _app(version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False) -> None:
    """Measures SwAV in PyTorch, JAX and TensorFlow: what each costs, and what it learns.

    [bold]run[/bold] measures cell after cell, each in its own process; run again, it goes on where it stopped.
    [bold]report[/bold] makes report.html, report.md, report.csv and plots from the records.
    [bold]train[/bold] learns features of your own images; [bold]conform[/bold] judges an implementation of yours.
    """
    if version:
        print(__version__)
        raise typer.Exit


@app.command(rich_help_panel=MEASURE)
def run(
    suite: Annotated[str, typer.Option(metavar="NAME", help="What to measure; see `swav-bench list`.")] = "demo",
    out: Annotated[Path | None, _option("FOLDER", "Results; by default results/SUITE.", panel=None)] = None,
    implementation: Annotated[
        list[str] | None,
        _option("NAME", "torch, jax, tensorflow, or package.module:Class of your own.", "-i", "--implementation"),
    ] = None,
    dataset: Annotated[
        str | None,
        _option("SOURCE", "textures, digits, a Parquet file or a folder of them, or a folder of images by class."),
    ] = None,
    recipe: Annotated[str | None, _option("NAME", "How to learn; see `swav-bench list`.")] = None,
    precision: Annotated[list[str] | None, _option("NAME", f"{', '.join(PRECISIONS)}.")] = None,
    mode: Annotated[
        list[str] | None, _option("NAME", "How steps are executed: eager, compile, jit, xla ...; see `swav-bench env`.")
    ] = None,
    batch: Annotated[list[int] | None, _option("N", "Images per step.")] = None,
    network: Annotated[list[str] | None, _option("NAME", "Instead of the recipe's; see `swav-bench list`.")] = None,
    crops: Annotated[
        list[str] | None, _option("COUNTxSIZE+...", "Instead of the recipe's, e.g. 2x160+4x96; areas stay.")
    ] = None,
    input_: Annotated[
        list[str] | None,
        _option("resident|stream|views", "Images on the device, decoded ahead, or ready-made views.", "--input"),
    ] = None,
    multi_crop: Annotated[str | None, _option("both|on|off", "Small crops beside the two large ones.")] = None,
    queue: Annotated[str | None, _option("both|on|off", "Embeddings of earlier steps in the assignment.")] = None,
    seed: Annotated[list[int] | None, _option("N", "Of weights, order and crops.")] = None,
    repeats: Annotated[int | None, _option("N", "Fresh processes for each cell.", min=1)] = None,
    steps: Annotated[int | None, _option("N", "Training steps of every cell.", min=1)] = None,
    lr: Annotated[float | None, _option("X", "Base learning rate.", min=0)] = None,
    device: Annotated[
        str | None, _option("cpu|gpu", "The first of its kind; by default what the suite is for.", panel=HOW)
    ] = None,
    rehearse: Annotated[
        bool, typer.Option("--rehearse", help="A few tiny cells of the suite, on a CPU too.", rich_help_panel=HOW)
    ] = False,
    time_budget: Annotated[
        str | None,
        _option("TIME", "Stop measuring after 90s, 9m or 1.5h; what is not reached stays to do.", panel=HOW),
    ] = None,
    python: Annotated[list[str] | None, _option(*PYTHON, panel=HOW)] = None,
    threads: Annotated[
        int | None,
        _option("N", "CPU threads of a measured process; by default 1, with a GPU all there are.", panel=HOW, min=1),
    ] = None,
    workers: Annotated[
        int | None,
        _option("N", "Processes that decode a stream's images; by default one a CPU, less one.", panel=HOW, min=0),
    ] = None,
    prefetch: Annotated[
        int, typer.Option(metavar="N", help="Batches that they decode ahead.", rich_help_panel=HOW, min=1)
    ] = 2,
    on_bad_image: Annotated[
        str,
        typer.Option(
            metavar="error|skip",
            help="An image that cannot be decoded ends its cell, or is left out and named.",
            rich_help_panel=HOW,
        ),
    ] = "error",
    parts: Annotated[
        bool, typer.Option("--parts", help="Time the parts of a step as well, each alone.", rich_help_panel=HOW)
    ] = False,
    trace: Annotated[
        bool,
        typer.Option("--trace", help="Trace a few steps by the framework's profiler, to traces/.", rich_help_panel=HOW),
    ] = False,
    memory_limit: Annotated[
        int | None,
        _option("MIB", "Main memory for a try of the largest batch, to rehearse on a CPU.", panel=HOW, min=1),
    ] = None,
    timeout: Annotated[float | None, _option("SECONDS", "For one cell; by default the suite's.", panel=HOW)] = None,
    retry_failed: Annotated[
        bool, typer.Option("--retry-failed", help="Measure again what failed.", rich_help_panel=HOW)
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the cells and stop.", rich_help_panel=HOW)] = False,
) -> None:
    """Measure the cells of a suite; run it again to go on where it stopped.

    Exit code 0: all cells are ok and reach the suite's goals; 1: some do not; 2: the command cannot be followed;
    130: stopped.
    """
    changes = suites.Changes(
        implementations=tuple(implementation or ()),
        modes=tuple(mode or ()),
        steps=steps,
        lr=lr,
        dataset=dataset,
        recipe=recipe,
        precisions=_precisions(precision),
        batches=tuple(batch or ()),
        multi_crop=_choice("multi_crop", multi_crop),
        queue=_choice("queue", queue),
        networks=tuple(network or ()),
        crops=tuple(crops or ()),
        inputs=tuple(input_ or ()),  # type: ignore[arg-type]
        seeds=tuple(seed or ()),
        repeats=repeats,
    )
    console, interpreters = progress.console(), children.interpreters(python)
    planned = suites.plan(suite, changes, device=None if device is None else _device(device), rehearse=rehearse)
    planned = _importable(console, planned, changes.implementations, interpreters)
    folder = out or Path("results") / (f"{suite}-rehearsal" if rehearse else suite)
    options = runner.Options(
        timeout_s=suites.suite(suite).timeout_s if timeout is None else timeout,
        threads=threads or (1 if planned[0].device == "cpu" else os.cpu_count() or 1),
        retry_failed=retry_failed,
        interpreters=interpreters,
        reading=Reading(_decoders() if workers is None else workers, prefetch, on_bad_image),  # type: ignore[arg-type]
        budget_s=None if time_budget is None else seconds(time_budget),
        parts=parts,
        trace=trace,
        memory_limit_bytes=memory_limit and memory_limit * 2**20,
    )
    if dry_run:
        _list_cells(console, planned, records.finished(folder), options.threads)
        return
    sys.exit(_run(console, folder, planned, options))


@app.command(rich_help_panel=MEASURE)
def report(folder: Folder) -> None:
    """Make report.html, report.md, report.csv and plots from a folder's records."""
    _write_report(progress.console(), folder)


@app.command(rich_help_panel=MEASURE)
def check(folder: Folder) -> None:
    """Check from the records that every cell is ok and has learnt what its suite asks for; exit code 1 if not."""
    sys.exit(_check(progress.console(), records.load(folder)))


@app.command(rich_help_panel=MEASURE)
def env(python: Annotated[list[str] | None, _option(*PYTHON, panel=None)] = None) -> None:
    """Show this machine, the frameworks and devices found, and what to install for what is missing."""
    console, interpreters = progress.console(), children.interpreters(python)
    here = environment.describe()
    memory = f"{here['memory_bytes'] / 2**30:.0f} GiB"
    machine = f"{here['os']} {here['architecture']}, {here['cpu']}"
    console.print(f"{machine}, {here['cpu_count']} CPUs, {memory}, Python {here['python']}")
    for gpu in here["gpus"]:
        console.print(f"{gpu['name']}, {gpu['memory_bytes'] / 2**30:.0f} GiB, driver {gpu['driver']}")
    if not here["gpus"]:
        console.print("No NVIDIA GPU found.")
    table = Table("implementation", "framework", "cpu", "gpu", "modes", title="Implementations", title_justify="left")
    missing = []
    with console.status("asking each framework"):
        for name, (_, extra, _) in BUILT_IN.items():
            found = probe.probe(name, interpreters.get(name, sys.executable), children.child_environment(1, "gpu"))
            table.add_row(*_environment_row(name, found))
            if isinstance(found["cpu"], str):
                advice = f"pip install 'swav-bench[{extra}]'"
                missing.append(f"{name}: {found['cpu']}" + ("" if advice in found["cpu"] else f"; to add it: {advice}"))
    console.print(table)
    for line in missing:
        console.print(Text(printable(line)), soft_wrap=True)


app.command("show-crops", rich_help_panel=JUDGE)(show_crops.command)
app.command("train", rich_help_panel=USE)(train.command)
app.command("convert", rich_help_panel=USE)(convert.command)
app.command("evaluate", rich_help_panel=USE)(evaluate.command)
app.command("embed", rich_help_panel=USE)(embed.command)
app.command("assign", rich_help_panel=USE)(assign.command)
app.command("protocol", rich_help_panel=USE)(protocol.command)
app.command("curves", rich_help_panel=USE)(curves.command)
app.command("compare", rich_help_panel=MEASURE)(compare.command)
app.command("merge", rich_help_panel=MEASURE)(merge.command)
app.command("index", rich_help_panel=MEASURE)(index.command)


@app.command(rich_help_panel=JUDGE)
def conform(
    implementation: Annotated[
        str, typer.Argument(metavar="NAME", help="package.module:Class of your own, or torch, jax, tensorflow, numpy.")
    ],
    device: Annotated[str, typer.Option(metavar="cpu|gpu", help="Where it computes.")] = "cpu",
    precision: Annotated[
        str, typer.Option(metavar="|".join(PRECISIONS), help="That it computes in; sets the tolerance.")
    ] = "float32",
    mode: Annotated[str, typer.Option(metavar="MODE", help="Execution mode, e.g. eager, jit, graph, xla.")] = "default",
    profile: Annotated[
        str, typer.Option(metavar="dev|ci|thorough", help="How hard to look: 20, 30 or 2,000 examples a property.")
    ] = "ci",
    seed: Annotated[int, typer.Option(help="Of the examples; ci draws the same ones always.")] = 0,
    select: Annotated[str, typer.Option(metavar="TEXT", help="Only properties whose name contains this.")] = "",
    json_path: Annotated[
        Path | None, typer.Option("--json", metavar="FILE", help="Write the verdicts here, too.", show_default=False)
    ] = None,
) -> None:
    """Judge an implementation of SwAV by the specification's properties; a class may have any part of the contract.

    Exit code 0: all properties that apply hold; 1: some do not, with the smallest counterexample; 2: the command cannot
    be followed.
    """
    from swav_bench.conform import conform as judge

    _device(device)
    code = judge(
        implementation,
        device=device,
        precision=_precisions([precision])[0],
        mode=mode,
        profile=profile,
        seed=seed,
        select=select,
        json_path=json_path,
        console=progress.console(),
    )
    sys.exit(code)


@app.command("list", rich_help_panel=MEASURE)
def list_() -> None:
    """List suites, implementations, recipes, networks and data sets."""
    console = progress.console()
    known = Table("suite", "cells", "what it does", title="Suites  (--suite)", title_justify="left")
    for name, suite in suites.SUITES.items():
        known.add_row(name, str(len(suites.plan(name))), suite.description)
    names = Table(
        "recipe", "network", "crops", "batch", "epochs", "ImageNet linear top-1", title="Recipes", title_justify="left"
    )
    for name, recipe in recipes.RECIPES.items():
        crops = " + ".join(f"{group.count}x{group.size}" for group in recipe.crops)
        published = "" if recipe.linear_top1 is None else f"{recipe.linear_top1} %"
        whose = recipes.network_name(recipe.network)
        names.add_row(name, whose, crops, str(recipe.batch), f"{recipe.epochs:g}", published)
    sizes = Table("network", "parameters", "prototypes", title="Networks", title_justify="left")
    for name, network in recipes.NETWORKS.items():
        sizes.add_row(name, f"{count_parameters(network) / 1e6:,.2f} M", str(network.prototypes))
    for table in (known, names, sizes):
        console.print(table)
    console.print(f"Implementations  {', '.join(BUILT_IN)}, or package.module:Class")
    console.print(f"Data sets        {', '.join(DATASETS)}")


def _importable(
    console: Console, planned: list[Cell], asked: Sequence[str], interpreters: Mapping[str, str]
) -> list[Cell]:
    """The cells without those of optional peers that cannot be loaded here and were not asked for by name."""
    for name in sorted(suites.OPTIONAL.keys() & {cell.implementation for cell in planned} - set(asked)):
        found = probe.probe(name, interpreters.get(name, sys.executable), children.child_environment(1, "cpu"))["cpu"]
        if isinstance(found, str):
            console.print(
                Text(f"Without {name}, a peer that is optional: {printable(found)}", style="dim"), soft_wrap=True
            )
            planned = [cell for cell in planned if cell.implementation != name]
    return planned


def _run(console: Console, folder: Path, planned: list[Cell], options: runner.Options) -> int:
    shown = display(console)
    try:
        found = runner.run(folder, planned, options, shown)
    except KeyboardInterrupt:
        shown.end()
        done = records.finished(folder)
        count = sum(cell.id in done for cell in planned)
        _say(f"Stopped: {count} of {len(planned)} cells are measured. The same command goes on with the others.")
        return INTERRUPTED
    finally:
        shown.end()
    from swav_bench.report import terminal_tables

    for table in terminal_tables(found):
        console.print(table)
    reached = [record for record in found if record["status"] != "not_run"]
    failed = sum(record["status"] != "ok" for record in reached)
    code = FAILED if failed else 0
    if failed:
        console.print(
            Text(f"{failed} of {len(reached)} cells failed; --retry-failed measures them again.", style="red")
        )
    if any(goals.goals_of(record) for record in reached):
        code = _check(console, dataclasses.replace(records.load(folder), records=reached)) or code
    _write_report(console, folder)
    return code


def _write_report(console: Console, folder: Path) -> None:
    from swav_bench.report import write_report

    try:
        written = write_report(folder)
    except OSError as error:
        raise InvalidInput(
            f"results folder = {str(folder)!r}: the report cannot be written ({error.strerror or error}); the records "
            f"are as they were. Make it again with: swav-bench report {folder}"
        ) from error
    console.print(Text(f"Report: {written}"), soft_wrap=True)


def _check(console: Console, results: records.Results) -> int:
    judged, misses = goals.check(results)
    for miss in misses:
        console.print(Text(printable(miss), style="red"), soft_wrap=True)
    if misses:
        console.print(f"Goals: missed in {len({miss.partition(':')[0] for miss in misses})} of {judged} cells.")
        return FAILED
    console.print(f"Goals: all {judged} cells learn well beyond raw pixels, random weights and ln K.")
    return 0


def _list_cells(console: Console, planned: list[Cell], done: dict[str, Any], threads: int) -> None:
    estimator = Estimator(done.values(), threads=threads)
    seconds_to_do = 0.0
    for cell in planned:
        status, about = "to do", estimator.cell(cell)
        words = f"{cell.steps} steps, about {_time(about.wall_s)} and {about.memory_bytes / 2**30:.1f} GiB"
        if cell.id in done:
            status, words = done[cell.id]["status"], f"{cell.steps} steps"
        else:
            seconds_to_do += about.wall_s
        console.print(Text(f"{status:10} {printable(cell.title)}  ({words})"), soft_wrap=True)
    to_do = sum(cell.id not in done for cell in planned)
    words = f", about {_time(seconds_to_do)} by estimate" if to_do else ""
    console.print(f"{len(planned)} cells, {to_do} to do{words}")


def seconds(given: str) -> float:
    """Seconds of a time such as 90, 90s, 9m or 1.5h.

    Raises:
        InvalidInput: it has another form.
    """
    match = re.fullmatch(r"(\d+(?:\.\d+)?)([smh]?)", given)
    require(match is not None, "time", given, "a number with s, m or h, e.g. 90s, 9m or 1.5h")
    assert match is not None
    return float(match[1]) * {"": 1, "s": 1, "m": 60, "h": 3600}[match[2]]


def _time(wall_s: float) -> str:
    return f"{wall_s:.0f} s" if wall_s < 90 else f"{wall_s / 60:.0f} min" if wall_s < 5400 else f"{wall_s / 3600:.1f} h"


def _environment_row(name: str, found: dict[str, Any]) -> list[str | Text]:
    first = next((facts for facts in found.values() if isinstance(facts, dict)), None)
    if first is None:
        return [name, Text("cannot be loaded", style="red"), "", "", ""]
    devices = [Text(str(found[kind]["device"]) if isinstance(found[kind], dict) else "no") for kind in probe.DEVICES]
    return [name, f"{first['framework']} {first['version']}", *devices, ", ".join(first["modes"])]


def _device(given: str) -> Any:
    require(given in probe.DEVICES, "device", given, " or ".join(probe.DEVICES))
    return given


def _precisions(given: list[str] | None) -> tuple[Any, ...]:
    for precision in given or []:
        require(precision in PRECISIONS, "precision", precision, "one of " + ", ".join(PRECISIONS))
    return tuple(given or ())


def _decoders() -> int:
    return max(1, (os.cpu_count() or 1) - 1)


def _choice(field: str, given: str | None) -> suites.Choice | None:
    require(given is None or given in suites.CHOICES, field, given, "both, on or off")
    return given  # type: ignore[return-value]


def _say(sentence: str) -> None:
    print(printable(sentence), file=sys.stderr)


def _terminate(_number: int, _frame: object) -> NoReturn:
    sys.exit(TERMINATED)
