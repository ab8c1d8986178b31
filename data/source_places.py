"""Where source files are: a local directory, a bucket or a dataset of the Hugging Face hub.

A place lists its files, opens one for reading here and there, and gives a whole one as a local
path. Files are pinned by sha256: a local path is only handed out once it has the pinned digest.
"""

import hashlib
import io
import os
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Protocol

from typing_extensions import Buffer

from data.candidates import SourceFile
from data.digests import file_sha256
from data.errors import (
    ChangedSourceError,
    EmptySourceError,
    MissingSourceError,
    UnnameableFileError,
)
from data.globs import matcher

HASHING_THREADS = 4
CHUNK_BYTES = 8 * 2**20


@dataclass(frozen=True, slots=True)
class Listed:
    """A file as its place lists it; `sha256` is empty where the place does not know it."""

    path: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Origin:
    """What a place knows of a file beside its content; empty where it does not."""

    repository: str = ""
    revision: str = ""
    licences: tuple[str, ...] = ()


class Place(Protocol):
    """What every place offers; picklable, and without an open connection."""

    @property
    def name(self) -> str:
        """What a person calls the place."""

    @property
    def is_local(self) -> bool:
        """Tell whether `local` is free."""

    def where(self, path: str) -> str:
        """What a person calls a file."""

    def listed(self, exclude: tuple[str, ...]) -> Iterable[Listed]:
        """Yield the files in any order; folders excluded as a whole may be left out."""

    def open(self, path: str) -> IO[bytes]:
        """Open a file for reading anywhere in it."""

    def local(self, path: str, directory: Path) -> Path:
        """Return a file as a local path, which is a copy in `directory` if it is elsewhere."""


class Readable(Protocol):
    """What a library gives to read a file elsewhere."""

    def read(self, size: int, /) -> Buffer:
        """Read at most so many bytes."""

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go somewhere else."""

    def tell(self) -> int:
        """Say where it is."""


class RemoteFile(io.RawIOBase):
    """A file elsewhere as an ordinary one, whose failures are named by `errors`."""

    def __init__(
        self, opened: Readable, errors: Callable[[], AbstractContextManager[None]]
    ) -> None:
        super().__init__()
        self._opened = opened
        self._errors = errors

    def readable(self) -> bool:
        """True."""
        return True

    def seekable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: Any, /) -> int:
        """Read into a buffer."""
        with self._errors(), memoryview(self._opened.read(len(buffer))) as found:
            buffer[: len(found)] = found
            return len(found)

    def seek(self, offset: int, whence: int = 0, /) -> int:
        """Go somewhere else."""
        self._opened.seek(offset, whence)
        return self.tell()

    def tell(self) -> int:
        """Say where it is."""
        return self._opened.tell()


def remote_file(opened: Readable, errors: Callable[[], AbstractContextManager[None]]) -> IO[bytes]:
    """Return a file elsewhere, buffered."""
    return io.BufferedReader(RemoteFile(opened, errors), CHUNK_BYTES)


@dataclass(frozen=True, slots=True)
class LocalPlace:
    """A directory, or the one file in it that the path names."""

    root: Path
    only: str = ""

    @property
    def name(self) -> str:
        """The path that was asked for."""
        return str(self.root / self.only)

    @property
    def is_local(self) -> bool:
        """True."""
        return True

    def where(self, path: str) -> str:
        """The path of the file."""
        return str(self.root / path)

    def listed(self, exclude: tuple[str, ...]) -> Iterable[Listed]:
        """Yield the regular files of the root, also those that links inside it lead to."""
        inside = self.root.resolve()
        paths = [self.only] if self.only else walk(self.root, exclude)
        found = (path for path in paths if _is_inside(self.root / path, inside))
        return (Listed(path, 0, "") for path in found)

    def open(self, path: str) -> IO[bytes]:
        """Open a file."""
        return (self.root / path).open("rb")

    def local(self, path: str, directory: Path) -> Path:
        """Return the file's own path."""
        del directory
        return self.root / path

    def origin(self, path: str) -> Origin:
        """Nothing: it is a file among others."""
        del path
        return Origin()


def local_place(path: Path) -> LocalPlace:
    """Return the place of a directory or of a single file.

    Raises: MissingSourceError.
    """
    if path.is_dir():
        return LocalPlace(path)
    if not path.is_file():
        raise MissingSourceError(path)
    return LocalPlace(path.parent, path.name)


def pin(place: Place, include: tuple[str, ...], exclude: tuple[str, ...]) -> tuple[SourceFile, ...]:
    """List the files that count, sorted by path, each with its digest.

    Raises: EmptySourceError, UnnameableFileError, and what the place raises.
    """
    included, excluded = matcher(include), matcher(exclude)
    listed = [f for f in place.listed(exclude) if included(f.path) and not excluded(f.path)]
    if not listed:
        raise EmptySourceError(place.name, include, exclude)
    for file in listed:
        _refuse_unnameable(file.path)
    with ThreadPoolExecutor(HASHING_THREADS) as threads:
        return tuple(
            threads.map(lambda file: _pinned(place, file), sorted(listed, key=lambda f: f.path))
        )


def pins_sha256(revision: str, files: Iterable[SourceFile]) -> str:
    """Digest revision, paths and contents: `sha256sum` of `sha256sum`'s own listing of the files.

    A revision stands in a line of its own before them.
    """
    lines = [f"revision {revision}\n"] if revision else []
    lines += [f"{file.sha256}  {file.path}\n" for file in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


@contextmanager
def verified(place: Place, file: SourceFile) -> Iterator[Path]:
    """Give a pinned file as a local path, for as long as the context lasts.

    Raises: ChangedSourceError if its content is not the pinned one.
    """
    if place.is_local:
        yield check_digest(place.local(file.path, Path()), file, place.where(file.path))
    else:
        with tempfile.TemporaryDirectory(prefix="assay-source-") as directory:
            copied = place.local(file.path, Path(directory))
            yield check_digest(copied, file, place.where(file.path))


def check_digest(path: Path, file: SourceFile, where: str) -> Path:
    """Return the path of a file that has the pinned digest.

    Raises: ChangedSourceError.
    """
    found = file_sha256(path) if path.is_file() else hashlib.sha256().hexdigest()
    if found != file.sha256:
        raise ChangedSourceError(where, found, file.sha256)
    return path


def walk(root: Path, exclude: tuple[str, ...]) -> Iterator[str]:
    """Yield every name that is no directory, as a POSIX path relative to the root.

    Not descending into directories excluded as a whole saves most of the walk of an installation.
    A directory that cannot be read is an error, not an absence.
    """

    def refuse(error: OSError) -> None:
        raise error

    whole = matcher(pattern.removesuffix("/**") for pattern in exclude if pattern.endswith("/**"))
    for directory, subdirectories, names in os.walk(root, onerror=refuse):
        relative = Path(directory).relative_to(root)
        subdirectories[:] = [n for n in subdirectories if not whole((relative / n).as_posix())]
        yield from ((relative / name).as_posix() for name in names)


def _is_inside(path: Path, root: Path) -> bool:
    """Tell whether this is a regular file of the root, also after following links."""
    target = path.resolve()
    return target.is_file() and target.is_relative_to(root)


def _refuse_unnameable(path: str) -> None:
    if not path.isprintable() and any("\ud800" <= character <= "\udfff" for character in path):
        raise UnnameableFileError(path, "Unicode")
    # A listing is what a server says, and files of it are copied under these names.
    if path.startswith("/") or "\0" in path or ".." in path.split("/"):
        raise UnnameableFileError(path, "a path within the source")


def _pinned(place: Place, file: Listed) -> SourceFile:
    if file.sha256:
        return SourceFile(file.path, file.num_bytes, file.sha256)
    digest, num_bytes = hashlib.sha256(), 0
    with place.open(file.path) as stream:
        while chunk := stream.read(CHUNK_BYTES):
            digest.update(chunk)
            num_bytes += len(chunk)
    return SourceFile(file.path, num_bytes, digest.hexdigest())
