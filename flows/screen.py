"""What people see: results on stdout, everything else on stderr; `--json` gives one document."""

import errno
import json
import os
import select
import sys
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from rich.console import Console
from rich.table import Table
from rich.text import Text

from tasks.saying import printable

PIPE_WIDTH = 160
"A pipe has no width; tables must not fold in it."


class Screen(Console):
    """A console to which text from a file, a record or a model can give no orders."""

    def print(self, *objects: Any, **options: Any) -> None:
        """Print; brackets in a text are no markup, and what steers a terminal is spelled out."""
        told = (steady(each) if isinstance(each, str) else each for each in objects)
        super().print(*told, **{"markup": False, **options})

    def on_broken_pipe(self) -> NoReturn:
        """Leave it to the command line, where rich would exit.

        Raises: BrokenPipeError.
        """
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


out = Screen(highlight=False, soft_wrap=True, width=None if sys.stdout.isatty() else PIPE_WIDTH)
err = Screen(stderr=True, highlight=False, soft_wrap=True)


def show_json(value: object) -> None:
    """Print one JSON document."""
    sys.stdout.write(printable_json(value, indent=2) + "\n")


def printable_json(value: object, indent: int | None = None) -> str:
    """Write JSON that keeps letters of any script, and escapes what could steer a terminal."""
    lines = json.dumps(value, indent=indent, ensure_ascii=False).split("\n")
    return "\n".join(
        line
        if line.isprintable()
        else "".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in line)
        for line in lines
    )


def show_table(rows: Sequence[Mapping[str, object]], title: str | None = None) -> None:
    """Print rows as a table; the first row's keys are the columns."""
    table = Table(title_justify="left", box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.title = title and Text(printable(title))
    for column in rows[0] if rows else ():
        table.add_column(Text(printable(column)), overflow="fold")
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


def steady(text: str) -> str:
    """Spell out what could steer a terminal, in text that has lines of its own."""
    return "\n".join("\t".join(map(printable, line.split("\t"))) for line in text.split("\n"))


def complain(error: Exception) -> None:
    """Print an error, its notes and its hint on stderr."""
    err.print(f"error: {error}", style="red")
    for note in getattr(error, "__notes__", ()):
        err.print(note)
    if hint := getattr(error, "hint", ""):
        err.print(f"\nhint: {hint}")


def is_unread() -> bool:
    """Tell whether whoever read stdout or stderr has gone; a pipe to a worker is no output."""
    outputs = select.poll()
    for descriptor in (1, 2):
        outputs.register(descriptor, 0)
    return any(event & select.POLLERR for _, event in outputs.poll(0))


def hush() -> None:
    """Write nothing more: the interpreter would complain of it when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for descriptor in (1, 2):
        os.dup2(nowhere, descriptor)
