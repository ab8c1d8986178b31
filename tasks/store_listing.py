"""What a store holds, listed in one go: here, or where its URL points.

A directory here has the time of its last use. Objects elsewhere have the time when they were
written; an index is written again with each use.
"""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from evidence.refs import DIGEST, REF_TYPES
from tasks.remote import Entry, Remote
from tasks.shared_runs import UNFINISHED
from tasks.store import INDEX
from tasks.unit_cache import UNIT

RECIPES, UNITS = "recipes", "units"


@dataclass(frozen=True, slots=True)
class Place:
    """One place of a store; `remote` is absent for the directory of this machine."""

    root: Path
    remote: Remote | None
    artefacts: Mapping[str, float]
    "By ref, when it was used last."
    recipes: Mapping[str, float]
    "By name, when it was entered."
    units: Mapping[str, float]
    incomplete: Mapping[str, float]
    "Directories of artefacts or units without an index."
    trainings: Mapping[str, float]
    "Copies of unfinished ones, for other machines."

    @property
    def is_here(self) -> bool:
        """Whether it is the directory of this machine."""
        return self.remote is None

    def read(self, names: Iterable[str]) -> dict[str, bytes]:
        """Read those files that are there."""
        if self.remote is not None:
            return self.remote.read_all(list(names))
        paths = {name: self.root / name for name in names}
        return {name: path.read_bytes() for name, path in paths.items() if path.is_file()}


def artefact_name(ref: str) -> str:
    """Return the path of an artefact within a store."""
    kind, _, digits = ref.partition(":")
    return f"{kind}/{digits[:2]}/{digits}"


def list_here(root: Path) -> Place:
    """List the directory of this machine."""
    artefacts: dict[str, float] = {}
    units: dict[str, float] = {}
    incomplete: dict[str, float] = {}
    for kind in REF_TYPES:
        for path, name, used in _shelved(root, kind):
            if (path / INDEX).is_file():
                artefacts[f"{kind}:{path.name}"] = used
            else:
                incomplete[name] = used
    for path, name, used in _shelved(root, UNITS):
        (units if (path / UNIT).is_file() else incomplete)[name] = used
    recipes = {
        path.relative_to(root).as_posix(): path.stat().st_mtime
        for path in (root / RECIPES).glob("*/*.json")
    }
    return Place(root, None, artefacts, recipes, units, incomplete, {})


def list_there(root: Path, remote: Remote, listing: Mapping[str, Entry]) -> Place:
    """Sort what is listed of the place that a URL names."""
    recipes: dict[str, float] = {}
    trainings: dict[str, float] = {}
    files: dict[str, dict[str, float]] = {}
    for name, entry in listing.items():
        kind, _, rest = name.partition("/")
        parts = rest.split("/", 2)
        if kind == RECIPES and name.endswith(".json"):
            recipes[name] = entry.written
        elif kind == UNFINISHED:
            training = f"{kind}/{parts[0]}"
            trainings[training] = max(entry.written, trainings.get(training, 0.0))
        elif (
            (kind in REF_TYPES or kind == UNITS) and len(parts) == 3 and DIGEST.fullmatch(parts[1])
        ):
            files.setdefault(f"{kind}/{parts[0]}/{parts[1]}", {})[parts[2]] = entry.written
    artefacts, units, incomplete = {}, {}, {}
    for directory, written in files.items():
        kind, _, digits = directory.split("/")
        used = max(written.values())
        if (UNIT if kind == UNITS else INDEX) not in written:
            incomplete[directory] = used
        elif kind == UNITS:
            units[directory] = used
        else:
            artefacts[f"{kind}:{digits}"] = used
    return Place(root, remote, artefacts, recipes, units, incomplete, trainings)


def _shelved(root: Path, kind: str) -> Iterator[tuple[Path, str, float]]:
    for path in (root / kind).glob("[0-9a-f][0-9a-f]/*"):
        if DIGEST.fullmatch(path.name) and path.is_dir() and not path.is_symlink():
            yield path, path.relative_to(root).as_posix(), path.stat().st_mtime
