"""`assay report`: a run as one HTML page."""

from pathlib import Path
from typing import Annotated

import typer

from flows.errors import WrongUseError
from flows.look_commands import Subject
from flows.run_commands import Json
from flows.screen import out, show_json


def add_to(app: typer.Typer) -> None:
    """Add the command."""
    app.command()(report)


def report(
    run: Subject = None,
    out_: Annotated[
        Path | None,
        typer.Option("--out", help="File or directory; default: reports/ in ASSAY_HOME."),
    ] = None,
    json: Json = False,  # noqa: FBT002
) -> None:
    """Write a run as one HTML page: verdict, plan against result, curves, data, lineage."""
    from flows.look_commands import find_or_last
    from tasks.errors import NotFoundError
    from tasks.run_report import write_report

    found = find_or_last(run)
    if out_ and out_.resolve().is_relative_to(found.directory.resolve()):
        expected = "--out outside of the run's evidence, which is sealed"
        raise WrongUseError("assay report", expected)
    if out_ and not out_.parent.exists():
        raise NotFoundError("directory", str(out_.parent))
    path = write_report(found, out_)
    if json:
        show_json({"run": found.name, "report": str(path), "bytes": path.stat().st_size})
    else:
        out.print(str(path))
