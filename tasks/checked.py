"""Directories of which this process has seen every byte, so that it need not look again.

A file counts as unchanged while its size, its time of writing and its inode are the same. That
is for the length of one process; whoever wants to know for certain (`assay verify`) hashes.
"""

import time
from pathlib import Path
from typing import TypeAlias

from tasks.directories import list_files

Stamp: TypeAlias = tuple[tuple[str, int, int, int], ...]

CLOCK_SECONDS = 0.02
"Two writes within a tick of the kernel's clock have the same time; no tick is longer."

_CHECKED: dict[Path, Stamp] = {}


def stamp(directory: Path) -> Stamp:
    """Return what changes when a file of the directory is written, added or removed."""
    found = ((name, (directory / name).stat()) for name in list_files(directory))
    return tuple((name, each.st_size, each.st_mtime_ns, each.st_ino) for name, each in found)


def lasting_stamp(directory: Path) -> Stamp:
    """Return the stamp at a time when any later write would change it."""
    found = stamp(directory)
    newest = max((mtime_ns for _, _, mtime_ns, _ in found), default=0)
    wait_seconds = newest / 1e9 + CLOCK_SECONDS - time.time()
    # A file system's clock may be ahead of this one: there is no waiting for that.
    time.sleep(min(max(wait_seconds, 0), CLOCK_SECONDS))
    return found


def is_checked(directory: Path) -> bool:
    """Return whether every byte was seen, and nothing has changed since."""
    known = _CHECKED.get(directory)
    return known is not None and known == stamp(directory)


def remember_checked(directory: Path, seen: Stamp) -> None:
    """Note that every byte was seen; `seen` is the lasting stamp from before it was."""
    _CHECKED[directory] = seen
