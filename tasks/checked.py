"""Directories of which this process has seen every byte, so that it need not look again.

A file counts as unchanged while its size, its time of writing and its inode are the same. That
is for the length of one process; whoever wants to know for certain (`assay verify`) hashes.
"""

from pathlib import Path
from typing import TypeAlias

from tasks.directories import list_files

Stamp: TypeAlias = tuple[tuple[str, int, int, int], ...]

_CHECKED: dict[Path, Stamp] = {}


def stamp(directory: Path) -> Stamp:
    """Return what changes when a file of the directory is written, added or removed."""
    found = ((name, (directory / name).stat()) for name in list_files(directory))
    return tuple((name, each.st_size, each.st_mtime_ns, each.st_ino) for name, each in found)


def is_checked(directory: Path) -> bool:
    """Return whether every byte was seen, and nothing has changed since."""
    known = _CHECKED.get(directory)
    return known is not None and known == stamp(directory)


def remember_checked(directory: Path, seen: Stamp) -> None:
    """Note that every byte was seen; `seen` is the stamp from before it was."""
    _CHECKED[directory] = seen
