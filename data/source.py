"""Which files a corpus is made of: a listing in a fixed order, with the digest of every file.

The listing is the contract: a file that no longer has its listed digest is an error later on.
"""

import hashlib
import os
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from data.errors import (
    ChangedSourceError,
    EmptySourceError,
    MissingSourceError,
    UnnameableFileError,
    WrongSettingError,
)
from data.globs import matcher


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSettings:
    """Where source files are, which of them count, and under which licence."""

    kind: Literal["python-stdlib", "directory"]
    path: str
    """Empty for `python-stdlib`, whose place the running interpreter knows."""
    include: tuple[str, ...]
    exclude: tuple[str, ...]
    licence: str

    def __post_init__(self) -> None:
        """Refuse settings that name no place, no file or no licence.

        Raises: WrongSettingError.
        """
        if self.kind not in ("python-stdlib", "directory"):
            raise WrongSettingError("source.kind", self.kind, "'python-stdlib' or 'directory'")
        if self.kind == "python-stdlib" and self.path:
            raise WrongSettingError("source.path", self.path, "'' for python-stdlib")
        if self.kind == "directory" and not self.path:
            raise WrongSettingError("source.path", self.path, "the directory to read")
        if not self.include or "" in self.include:
            raise WrongSettingError("source.include", self.include, "at least one path pattern")
        if "" in self.exclude:
            raise WrongSettingError("source.exclude", self.exclude, "path patterns, none empty")
        if not self.licence:
            raise WrongSettingError("source.licence", self.licence, "the licence of the files")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One listed file; `path` is POSIX and relative to the listing's root."""

    path: str
    num_bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class SourceListing:
    """Every file of a corpus, sorted by path."""

    root: Path
    files: tuple[SourceFile, ...]
    licence: str

    @property
    def sha256(self) -> str:
        """Digest of paths and contents, as `sha256sum` of `sha256sum`'s own listing."""
        lines = "".join(f"{file.sha256}  {file.path}\n" for file in self.files)
        return hashlib.sha256(lines.encode()).hexdigest()

    def read(self, file: SourceFile) -> bytes:
        """Read a listed file.

        Raises: ChangedSourceError if its content is not the listed one.
        """
        path = self.root / file.path
        content = path.read_bytes() if path.is_file() else b""
        found = hashlib.sha256(content).hexdigest()
        if found != file.sha256:
            raise ChangedSourceError(path, found, file.sha256)
        return content


def list_files(settings: SourceSettings) -> SourceListing:
    """List the files of a source with their digests, sorted by path.

    Raises: MissingSourceError, EmptySourceError, UnnameableFileError.
    """
    stdlib = settings.kind == "python-stdlib"
    root = Path(sysconfig.get_path("stdlib") if stdlib else settings.path)
    if not root.is_dir():
        raise MissingSourceError(root)
    inside = root.resolve()
    paths = sorted(path for path in _matching(root, settings) if _is_inside(root / path, inside))
    if not paths:
        raise EmptySourceError(root, settings.include, settings.exclude)
    return SourceListing(root, tuple(_listed(root, path) for path in paths), settings.licence)


def _matching(root: Path, settings: SourceSettings) -> Iterator[str]:
    included, excluded = matcher(settings.include), matcher(settings.exclude)
    return (p for p in _walk(root, settings.exclude) if included(p) and not excluded(p))


def _is_inside(path: Path, root: Path) -> bool:
    """Tell whether this is a regular file of the root, also after following links."""
    target = path.resolve()
    return target.is_file() and target.is_relative_to(root)


def _walk(root: Path, exclude: tuple[str, ...]) -> Iterator[str]:
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


def _listed(root: Path, path: str) -> SourceFile:
    if not path.isprintable() and any("\ud800" <= character <= "\udfff" for character in path):
        raise UnnameableFileError(path)
    with (root / path).open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
        return SourceFile(path, file.tell(), digest)
