"""`assay export`: a run in the words of other tools."""

import os
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from flows.look_commands import Subject, find_or_last
from flows.screen import out, printable_json
from tasks.errors import StorageError

if TYPE_CHECKING:
    from tasks.run_record import Run


class Format(StrEnum):
    """What a run can be exported as."""

    OPENLINEAGE = "openlineage"
    CROISSANT = "croissant"


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(export)


def export(
    run: Subject = None,
    format_: Annotated[
        Format,
        typer.Option("--format", help="Events of its stages, or a description of its corpus."),
    ] = Format.OPENLINEAGE,
    out_: Annotated[
        Path | None, typer.Option("--out", help="File to write; default: standard output.")
    ] = None,
) -> None:
    """Write a run as OpenLineage events, one a line, or its corpus as a Croissant description."""
    text = _exported(find_or_last(run), format_)
    if out_ is None:
        typer.echo(text, nl=False)
        return
    try:
        out_.write_text(text, encoding="utf-8")
    except OSError as error:
        raise StorageError(str(out_), os.strerror(error.errno or 0)) from None
    out.print(str(out_))


def _exported(run: "Run", format_: Format) -> str:
    from tasks.croissant import describe_corpus
    from tasks.openlineage import run_events
    from tasks.schemas import require_shapes

    require_shapes(run)
    if format_ is Format.CROISSANT:
        return printable_json(describe_corpus(run), indent=2) + "\n"
    return "".join(printable_json(event) + "\n" for event in run_events(run))
