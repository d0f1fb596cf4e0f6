"""`swav-bench index`: index.md and index.html, one row for each folder of results, made from their records alone."""

from __future__ import annotations

import html
import re
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated
from urllib.parse import quote

import typer
from rich.console import Console
from rich.text import Text

from swav_bench import records
from swav_bench.findings import headline
from swav_bench.records import STATUSES, Record, Results
from swav_bench.suites import SUITES
from swav_bench.tables import study
from swav_spec.errors import InvalidInput, require

MARKDOWN, HTML = "index.md", "index.html"
#: Folders that are not kept: where `swav-bench run --suite NAME` writes unless told otherwise.
SCRATCH = frozenset(SUITES) | {f"{name}-rehearsal" for name in SUITES}
TITLE = "Results"
INTRODUCTION = "Made by `swav-bench index` from the records and never edited. A figure holds for the device beside it."
COLUMNS = ("Folder", "Suite", "Device", "Implementations", "Measured", "Commit", "Cells", "In short")
_PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 16px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 80rem; padding: 0 1rem; }}
div {{ overflow-x: auto; }}
table {{ border-collapse: collapse; }}
th, td {{ border-bottom: 1px solid #8886; padding: .5rem; text-align: left; vertical-align: top; }}
@media (prefers-color-scheme: dark) {{ body {{ background: #111; color: #ddd; }} a {{ color: #8cf; }} }}
</style>
</head>
<body>
<h1>{title}</h1>
<p>{introduction}</p>
<div><table>
<thead><tr>{head}</tr></thead>
<tbody>
{rows}
</tbody>
</table></div>
</body>
</html>
"""


@dataclass(frozen=True)
class Entry:
    """A folder's row: where its report is, and the other columns in words."""

    folder: str
    columns: tuple[str, ...]


def entry(root: Path, folder: Path) -> Entry:
    """The row of a folder below `root`.

    Raises:
        InvalidInput: it holds no results.
    """
    results = records.load(folder)
    measured = [record for record in results.records if record["status"] != "not_run"]
    counts = Counter(record["status"] for record in results.records)
    columns = (
        _listed(record["cell"]["suite"] for record in results.records),
        _listed(map(records.machine, measured)),
        _listed(filter(None, map(_framework, measured))),
        _days(measured),
        _listed(map(_commit, measured)),
        _listed(f"{counts[status]} {status.replace('_', ' ')}" for status in STATUSES if counts[status]),
        _short(results),
    )
    return Entry(folder.relative_to(root).as_posix(), columns)


def _framework(record: Record) -> str:
    described = record["environment"]["implementation"]
    if not described:
        return ""
    name, framework = record["cell"]["implementation"], described["framework"]
    return f"{name} {described['version']}" + ("" if framework == name else f" ({framework})")


def _days(measured: Iterable[Record]) -> str:
    days = sorted(record["started_at"][:10] for record in measured if record["started_at"])
    return " to ".join(dict.fromkeys((days[0], days[-1]))) if days else ""


def _commit(record: Record) -> str:
    return (record["commit"] or "unknown")[:10] + (" with changes" if record["dirty"] else "")


def _short(results: Results) -> str:
    return " ".join(headline(study(results.records))[:1])


def _listed(words: Iterable[str]) -> str:
    return ", ".join(dict.fromkeys(words))


def folders(root: Path) -> list[Path]:
    """Folders of results below `root`, at any depth, but for those named like a suite."""
    found = (path.parent for path in root.rglob(records.RECORDS))
    return sorted(path for path in found if path != root and path.relative_to(root).parts[0] not in SCRATCH)


def pages(root: Path, found: Sequence[Path]) -> dict[str, str]:
    """File name -> content, for the folders `found` below `root`.

    Raises:
        InvalidInput: one of them cannot be read.
    """
    entries = [entry(root, folder) for folder in found]
    return {MARKDOWN: _markdown(entries), HTML: _html(entries)}


def _markdown(entries: Iterable[Entry]) -> str:
    rows = [COLUMNS, ("---",) * len(COLUMNS)]
    for item in entries:
        link = f"[{_plain(item.folder)}]({quote(item.folder)}/report.md)"
        rows.append((link, *map(_plain, item.columns)))
    table = "\n".join(f"| {' | '.join(row)} |" for row in rows)
    return f"# {TITLE}\n\n{INTRODUCTION}\n\n{table}\n"


def _plain(text: str) -> str:
    """Text that Markdown shows as it is."""
    return re.sub(r"([\\`*_\[\]|~#!])", r"\\\1", html.escape(" ".join(text.split()), quote=False))


def _html(entries: Iterable[Entry]) -> str:
    def row(item: Entry) -> str:
        link = f'<a href="{quote(item.folder)}/report.html">{html.escape(item.folder)}</a>'
        return f"<tr>{''.join(f'<td>{cell}</td>' for cell in (link, *map(html.escape, item.columns)))}</tr>"

    return _PAGE.format(
        title=TITLE,
        introduction=html.escape(INTRODUCTION.replace("`", "")),
        head="".join(f"<th>{column}</th>" for column in COLUMNS),
        rows="\n".join(map(row, entries)),
    )


def command(
    root: Annotated[Path, typer.Argument(help="A folder of folders of results.")] = Path("results"),
    check: Annotated[
        bool, typer.Option("--check", help="Only say whether the pages are those of the records.")
    ] = False,
) -> None:
    """Make index.md and index.html: one row for each folder of results, from their records.

    With --check, exit code 1 if they differ from what is there.
    """
    found = folders(root)
    require(bool(found), "results", str(root), "a folder of folders with records.jsonl")
    made = pages(root, found)
    console = Console(highlight=False)
    if check:
        differing = [name for name, page in made.items() if _read(root / name) != page]
        for name in differing:
            console.print(Text(f"{name} is not what the records give; make it with: swav-bench index {root}"))
        raise typer.Exit(1 if differing else 0)
    try:
        for name, page in made.items():
            records.write_atomically(root / name, page)
    except OSError as error:
        raise InvalidInput(f"results = {str(root)!r}: cannot be written ({error.strerror})") from None
    console.print(Text(f"{len(found)} folders: {root / MARKDOWN}, {root / HTML}"), soft_wrap=True)


def _read(path: Path) -> str | None:
    return path.read_text(encoding="utf-8") if path.exists() else None
