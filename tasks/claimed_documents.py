"""The project's documents and the evidence that they name; records kept for them to name."""

import datetime
from pathlib import Path

from evidence.chain import read_chain
from evidence.claims import Checked, check_document, kept_measurements
from evidence.records import SEAL, write_record
from tasks import places
from tasks.errors import NotFoundError
from tasks.run_record import Run

DOCUMENTS = ("README.md", "CONTRIBUTING.md", "tests/benchmarks/README.md", "docs/*.md")
KEPT = "claims"
SCHEMA = "assay.claims/1"


def documents() -> list[Path]:
    """List the documents whose numbers must be backed."""
    return [path for name in DOCUMENTS for path in sorted(places.PROJECT.glob(name))]


def check_documents(paths: list[Path]) -> dict[str, Checked]:
    """Hold documents to the evidence of the project, and to what was withdrawn here.

    Raises: NotFoundError.
    """
    chain = read_chain(places.evidence())
    withdrawn = {
        line.record_sha256: str(line.reason) for line in chain.lines if line.event == "withdrawn"
    }
    found = {}
    for path in paths:
        if not path.is_file():
            raise NotFoundError(f"document {path.name}", str(path.parent.absolute()))
        inside = path.is_relative_to(places.PROJECT)
        name = str(path.relative_to(places.PROJECT) if inside else path)
        evidence = places.PROJECT / "evidence"
        found[name] = check_document(name, path.read_text(), evidence, withdrawn)
    return found


def keep(run: Run) -> Path:
    """Write what a run measured where documents can name it; a kept record is committed.

    Raises: NotFoundError if the run has not ended.
    """
    record = run.record()
    if record is None:
        raise NotFoundError("record of a run that ended", str(run.directory))
    plan = run.plan()
    name = str(plan["request"].get("preset", run.name)).rpartition("/")[2].partition(".")[0]
    path = places.PROJECT / "evidence" / KEPT / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    kept = {
        "schema": SCHEMA,
        "run": run.name,
        "run_record_sha256": record[SEAL],
        "outcome": record["outcome"],
        "finished": record["finished"],
        "settings_sha256": record["settings_sha256"],
        "recipes": record["recipes"],
        "provenance": record["provenance"],
        "measurements": {
            **kept_measurements(run.stage_records()),
            "run": {"wall_seconds": _seconds(record["started"], record["finished"])},
        },
    }
    write_record(path, kept)
    return path


def _seconds(started: str, finished: str) -> float:
    """Return what the run took by the clock, its own work between the stages included."""
    begin, end = map(datetime.datetime.fromisoformat, (started, finished))
    return (end - begin).total_seconds()
