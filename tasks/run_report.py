"""Write a run's report: one page beside the evidence, never in it, since that is sealed."""

from pathlib import Path

from tasks import places
from tasks.html_report.page import report_page
from tasks.run_record import Run


def report_path(run: Run) -> Path:
    """Return where a run's page is unless somebody asked for another place."""
    return places.home() / "reports" / f"{run.name}.html"


def write_report(run: Run, out: Path | None = None) -> Path:
    """Write a run's page: whole, or not at all.

    Raises: BrokenSealError, MalformedJsonError, OSError.
    """
    path = (out or report_path(run)).absolute()
    page = report_page(run)
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.partial")
    partial.write_text(page, encoding="utf-8")
    partial.replace(path)
    return path
