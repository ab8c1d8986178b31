"""What people see: results on stdout, everything else on stderr; `--json` gives one document."""

import json
import sys
from collections.abc import Mapping, Sequence

from rich.console import Console
from rich.table import Table
from rich.text import Text

PIPE_WIDTH = 160
"A pipe has no width; tables must not fold in it."

out = Console(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else PIPE_WIDTH)
err = Console(stderr=True, highlight=False, soft_wrap=True)


def show_json(value: object) -> None:
    """Print one JSON document."""
    sys.stdout.write(json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def show_table(rows: Sequence[Mapping[str, object]], title: str | None = None) -> None:
    """Print rows as a table; the first row's keys are the columns."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for column in rows[0] if rows else ():
        table.add_column(column, overflow="fold")
    for row in rows:
        # Not as strings, in which brackets are markup.
        table.add_row(*(Text(text_of(value)) for value in row.values()))
    out.print(table)


def text_of(value: object) -> str:
    """Write a value as people read it."""
    if value is None:
        return "-"
    if isinstance(value, list | tuple | dict):
        return printable(json.dumps(value, ensure_ascii=False))
    return f"{value:.6g}" if isinstance(value, float) else printable(str(value))


def printable(text: str) -> str:
    """Spell out what could steer a terminal or forge a line: names in files are anybody's."""
    if text.isprintable():
        return text
    return "".join(
        each if each.isprintable() else each.encode("unicode_escape").decode() for each in text
    )


def complain(error: Exception) -> None:
    """Print an error, its notes and its hint on stderr."""
    lines = map(printable, f"error: {error}".split("\n"))
    err.print("\n".join(lines), style="red", markup=False)
    for note in getattr(error, "__notes__", ()):
        err.print(note, markup=False)
    if hint := getattr(error, "hint", ""):
        err.print(f"\nhint: {hint}", markup=False)
