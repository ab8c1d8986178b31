"""Describe whatever a person names: a run, an artefact, a model file."""

from pathlib import Path
from typing import Any

from evidence.refs import REF_TYPES
from tasks.errors import NotFoundError
from tasks.run_record import find_run
from tasks.store import open_store


def describe(subject: str) -> dict[str, Any]:
    """Return a description as plain values.

    Raises: NotFoundError, AmbiguousError, WrongRefError, ModelFormatError, CorruptFileError.
    """
    if subject.partition(":")[0] in REF_TYPES:
        store = open_store()
        artefact = store.open(store.resolve(subject))
        return {"ref": str(artefact.ref), "directory": str(artefact.directory), **artefact.index}
    path = Path(subject)
    if path.suffix == ".apr":
        return _describe_apr(path)
    run = find_run(subject)
    return {"plan": run.plan(), "record": run.record()}


def _describe_apr(path: Path) -> dict[str, Any]:
    if not path.is_file():
        raise NotFoundError(f"file {path.name}", str(path.parent))
    from model.apr_file import open_apr
    from model.apr_model import describe as describe_apr

    open_apr(path).verify()
    return {"checksums": "hold", **describe_apr(path)}
