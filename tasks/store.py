"""The store: directories named by their content, complete or absent.

An artefact is built in `tmp/`, hashed, given its index last, synced and renamed into
`<kind>/<ab>/<digest>/`. A directory there exists if and only if it is complete. The recipe table
beside them says which recipe made which artefact.

Where the store is a URL, the directory of this machine is its cache: what is made is made here and
then sent, what is asked for is fetched if it is not here. Unfinished work (`resuming`) stays here.
"""

import contextlib
import fcntl
import os
import re
import shutil
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from evidence.canonical import digest, pretty, read_object
from evidence.errors import WrongRefError
from evidence.records import Recipe
from evidence.refs import REF_TYPES, Ref
from tasks import places
from tasks.checked import is_checked, lasting_stamp, remember_checked
from tasks.directories import differences, entries, listed_files, move_into_place
from tasks.errors import (
    AmbiguousError,
    ArtefactDamagedError,
    BusyError,
    NotFoundError,
    StorageError,
)
from tasks.in_use import mark_used, sharing
from tasks.recipes import Made, Recipes
from tasks.remote import Remote

INDEX = "index.json"
BUILD = "build-"
UNSEEN = ".new"
UNSEEN_SECONDS = 3600.0
"How old the lock of a build may get before it is held."
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
        """Return the index as the type that its stage wrote.

        Raises: ArtefactDamagedError.
        """
        try:
            return TypeAdapter(index_type).validate_python(self.index.get("content"))
        except ValidationError as error:
            first = error.errors()[0]
            place = ".".join(map(str, ("content", *first["loc"])))
            expected = f"what {index_type.__name__} has there ({first['msg']})"
            raise ArtefactDamagedError(self.directory / INDEX, place, expected) from None


@dataclass(frozen=True, slots=True)
class Store:
    """A directory of artefacts and the table of recipes that made them."""

    root: Path
    remote: Remote | None = None
    """The store that `root` is the cache of, if it is one."""

    @property
    def where(self) -> str:
        """What a person would call the place."""
        return self.remote.url if self.remote else str(self.root)

    def check_writable(self) -> None:
        """Refuse a store that cannot be written before any work is done.

        Raises: StorageError, StoreRefusedError, StoreUnreachableError.
        """
        name = f"tmp/probe-{uuid.uuid4().hex}"
        probe = self.root / name
        try:
            probe.mkdir(parents=True)
            probe.rmdir()
        except OSError as error:
            raise StorageError(str(self.root), os.strerror(error.errno or 0)) from None
        if self.remote:
            self.remote.check_writable(name)

    @contextlib.contextmanager
    def building(self, name: str) -> Iterator[Path]:
        """Yield a fresh directory to build in; it is removed unless it was committed.

        What killed processes have left of theirs is removed first.
        """
        self._sweep()
        unique = f"{BUILD}{name}-{uuid.uuid4().hex[:12]}"
        directory, lock = self.root / "tmp" / unique, self.root / "tmp" / f"{unique}.lock"
        # Sweepers see a lock only once it is held.
        unseen = lock.with_suffix(UNSEEN)
        with locked(unseen, what="a build of its own"):
            unseen.rename(lock)
            directory.mkdir()
            try:
                yield directory
            finally:
                shutil.rmtree(directory, ignore_errors=True)
                lock.unlink(missing_ok=True)

    def builds(self, name: str) -> list[Path]:
        """List the directories in which something whose name begins so is being built."""
        found = (self.root / "tmp").glob(f"{BUILD}{name}*")
        return [path for path in found if path.is_dir()]

    def _sweep(self) -> None:
        """Remove the builds whose lock nobody holds any more."""
        for lock in (self.root / "tmp").glob(f"{BUILD}*.lock"):
            with contextlib.suppress(BusyError), locked(lock, what="a build"):
                shutil.rmtree(lock.with_suffix(""), ignore_errors=True)
                lock.unlink(missing_ok=True)
        for unseen in (self.root / "tmp").glob(f"{BUILD}*{UNSEEN}"):
            # A young one may be about to be held; of a dead process it is in nobody's way.
            with contextlib.suppress(FileNotFoundError):
                if time.time() - unseen.stat().st_mtime > UNSEEN_SECONDS:
                    unseen.unlink()

    @contextlib.contextmanager
    def resuming(self, name: str) -> Iterator[Path]:
        """Yield the one directory of this name, as an earlier process of this machine left it.

        Raises: BusyError if another process has it.
        """
        directory = self.root / "tmp" / name
        with locked(self.root / "tmp" / f"{name}.lock", what="this recipe"):
            directory.mkdir(parents=True, exist_ok=True)
            # A process that died between indexing and renaming left an index: it is no content.
            (directory / INDEX).unlink(missing_ok=True)
            yield directory

    def is_held(self, name: str) -> bool:
        """Tell whether a process has the directory of this name that is resumed."""
        try:
            with locked(self.root / "tmp" / f"{name}.lock", what="this recipe"):
                return False
        except BusyError:
            return True

    def commit(self, directory: Path, ref_type: type[RefT], index: object) -> RefT:
        """Hash, index, sync and rename a built directory; its name is the index's digest."""
        content = index if isinstance(index, Mapping) else asdict(index)  # type: ignore[call-overload]
        document = {"kind": ref_type.kind, "content": content, "files": entries(directory)}
        ref = ref_type(digest(document))
        (directory / INDEX).write_bytes(pretty(document))
        seen = lasting_stamp(directory)
        with sharing(self.root):
            # Equal content may be there already: that is the artefact, and used again.
            if move_into_place(directory, self.directory(ref)):
                remember_checked(self.directory(ref), seen)
            os.utime(self.directory(ref))
        return ref

    def directory(self, ref: Ref) -> Path:
        """Return where the artefact of this ref is or would be."""
        return self.root / _artefact_name(ref)

    def open(self, ref: Ref) -> Artefact:
        """Open an artefact after checking every byte of it, once in the life of this process.

        Raises: NotFoundError, ArtefactDamagedError, StoreRefusedError, StoreUnreachableError.
        """
        mark_used(self.root, self.directory(ref))
        artefact = self._found(ref)
        if not is_checked(artefact.directory):
            seen = lasting_stamp(artefact.directory)
            for damage in damages(artefact.directory, ref, artefact.index):
                raise damage
            remember_checked(artefact.directory, seen)
        return artefact

    def peek(self, ref: Ref) -> Artefact:
        """Open an artefact as it is, without hashing it.

        Raises: FileNotFoundError, and whatever `open` raises if it has to be fetched.
        """
        self.fetch(_artefact_name(ref), INDEX, partial(_refuse, ref))
        directory = self.directory(ref)
        return Artefact(ref, directory, read_object(directory / INDEX))

    def _found(self, ref: Ref) -> Artefact:
        try:
            return self.peek(ref)
        except FileNotFoundError:
            raise NotFoundError(f"artefact {ref.short}", self.where) from None

    def find(self, recipe: Recipe) -> Made | None:
        """Return what this recipe has made before, here or elsewhere, if it still exists.

        Raises: StoreRefusedError, StoreUnreachableError.
        """
        made = self._recipes.find(recipe)
        if made is None:
            return None
        mark_used(self.root, self.directory(made.ref))
        if self.directory(made.ref).is_dir():
            return made
        exists = self.remote and self.remote.has(f"{_artefact_name(made.ref)}/{INDEX}")
        return made if exists else None

    def made_by(self, stage: str) -> list[Made]:
        """List what recipes of a stage have made or used here, the newest first."""
        return self._recipes.of_stage(stage)

    def origin(self, ref: Ref) -> Mapping[str, str]:
        """Return from what an artefact was made, by name; empty where that is not known here."""
        made = self._recipes.making(ref)
        return made.recipe["inputs"] if made else {}

    def observed(self, ref: Ref) -> Mapping[str, Any]:
        """Return what was seen while an artefact was made; empty where that is not known here."""
        made = self._recipes.making(ref)
        return made.observed if made else {}

    def remember(
        self, recipe: Recipe, ref: Ref, run: str, observed: Mapping[str, Any] | None = None
    ) -> None:
        """Enter what a recipe has made, and send both to where the store is.

        What is made stays made here if that fails; `share` sends it then.

        Raises: StoreRefusedError, StoreUnreachableError.
        """
        self._recipes.enter(recipe, ref, run, observed or {})
        self.share(recipe, ref)

    def share(self, recipe: Recipe, ref: Ref) -> None:
        """Send what a recipe has made, and that it did, to where the store is.

        Raises: StoreRefusedError, StoreUnreachableError.
        """
        name = _artefact_name(ref)
        if self.remote and not self.send(name, INDEX):
            # Written again, it is as young there as what was just made.
            self.remote.write(f"{name}/{INDEX}", (self.root / name / INDEX).read_bytes())
        self._recipes.send(recipe)

    def send(self, name: str, index: str) -> bool:
        """Send a complete directory to where the store is, unless it is there; say which.

        Raises: StoreRefusedError, StoreUnreachableError.
        """
        if self.remote is None or self.remote.has(f"{name}/{index}"):
            return False
        self.remote.upload(self.root / name, name, index=index)
        return True

    def fetch(self, name: str, index: str, check: Callable[[Path], None]) -> bool:
        """Have a directory here that `check` does not refuse; return False if it is nowhere.

        Raises: StoreRefusedError, StoreUnreachableError, and whatever `check` raises.
        """
        final = self.root / name
        if (final / index).is_file():
            return True
        if self.remote is None or (content := self.remote.read(f"{name}/{index}")) is None:
            return False
        lock = self.root / "tmp" / f"fetch-{final.name}.lock"
        with locked(lock, what="a download", wait=True), self.building("fetch") as directory:
            if not (final / index).is_file():
                (directory / index).write_bytes(content)
                listed = listed_files(read_object(directory / index), final / index)
                self.remote.download(name, [str(entry["path"]) for entry in listed], directory)
                check(directory)
                seen = lasting_stamp(directory)
                if move_into_place(directory, final):
                    remember_checked(final, seen)
            lock.unlink(missing_ok=True)
        return True

    def resolve(self, text: str) -> Ref:
        """Return the artefact that `kind:digest`, or a unique beginning of it, names.

        Raises: NotFoundError, AmbiguousError.
        """
        kind, _, start = text.partition(":")
        if kind not in REF_TYPES or not _BEGINNING.fullmatch(start):
            raise WrongRefError(text, f"{_WANTED} of {', '.join(REF_TYPES)}")
        here = {
            path.parent.name for path in (self.root / kind).glob(f"{start[:2]}/{start}*/{INDEX}")
        }
        found = sorted(here | self._elsewhere(kind, start))
        if not found:
            raise NotFoundError(f"artefact {text}", self.where)
        if len(found) > 1:
            raise AmbiguousError(text, tuple(f"{kind}:{name[:16]}" for name in found))
        return REF_TYPES[kind](found[0])

    @property
    def _recipes(self) -> Recipes:
        return Recipes(self.root, self.remote)

    def _elsewhere(self, kind: str, start: str) -> set[str]:
        if self.remote is None:
            return set()
        shelf = f"{kind}/{start[:2]}"
        return {
            name
            for name in self.remote.names(shelf)
            if name.startswith(start) and self.remote.has(f"{shelf}/{name}/{INDEX}")
        }


def open_store(location: str | None = None) -> Store:
    """Return the store of this process's environment, or the one that another process named.

    Raises: UnsupportedStoreError.
    """
    url = places.store_url() if location is None else location if "://" in location else None
    if url:
        return Store(places.store(), Remote(url))
    return Store(Path(location) if location else places.store())


def _refuse(ref: Ref, directory: Path) -> None:
    """Raise the first damage of a directory that should be an artefact."""
    for damage in damages(directory, ref, read_object(directory / INDEX)):
        raise damage


def _artefact_name(ref: Ref) -> str:
    return f"{ref.kind}/{ref.digest[:2]}/{ref.digest}"


def damages(directory: Path, ref: Ref, index: Mapping[str, Any]) -> Iterator[ArtefactDamagedError]:
    """Yield everything by which an artefact differs from its ref."""
    if digest(index) != ref.digest:
        yield ArtefactDamagedError(
            directory / INDEX, f"digest {digest(index)[:12]}", f"{ref.digest[:12]}"
        )
        return
    try:
        listed = listed_files(index, directory / INDEX)
    except ArtefactDamagedError as damage:
        yield damage
        return
    yield from differences(directory, listed, index=INDEX)


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
