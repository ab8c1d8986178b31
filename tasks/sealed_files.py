"""Single files of artefacts, each held to the digest by which its artefact is named."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from evidence.canonical import digest, file_sha256, read_object
from evidence.errors import EvidenceError
from evidence.refs import Ref
from tasks import places
from tasks.errors import ArtefactDamagedError
from tasks.store import INDEX, Store

UNREADABLE = (OSError, EvidenceError, ArtefactDamagedError)


def sealed_index(ref: Ref) -> Mapping[str, Any]:
    """Return an artefact's index if it is the one that its ref names.

    Raises: FileNotFoundError, MalformedJsonError, ArtefactDamagedError.
    """
    path = _directory(ref) / INDEX
    index = read_object(path)
    if (found := digest(index)) != ref.digest:
        raise ArtefactDamagedError(path, f"digest {found[:12]}", ref.digest[:12])
    return index


def sealed_file(ref: Ref, name: str) -> Path:
    """Return one file after checking it alone: all of an artefact may be gigabytes.

    Raises: FileNotFoundError, MalformedJsonError, ArtefactDamagedError.
    """
    listed = {entry["path"]: entry["sha256"] for entry in sealed_index(ref)["files"]}
    path = _directory(ref) / name
    if (found := file_sha256(path)) != listed.get(name):
        raise ArtefactDamagedError(path, f"sha256 {found[:12]}", str(listed.get(name))[:12])
    return path


def why_absent(error: Exception) -> str:
    """Say why something of an artefact cannot be shown."""
    return "it is not in the store here" if isinstance(error, OSError) else str(error)


def _directory(ref: Ref) -> Path:
    return Store(places.store()).directory(ref)
