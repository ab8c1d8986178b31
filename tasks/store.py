"""The store: directories named by their content, complete or absent.

An artefact is built in `tmp/`, hashed, given its index last, synced and renamed into
`<kind>/<ab>/<digest>/`. A directory there exists if and only if it is complete. The recipe table
beside them says which recipe made which artefact.
"""

import contextlib
import fcntl
import os
import re
import shutil
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter

from evidence.canonical import digest, dumps, pretty, read_object
from evidence.errors import WrongRefError
from evidence.records import Recipe
from evidence.refs import REF_TYPES, Ref
from tasks.directories import differences, entries, move_into_place
from tasks.errors import (
    AmbiguousError,
    ArtefactDamagedError,
    BusyError,
    NotFoundError,
    StorageError,
)

INDEX = "index.json"
BUILD = "build-"
_WANTED = "KIND:DIGEST, two hex digits of it at least, with KIND one"
_BEGINNING = re.compile(r"[0-9a-f]{2,64}")

IndexT = TypeVar("IndexT")
RefT = TypeVar("RefT", bound=Ref)


@dataclass(frozen=True, slots=True)
class Artefact:
    """An opened artefact: where it is and what its index says."""

    ref: Ref
    directory: Path
    index: Mapping[str, Any]

    def read_index(self, index_type: type[IndexT]) -> IndexT:
        """Return the index as the type that its stage wrote."""
        return TypeAdapter(index_type).validate_python(self.index["content"])


@dataclass(frozen=True, slots=True)
class Made:
    """A recipe that has been made: its artefact, and the run whose record says so."""

    ref: Ref
    run: str
    recipe: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Store:
    """A directory of artefacts and the table of recipes that made them."""

    root: Path

    def check_writable(self) -> None:
        """Refuse a store that cannot be written before any work is done.

        Raises: StorageError.
        """
        probe = self.root / "tmp" / f"probe-{uuid.uuid4().hex}"
        try:
            probe.mkdir(parents=True)
            probe.rmdir()
        except OSError as error:
            raise StorageError(str(self.root), os.strerror(error.errno or 0)) from None

    @contextlib.contextmanager
    def building(self, name: str) -> Iterator[Path]:
        """Yield a fresh directory to build in; it is removed unless it was committed.

        What killed processes have left of theirs is removed first.
        """
        self._sweep()
        unique = f"{BUILD}{name}-{uuid.uuid4().hex[:12]}"
        directory, lock = self.root / "tmp" / unique, self.root / "tmp" / f"{unique}.lock"
        # Sweepers see a lock only once it is held.
        unseen = lock.with_suffix(".new")
        with locked(unseen, what="a build of its own"):
            unseen.rename(lock)
            directory.mkdir()
            try:
                yield directory
            finally:
                shutil.rmtree(directory, ignore_errors=True)
                lock.unlink(missing_ok=True)

    def _sweep(self) -> None:
        """Remove the builds whose lock nobody holds any more."""
        for lock in (self.root / "tmp").glob(f"{BUILD}*.lock"):
            with contextlib.suppress(BusyError), locked(lock, what="a build"):
                shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
                lock.unlink(missing_ok=True)

    @contextlib.contextmanager
    def resuming(self, name: str) -> Iterator[Path]:
        """Yield the one directory of this name, as an earlier process left it.

        Raises: BusyError if another process has it.
        """
        directory = self.root / "tmp" / name
        with locked(self.root / "tmp" / f"{name}.lock", what="this recipe"):
            directory.mkdir(parents=True, exist_ok=True)
            # A process that died between indexing and renaming left an index: it is no content.
            (directory / INDEX).unlink(missing_ok=True)
            yield directory

    def commit(self, directory: Path, ref_type: type[RefT], index: object) -> RefT:
        """Hash, index, sync and rename a built directory; its name is the index's digest."""
        content = index if isinstance(index, Mapping) else asdict(index)  # type: ignore[call-overload]
        document = {"kind": ref_type.kind, "content": content, "files": entries(directory)}
        ref = ref_type(digest(document))
        (directory / INDEX).write_bytes(pretty(document))
        # Equal content may be there already: that is the artefact.
        move_into_place(directory, self.directory(ref))
        return ref

    def directory(self, ref: Ref) -> Path:
        """Return where the artefact of this ref is or would be."""
        return self.root / ref.kind / ref.digest[:2] / ref.digest

    def open(self, ref: Ref) -> Artefact:
        """Open an artefact after checking every byte of it.

        Raises: NotFoundError, ArtefactDamagedError.
        """
        directory = self.directory(ref)
        if not (directory / INDEX).is_file():
            raise NotFoundError(f"artefact {ref.short}", str(self.root))
        index = read_object(directory / INDEX)
        for damage in damages(directory, ref, index):
            raise damage
        return Artefact(ref, directory, index)

    def peek(self, ref: Ref) -> Artefact:
        """Open an artefact that this process has just written, without hashing it again."""
        directory = self.directory(ref)
        return Artefact(ref, directory, read_object(directory / INDEX))

    def find(self, recipe: Recipe) -> Made | None:
        """Return what this recipe has made before, if its artefact still exists."""
        path = self._recipe_path(recipe.digest)
        if not path.is_file():
            return None
        entry = read_object(path)
        kind, _, name = str(entry["ref"]).partition(":")
        ref = REF_TYPES[kind](name)
        known: Any = entry["recipe"]
        return Made(ref, str(entry["run"]), known) if self.directory(ref).is_dir() else None

    def remember(self, recipe: Recipe, ref: Ref, run: str) -> None:
        """Enter what a recipe has made."""
        path = self._recipe_path(recipe.digest)
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(f".{uuid.uuid4().hex}.partial")
        partial.write_bytes(dumps({"recipe": recipe.as_record(), "ref": str(ref), "run": run}))
        partial.replace(path)

    def resolve(self, text: str) -> Ref:
        """Return the artefact that `kind:digest`, or a unique beginning of it, names.

        Raises: NotFoundError, AmbiguousError.
        """
        kind, _, start = text.partition(":")
        if kind not in REF_TYPES or not _BEGINNING.fullmatch(start):
            raise WrongRefError(text, f"{_WANTED} of {', '.join(REF_TYPES)}")
        found = sorted(
            path.name
            for path in (self.root / kind).glob(f"{start[:2]}/{start}*")
            if (path / INDEX).is_file()
        )
        if not found:
            raise NotFoundError(f"artefact {text}", str(self.root))
        if len(found) > 1:
            raise AmbiguousError(text, tuple(f"{kind}:{name[:16]}" for name in found))
        return REF_TYPES[kind](found[0])

    def _recipe_path(self, recipe_digest: str) -> Path:
        return self.root / "recipes" / recipe_digest[:2] / f"{recipe_digest}.json"


def damages(directory: Path, ref: Ref, index: Mapping[str, Any]) -> Iterator[ArtefactDamagedError]:
    """Yield everything by which an artefact differs from its ref."""
    if digest(index) != ref.digest:
        yield ArtefactDamagedError(
            directory / INDEX, f"digest {digest(index)[:12]}", f"{ref.digest[:12]}"
        )
        return
    yield from differences(directory, index["files"], index=INDEX)


@contextlib.contextmanager
def locked(path: Path, *, what: str, wait: bool = False) -> Iterator[None]:
    """Hold a file lock; the kernel frees it when the process ends, however it ends.

    Raises: BusyError.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            raise BusyError(what, path) from None
        yield
