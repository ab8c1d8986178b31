"""Write a run's report: one page beside the evidence, never in it, since that is sealed."""

import os
from pathlib import Path

from tasks import places
from tasks.errors import StorageError
from tasks.html_report.page import report_page
from tasks.run_record import Run


def report_path(run: Run) -> Path:
    """Return where a run's page is unless somebody asked for another place."""
    return places.home() / "reports" / f"{run.name}.html"


def write_report(run: Run, out: Path | None = None) -> Path:
    """Write a run's page: whole, or not at all.

    Raises: BrokenSealError, MalformedJsonError, StorageError.
    """
    path = (out or report_path(run)).absolute()
    path = path / f"{run.name}.html" if path.is_dir() else path
    page = report_page(run)
    try:
        _write(path, page)
    except OSError as error:
        raise StorageError(str(path), os.strerror(error.errno or 0)) from None
    return path


def _write(path: Path, page: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    # A run and its mirror may both write it, with the same bytes.
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)
