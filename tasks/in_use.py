"""When an artefact or a unit was last used: the time of its directory, which no content has.

Whoever uses one says so under a lock that collecting garbage holds alone while it takes things
away: what was just used is then young, and what is young stays.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path

LOCK = "gc.lock"


def mark_used(root: Path, directory: Path) -> None:
    """Make a directory of a store young, if it is there and the store can be written."""
    with contextlib.suppress(OSError), sharing(root):
        os.utime(directory)


@contextlib.contextmanager
def sharing(root: Path) -> Iterator[None]:
    """Keep everything of a store where it is for a moment."""
    with _locked(root, fcntl.LOCK_SH):
        yield


@contextlib.contextmanager
def alone(root: Path) -> Iterator[None]:
    """Have nobody begin to use anything of a store for a moment."""
    with _locked(root, fcntl.LOCK_EX):
        yield


@contextlib.contextmanager
def _locked(root: Path, kind: int) -> Iterator[None]:
    with (root / LOCK).open("a") as file:
        fcntl.flock(file, kind)
        yield
